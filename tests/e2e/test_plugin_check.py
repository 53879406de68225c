"""`outrider plugin check`: Outrider's own plugins pass, and each defect is found by its check."""

import os
import re
from pathlib import Path

import pytest
from conftest import REFERENCE, ROOT

PLUGINS = Path(os.environ.get("OUTRIDER_TEST_PLUGINS", ROOT / "build/tests/host/plugins/built"))
REQUEST, FILE, PLUGIN = 2, 3, 5

# defect, the check that finds it, what it says
DEFECTS = [
    ("crash in convert", "determinism", "signal 11 (Segmentation fault)"),
    ("exit in convert", "determinism", "the process ended: exit status 0"),
    ("hang in convert", "determinism", "killed because nothing happened for 2 s"),
    ("leaks the dtype", "all_or_nothing", "changes the default dtype"),
    ("own seed", "determinism", "two conversions with one seed differ"),
    ("sees the future", "causality", "feel other tokens after it"),
    ("reads its target", "causality", "the prediction of token 5 reads that token or a later one"),
    ("sees its neighbour", "causality", "one sequence feels the tokens of another"),
    ("counts padding", "padding", "padding on the right changes the loss"),
    ("learns the opposite", "learning", "in 30 steps on one batch"),
    ("nan", "gradients", "total is nan"),
    ("forgets a parameter", "gradients", "1 trained tensors are no registered parameters"),
    ("float32", "bfloat16", "layer.weight is float32"),
    ("grows", "restore", "after save and restore"),
    ("is one row late", "train_serve", "positions: the draft says in decoding what it says in training 1 row before"),
    ("is larger in decoding", "train_serve", "norms: already behind the first row"),
    ("remembers what was rejected", "rollback", "after 1 rounds of rejected proposals"),
    ("draws from another distribution", "sampling", "tokens are not drawn from q: likely ones come more often"),
    ("says another distribution", "sampling", "tokens are not drawn from q: token 1 came 97 times, expected 43"),
    ("proposes otherwise again", "draft_order", "a second proposal differs from the first"),
    ("keeps the first", "keep", "keep({2, 0}) leaves other sequences, or another order"),
    ("crashes in commit", "drafting", "signal 11 (Segmentation fault)"),
]


@pytest.fixture(scope="module")
def bundled(program):
    return program.parent.parent / "lib/outrider/plugins"


@pytest.fixture
def check(outrider):
    """check(file, *options, status=0): the results, by check name."""

    def run(file, *options, status=0, **environment):
        done = outrider("plugin", "check", file, "--json", *options, status=status,
                        OMP_NUM_THREADS="1", **environment)
        report = done.json()
        assert report["failed"] == sum(r["status"] == "failed" for r in report["results"])
        assert (report["failed"] > 0) == (status != 0)
        return {r["check"]: r for r in report["results"]}

    return run


@pytest.mark.parametrize("name", ["medusa", "eagle"])
def test_our_own_plugins_pass(check, bundled, name):
    results = check(bundled / f"{name}.outrider.so")
    skipped = {n: r["detail"] for n, r in results.items() if r["status"] == "skipped"}
    assert skipped.pop("cuda", "no CUDA device") == "no CUDA device" and not skipped
    assert "gradients of" in results["operators"]["detail"]
    assert "conversions that failed half-way left no trace" in results["all_or_nothing"]["detail"]


def test_a_loss_that_draws_is_compared_with_one_seed(check, bundled):
    results = check(bundled / "eagle.outrider.so", "--set", "eagle_mix_hidden_states=true", "--only", "causality")
    assert results["causality"]["status"] == "passed"


def test_a_plugin_without_a_defect_passes(check):
    results = check(PLUGINS / "defects.outrider.so")
    assert {n for n, r in results.items() if r["status"] == "skipped"} <= {"presets", "formats", "cuda"}
    assert results["operators"]["subject"] == "operator outrider_defects::square"


def test_operators_of_core_are_checked_once_and_apart(outrider, bundled):
    done = outrider("plugin", "check", bundled / "medusa.outrider.so", "--only", "core_operators", "--json",
                    OMP_NUM_THREADS="1")
    results = [r for r in done.json()["results"] if r["check"] == "core_operators"]
    assert [r["subject"] for r in results] == [
        "operator outrider::causal_attention", "operator outrider::prefix_diagonal_attention",
        "operator outrider::label_cross_entropy", "operator outrider::teacher_cross_entropy",
        "operator outrider::rms_norm", "operator outrider::rotary", "operator outrider::swiglu"]
    for result in results:
        assert result["status"] == "passed" and "gradients of" in result["detail"], result
    assert "operators" not in {r["check"] for r in done.json()["results"]}


@pytest.mark.parametrize("defect, name, text", DEFECTS)
def test_a_defect_is_found(check, defect, name, text):
    results = check(PLUGINS / "defects.outrider.so", "--set", f"defect={defect}", "--only", name,
                    "--timeout", 2 if "hang" in defect else 300, status=PLUGIN)
    assert results["load"]["status"] == "passed"
    assert results[name]["status"] == "failed" and text in results[name]["detail"]


def test_the_suite_goes_on_after_a_crash(check):
    results = check(PLUGINS / "defects.outrider.so", "--set", "defect=crash in convert", status=PLUGIN)
    assert results["schema"]["status"] == "passed" and results["operators"]["status"] == "passed"
    crashed = [n for n, r in results.items() if "signal 11" in r["detail"]]
    assert {"determinism", "freeze", "gradients", "causality", "restore", "resume"} <= set(crashed)


@pytest.mark.parametrize("variable, name, text", [
    ("OUTRIDER_WRONG_GRADIENT", "operators", "the gradient of argument 0"),
    ("OUTRIDER_LEAKS_AT_LOAD", "load", "registering changes the random generator"),
    ("OUTRIDER_CRASHES_AT_LOAD", "load", "signal 6 (Aborted)")])
def test_a_defect_outside_the_draft_is_found(check, variable, name, text):
    results = check(PLUGINS / "defects.outrider.so", "--only", "operators", status=PLUGIN,
                    **{variable: "1"})
    assert text in results[name]["detail"]


def test_a_plugin_that_no_gate_lets_through_is_not_run(check, tmp_path):
    file = tmp_path / "broken.outrider.so"
    file.write_bytes((PLUGINS / "defects.outrider.so").read_bytes()[:5000])
    results = check(file, status=PLUGIN, OUTRIDER_CRASHES_AT_LOAD="1")
    assert list(results) == ["gates"]


def test_a_draft_class_for_another_mode_is_checked_on_its_base(check, edited):
    base = edited(REFERENCE / "base_llama/base", "config.json", lambda c: c.update(
        architectures=["GegluForCausalLM"], hidden_act="gelu"))
    results = check(PLUGINS / "family.outrider.so", "--base", base, "--mode", "eagle",
                    "--only", "learning", "--only", "restore")
    assert results["load"]["detail"] == "registers GegluForCausalLM, eagle/GegluForCausalLM"
    assert results["learning"]["status"] == results["restore"]["status"] == "passed"


def test_formats_are_tried_with_every_preset(check, bundled):
    results = check(bundled / "eagle.outrider.so", "--only", "formats")
    assert results["formats"]["detail"].startswith("eagle, hf, sglang, vllm give back every tensor of ")
    assert int(re.search(r"of (\d+) configs", results["formats"]["detail"]).group(1)) >= 3


@pytest.mark.parametrize("options, status, text", [
    (["--set", "no_such_key=1"], REQUEST, "/no_such_key: unknown key"),
    (["--set", "medusa_num_heads=many"], REQUEST, '/medusa_num_heads: got "many"'),
    (["--mode", "medusae"], REQUEST, "unknown mode 'medusae': did you mean 'medusa'?"),
    (["--base", "{base}"], 4, "'MixtralForCausalLM' is not known")])
def test_a_request_that_no_check_can_answer_is_refused_once(outrider, bundled, edited, options, status, text):
    base = edited(REFERENCE / "base_llama/base", "config.json",
                  lambda c: c.update(architectures=["MixtralForCausalLM"]))
    options = [str(base) if o == "{base}" else o for o in options]
    done = outrider("plugin", "check", bundled / "medusa.outrider.so", *options, status=status)
    assert text in done.stderr and done.stderr.count("error: ") == 1
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["passed", "gates"], ["passed", "load"]]
    json = outrider("plugin", "check", bundled / "medusa.outrider.so", "--json", *options, status=status)
    assert json.stdout == "" and json.stderr == done.stderr


def test_a_config_that_a_conversion_refuses_is_refused_once(outrider, bundled):
    done = outrider("plugin", "check", bundled / "eagle.outrider.so", "--set",
                    "eagle_architecture_config.eagle_aux_hidden_state_layer_ids=[0,99]", status=REQUEST)
    assert "eagle reads the layers [0, 99]" in done.stderr and len(done.stdout.splitlines()) == 2


def test_people_get_a_line_for_each_check_and_a_summary(outrider):
    done = outrider("plugin", "check", PLUGINS / "defects.outrider.so", "--set", "defect=nan",
                    "--only", "schema", "--only", "gradients", status=PLUGIN)
    assert "passed   schema          mode defects: 1 fields" in done.stdout
    assert "failed   gradients       mode defects: total is nan" in done.stdout
    assert done.stdout.endswith("3 passed, 1 failed, 0 skipped\n")
    assert "fails 1 of 4 checks: gradients" in done.stderr


@pytest.mark.parametrize("options, status, text", [
    (["--only", "causalty"], REQUEST, "did you mean 'causality'?"),
    (["--base", "nowhere"], FILE, "nowhere: no such folder"),
    (["--plugin-dir", ""], REQUEST, "no absolute path"),
    (["--set", "defect"], REQUEST, "defect")])
def test_wrong_options_are_refused(outrider, options, status, text):
    done = outrider("plugin", "check", PLUGINS / "defects.outrider.so", *options, status=status)
    assert text in done.stderr
