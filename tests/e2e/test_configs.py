"""Configs, held against ModelOpt's classes live, and `outrider mode check`."""

import json
import math
import os
import subprocess

import pytest
from config_inputs import EAGLE_FIELDS, FIELDS, MEDUSA_FIELDS, classes_alone, ropes, several_fields
from conftest import REFERENCE, ROOT

PEERS = ROOT / ".venv-peers/bin/python"
PEERS_042 = ROOT / ".venv-peers-0.42/bin/python"
BASE = REFERENCE / "base_llama/base"
MODES = ("eagle", "medusa")
CASES = [*classes_alone(), *ropes()]
ALONE = len(classes_alone())
EAGLE_EXTENSIONS = {"eagle_loss"}
MEDUSA_EXTENSIONS = {"medusa_freeze_base_model", "medusa_heads_coefficient", "medusa_decay_coefficient"}
EXTENSIONS = EAGLE_EXTENSIONS | MEDUSA_EXTENSIONS

# What ModelOpt's classes take and Outrider's do not, in every field of the type, and nothing else.
DIFFERENCES = {
    int: ("sizes and counts are 64-bit integers", lambda value: not -2**63 <= value < 2**63),
    float: ("JSON, which records configs, has no such number", lambda value: not math.isfinite(value))}


def text(value):
    """Equal for equal values of equal types."""
    return json.dumps(value, sort_keys=True)


@pytest.fixture(scope="module")
def schemas(outrider):
    return {mode: outrider("mode", "show", mode, "--schema").json() for mode in MODES}


@pytest.fixture(scope="module")
def theirs(schemas):
    """What config_peer.py prints about CASES."""
    assert PEERS.exists(), "ModelOpt is missing: run scripts/setup.sh --peers"
    done = subprocess.run([PEERS, ROOT / "tests/e2e/config_peer.py"], capture_output=True, text=True,
                          input=json.dumps({"cases": CASES, "schemas": schemas}), check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def checked(program, tmp_path_factory):
    """checked(cases, *options): the verdict of `mode check` on each [mode, config], in order."""
    file = tmp_path_factory.mktemp("configs") / "configs.json"

    def run(cases, *options):
        verdicts = {}
        for mode in MODES:
            numbers = [i for i, case in enumerate(cases) if case[0] == mode]
            file.write_text(json.dumps([cases[i][1] for i in numbers]))
            done = subprocess.run(
                [program, "mode", "check", mode, "--config", file, "--json", *options],
                capture_output=True, text=True, timeout=1800, check=False)
            assert done.returncode in (0, 2), done.stderr
            found = json.loads(done.stdout)
            refused = sum(not verdict["valid"] for verdict in found)
            assert (f"{refused} of {len(found)} configs refused" in done.stderr) == bool(refused)
            assert [v["source"] for v in found] == [f"{file}[{i}]" for i in range(len(numbers))]
            verdicts |= dict(zip(numbers, found, strict=True))
        return [verdicts[i] for i in range(len(cases))]

    return run


@pytest.fixture(scope="module")
def ours(checked):
    return checked(CASES)


def difference(mode, resolved):
    """The entry of DIFFERENCES that a config which ModelOpt resolved to this falls under."""
    types = EAGLE_FIELDS if mode == "eagle" else MEDUSA_FIELDS
    for name, kind in types.items():
        value = resolved[name]
        if kind in DIFFERENCES and value is not None and DIFFERENCES[kind][1](value):
            return name
    return None


# --- the classes -------------------------------------------------------------------------------


def test_there_are_hundreds_of_configs_of_both_verdicts(theirs):
    for mode in MODES:
        accepted = [r is not None for (m, _), r in zip(CASES, theirs["resolved"], strict=True) if m == mode]
        assert len(accepted) > 200 and min(sum(accepted), len(accepted) - sum(accepted)) > 50


def test_configs_come_to_what_modelopt_makes_of_them(ours, theirs):
    differing, wrong = set(), []
    for case, found, expected in list(zip(CASES, ours, theirs["resolved"], strict=True))[:ALONE]:
        config = {k: v for k, v in found.get("config", {}).items() if k not in EXTENSIONS} or None
        field = expected and difference(case[0], expected)
        if field:
            differing.add(field)
            expected = None
        if text(config) != text(expected):
            wrong.append((case, config, expected))
    assert not wrong, wrong[:5]
    # No kind of difference is only claimed: each shows in every field of its type.
    types = EAGLE_FIELDS | MEDUSA_FIELDS
    assert differing == {name for name, kind in types.items() if kind in DIFFERENCES}


def test_a_refusal_names_the_field_the_value_and_what_is_accepted(ours):
    named = unknown = 0
    for (mode, config), verdict in zip(CASES, ours, strict=True):
        if verdict["valid"] or not isinstance(config, dict) or not config:
            continue
        error = verdict["error"]
        assert error["code"] == "InvalidConfig" and "--schema" in error["hint"]
        assert error["message"].startswith(f"{mode.capitalize()}Config is not valid:")
        assert len(error["message"]) < 3000
        [name, *others] = config
        if not others and (mode, name) in FIELDS:
            assert f"/{name}: got " in error["message"] and ", expected " in error["message"]
            named += 1
        elif not others:
            assert "unknown key; " in error["message"]
            unknown += 1
    assert named > 1000 and unknown > 100


def test_near_misses_are_told_the_right_name(ours):
    for (_, config), verdict in zip(CASES, ours, strict=True):
        if config == {"eagle_ttt_step": 1}:
            assert "did you mean 'eagle_ttt_steps'?" in verdict["error"]["message"]
            return
    raise AssertionError("the near miss is not among the cases")


def test_the_rule_about_ropes_is_modelopts(checked, theirs):
    """Conversion applies it: the numerics of 0.42 have no such rule."""
    rule, expected = "eagle_export_rope_scaling replaces the rope scaling at export", theirs["resolved"]
    refused = [rule in verdict.get("error", {}).get("message", "")
               for verdict in checked(CASES[ALONE:], "--base", BASE)]
    assert refused == [resolved is None for resolved in expected[ALONE:]]
    assert sum(refused) > 8
    old = checked(CASES[ALONE:], "--base", BASE, "--reference-numerics", "0.42")
    assert not any(rule in verdict.get("error", {}).get("message", "") for verdict in old)


# --- JSON Schemas and presets ------------------------------------------------------------------


def test_the_json_schemas_accept_what_modelopts_accept(theirs, schemas):
    pairs = zip(CASES, theirs["accepted_by_our_schema"], theirs["accepted_by_their_schema"], strict=True)
    assert [case for case, ours, theirs in pairs if ours != theirs] == []
    typed = zip(CASES, theirs["accepted_by_our_schema"], theirs["strict"], strict=True)
    assert [case for case, accepted, strict in typed if strict and not accepted] == []
    assert set(schemas["eagle"]["properties"]) == set(EAGLE_FIELDS) | EAGLE_EXTENSIONS
    assert set(schemas["medusa"]["properties"]) == set(MEDUSA_FIELDS) | MEDUSA_EXTENSIONS


def eagle_1_of_modelopt():
    """The config of EAGLE1_DEFAULT_CFG, of the last release that has it."""
    program = ("import json, modelopt.torch.speculative as mtsp; "
               "print(json.dumps(mtsp.EAGLE1_DEFAULT_CFG['config']))")
    return json.loads(subprocess.run([PEERS_042, "-c", program], capture_output=True, text=True, check=True).stdout)


def test_presets_are_modelopts_key_by_key(outrider, theirs):
    presets = {preset["name"]: preset["overrides"]
               for preset in outrider("mode", "show", "eagle", "--presets", "--json").json()}
    live = {name: preset for name, preset in theirs["presets"].items() if preset["algorithm"] == "eagle"}
    assert set(live) == {"EAGLE3_DEFAULT_CFG", "EAGLE_MTP_DEFAULT_CFG"}
    for name, preset in live.items():
        assert text(presets[name]) == text(preset["config"])
    # 0.47 has no EAGLE-1 any more.
    assert set(presets) == {*live, "eagle3", "EAGLE1_DEFAULT_CFG"}
    # Its rope cannot be exported with 0.47's default.
    eagle_1 = {**eagle_1_of_modelopt(), "eagle_export_rope_scaling": {}}
    assert text(presets["EAGLE1_DEFAULT_CFG"]) == text(eagle_1)


# --- what conversion adds ----------------------------------------------------------------------

# Accepted by both classes, refused by conversion; docs/modes has the same table.
REFUSED = [
    ("eagle", {"eagle_decoder_type": "kimik2"}, "eagle_decoder_type=kimik2: there is no draft layer"),
    ("eagle", {"eagle_decoder_type": "gpt"}, "/eagle_decoder_type: got 'gpt', expected 'llama'"),
    ("eagle", {"eagle_base_lora": True}, "eagle_base_lora=true: the base gets no low-rank adapters"),
    ("eagle", {"eagle_hidden_state_distillation": 1}, "eagle_hidden_state_distillation=true"),
    ("eagle", {"eagle_offline": True, "eagle_freeze_base_model": False}, "eagle_freeze_base_model=false"),
    ("eagle", {"eagle_ttt_steps": 0}, "/eagle_ttt_steps: got 0, expected 1 to 64"),
    ("eagle", {"eagle_ttt_steps": 65, "eagle_decoder_type": ""},
     "/eagle_decoder_type: got '', expected 'llama'\n  /eagle_ttt_steps: got 65, expected 1 to 64"),
    ("medusa", {"medusa_num_heads": -1, "medusa_num_layers": 65},
     "/medusa_num_heads: got -1, expected 0 to 64\n  /medusa_num_layers: got 65, expected 0 to 64")]


def test_conversion_refuses_by_a_closed_table(checked):
    alone, with_base = (checked([case[:2] for case in REFUSED], *options)
                        for options in ((), ("--base", BASE)))
    assert all(verdict["valid"] for verdict in alone)
    for (_, _, message), verdict in zip(REFUSED, with_base, strict=True):
        assert message in verdict["error"]["message"]
    others = [(mode, {**config, "eagle_base_lora": False, "eagle_hidden_state_distillation": "off",
                      "eagle_freeze_base_model": True})
              for mode, config in several_fields(odd=False)]
    assert len(others) == 300
    for verdict in checked(others, "--base", BASE):
        assert verdict["valid"], verdict


def test_a_base_completes_the_config_and_brings_notes(outrider, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"eagle_report_acc": false, "eagle_architecture_config": {"num_hidden_layer": 2}}')
    [verdict] = outrider("mode", "check", "eagle", "--config", file, "--base", BASE, "--json").json()
    base = json.loads((BASE / "config.json").read_text())
    assert verdict["config"]["eagle_architecture_config"]["hidden_size"] == base["hidden_size"]
    assert verdict["metadata"]["aux_layer_ids"] and verdict["metadata"]["reference_numerics"] is None
    assert verdict["notes"] == [
        "eagle_architecture_config.num_hidden_layer is not read; did you mean 'num_hidden_layers'?",
        "eagle_report_acc=false has no effect: accuracies are always reported"]


def test_a_draft_is_checked_without_its_memory(outrider):
    settings = ("--set", "eagle_architecture_config.intermediate_size=16777216",
                "--set", "eagle_architecture_config.num_hidden_layers=64")
    assert outrider("mode", "check", "eagle", *settings, "--base", BASE).stdout.startswith("eagle: valid\n")


# --- the verb ----------------------------------------------------------------------------------


def test_verdicts_for_people(outrider, tmp_path):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"eagle_ttt_steps": "4"}')
    bad.write_text('[{}, {"eagle_ttt_stepz": 4}]')
    done = outrider("mode", "check", "eagle", "--config", good, "--config", bad,
                    "--set", "eagle_loss_decay_factor=1", status=2)
    assert done.stdout == f"""\
{good}: valid
  eagle_loss_decay_factor = 1.0
  eagle_ttt_steps = 4
{bad}[0]: valid
  eagle_loss_decay_factor = 1.0
{bad}[1]: refused
  EagleConfig is not valid:
  /eagle_ttt_stepz: unknown key; did you mean 'eagle_ttt_steps'?
  hint: `outrider mode show NAME --schema` prints every key with its type, range and default
"""
    assert done.stderr == "error: 1 of 3 configs refused\n"


def test_precedence_is_that_of_convert(outrider, tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"eagle_reuse_base_decoder": false, "eagle_ttt_steps": 5}')
    [verdict] = outrider("mode", "check", "eagle", "--preset", "EAGLE_MTP_DEFAULT_CFG", "--config", file,
                         "--set", "eagle_ttt_steps=2", "--json").json()
    assert verdict["config"]["eagle_ttt_steps"] == 2                # --set
    assert verdict["config"]["eagle_reuse_base_decoder"] is False   # --config
    assert verdict["config"]["eagle_architecture_config"]["use_mtp_layernorm"] is True  # --preset
    assert verdict["config"]["eagle_report_acc"] is True            # default


@pytest.mark.parametrize("arguments, status, message", [
    (["eagel"], 2, "did you mean 'eagle'?"),
    (["eagle", "--preset", "eagle4"], 2, "has no preset 'eagle4'"),
    (["eagle", "--set", "x"], 2, "not of the form key=value"),
    (["eagle", "--config", "no.json"], 3, "no.json' does not exist"),
    (["eagle", "--base", "no-folder"], 3, "no-folder"),
    (["eagle", "--reference-numerics", "0.47"], 2, "means nothing without --base"),
    (["eagle", "--reference-numerics", "0.46", "--base", BASE], 2, "accepted are 0.47 and 0.42")])
def test_requests_that_make_no_sense(outrider, arguments, status, message):
    done = outrider("mode", "check", *arguments, status=status)
    assert message in done.stdout + done.stderr
