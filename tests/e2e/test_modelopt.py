"""Checkpoints of ModelOpt's that Outrider restores, and the other way round."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from compare import differences
from conftest import REFERENCE, ROOT
from live_runs import PEERS
from safetensors.numpy import load_file
from test_reference import expectation

SAVED = ROOT / "tests/fixtures/modelopt"  # what ModelOpt's save_pretrained wrote
NAMES = sorted(path.name for path in SAVED.iterdir())


def case(name):
    return json.loads((REFERENCE / name / "case.json").read_text())


def release_of(name):
    return case(name)["versions"]["modelopt"].rsplit(".", 1)[0]


def inputs(name):
    return REFERENCE / name / "inputs.safetensors"


def torch_load(path):
    import torch

    return torch.load(path, weights_only=True)


@pytest.fixture
def copied(tmp_path):
    """copied(name, change): ModelOpt's folder with its state changed by `change`, if given."""
    import torch

    def copy(name, change=None):
        folder = tmp_path / "copied"
        shutil.copytree(SAVED / name, folder)
        if change:
            state = torch_load(folder / "modelopt_state.pth")
            change(state)
            torch.save(state, folder / "modelopt_state.pth")
        return folder

    return copy


@pytest.fixture(scope="module")
def as_modelopt(convert, tmp_path_factory):
    """as_modelopt(case, numerics, **config): its base, converted by Outrider as ModelOpt did."""

    def run(name, numerics, **changes):
        config = tmp_path_factory.mktemp("config") / "config.json"
        config.write_text(json.dumps(case(name)["config_passed"] | changes))
        options = ("--reference-numerics", numerics) if numerics else ()
        return convert(REFERENCE / name / "base", "--mode", case(name)["mode"], "--config", config,
                       "--weights", REFERENCE / name / "converted.safetensors", *options)

    return run


# --- from ModelOpt -----------------------------------------------------------------------------


def test_the_checkpoints_are_there():
    assert NAMES == ["eagle3_d2t", "eagle3_offline", "medusa_h2_l1", "o_eagle3_parallel"]


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_modelopt_trains_as_in_modelopt(forward, name):
    expected, masks = expectation(name)
    assert "loss" in expected and any(n.startswith("grad.") for n in expected)
    # No Python, and nothing to find it with.
    found = forward(SAVED / name, inputs(name), "--train", "--gradients", PATH="")
    assert not differences(expected, found, masks)


def test_inspect_shows_whose_record_it_is(outrider):
    listed = outrider("inspect", SAVED / "o_eagle3_parallel", "--json").json()
    assert listed["base_model"]["architecture"] == "LlamaForCausalLM"
    assert listed["record"] == {"file": "modelopt_state.pth", "written_by": "modelopt 0.42.0",
                                "restored_by_modelopt": True}
    [mode] = listed["modes"]
    assert mode["mode"] == "eagle" and mode["metadata"] == {"reference_numerics": "0.42"}
    assert mode["config"]["eagle_ttt_steps"] == 4
    assert mode["restored_by"]["version"] == "0.1.0"
    shown = outrider("inspect", SAVED / "medusa_h2_l1").stdout
    assert "modelopt_state.pth, written by modelopt 0.47.0\nmode medusa: of plugin medusa\n" in shown


@pytest.mark.parametrize("name", ["eagle3_d2t", "o_eagle3_parallel"])
def test_what_was_restored_is_saved_as_a_checkpoint_of_outriders(
        outrider, convert, forward, tmp_path, name):
    """By way of a second draft, which makes Outrider write the folder anew."""
    out = convert(SAVED / name, "--mode", "medusa", "--set", "medusa_num_heads=1")
    assert not (out / "modelopt_state.pth").exists()
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    state = json.loads((out / "outrider_state.json").read_text())
    eagle = state["modes"][0]
    layers = {"eagle3_d2t": [0, 1, 2], "o_eagle3_parallel": [0, 1]}[name]
    assert eagle["metadata"]["aux_layer_ids"] == layers
    assert eagle["plugin"]["version"] == "0.1.0" and len(eagle["plugin"]["sha256"]) == 64
    size = case(name)["shapes"]["h"]
    assert eagle["config"]["eagle_architecture_config"]["hidden_size"] == size
    before, after = (forward(folder, inputs(name), "--train") for folder in (SAVED / name, out))
    assert np.array_equal(before["eagle_loss"], after["eagle_loss"])
    outrider("export", out, "--mode", "eagle", "--format", "hf", "--out", tmp_path / "export")


def test_a_file_of_mto_save_is_restored_on_its_base(outrider, forward, tmp_path):
    import torch

    file = SAVED / "medusa_h2_l1/mto_save_bfloat16.pth"
    base = REFERENCE / "medusa_h2_l1/base"
    outrider("restore", base, file, "--out", tmp_path / "restored")
    written = load_file(tmp_path / "restored/model.safetensors")
    stored = torch_load(file)["model_state_dict"]
    assert set(written) == set(stored)
    for name, tensor in stored.items():
        assert tensor.dtype == torch.bfloat16 and written[name].dtype == np.float32
        assert np.array_equal(written[name], tensor.float().numpy()), name
    expected, _ = expectation("medusa_h2_l1")
    found = forward(tmp_path / "restored", inputs("medusa_h2_l1"), "--train")
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.02)


def test_a_tied_head_in_a_file_of_mto_save_is_read_once(outrider, tmp_path):
    import torch

    base = REFERENCE / "base_llama_tied/base"
    weights = {n: torch.from_numpy(t) for n, t in load_file(base / "model.safetensors").items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    size = weights["lm_head.weight"].shape[1]
    # A transposed view: a tensor need not be contiguous in its storage.
    linear = torch.arange(size * size, dtype=torch.float32).reshape(size, size).t()
    weights |= {"medusa_heads.0.0.linear.weight": linear,
                "medusa_heads.0.0.linear.bias": torch.zeros(size),
                "medusa_heads.0.1.weight": weights["lm_head.weight"] + 1}
    state = {"modelopt_version": "0.47.0", "modelopt_state_dict": [
        ("medusa", {"config": {"medusa_num_heads": 1, "medusa_num_layers": 1}, "metadata": {}})]}
    torch.save({"modelopt_state": state, "model_state_dict": weights}, tmp_path / "tied.pth")
    outrider("restore", base, tmp_path / "tied.pth", "--out", tmp_path / "restored")
    written = load_file(tmp_path / "restored/model.safetensors")
    assert set(written) == set(weights) - {"lm_head.weight"}
    assert np.array_equal(written["medusa_heads.0.0.linear.weight"], linear.numpy())


def test_outriders_own_record_wins(forward, as_modelopt, tmp_path):
    folder = as_modelopt("eagle3_d2t", "0.47")
    (folder / "modelopt_state.pth").write_bytes(b"damaged")
    expected, masks = expectation("eagle3_d2t")
    found = forward(folder, inputs("eagle3_d2t"), "--train")
    assert not differences({"loss": expected["loss"]}, found)


def test_a_newer_release_needs_a_word(outrider, forward, copied, tmp_path):
    folder = copied("eagle3_d2t", lambda state: state.update(modelopt_version="0.48.0rc1"))
    batch, out = inputs("eagle3_d2t"), tmp_path / "out.safetensors"
    failed = outrider("forward", folder, "--batch", batch, "--out", out, status=4)
    assert "is from ModelOpt 0.48.0rc1; Outrider knows how releases up to 0.47" in failed.stderr
    assert "hint: --reference-numerics 0.47 restores it" in failed.stderr
    found = forward(folder, batch, "--train", "--reference-numerics", "0.47")
    assert not differences({"loss": expectation("eagle3_d2t")[0]["loss"]}, found)
    failed = outrider("forward", folder, "--batch", batch, "--out", out,
                      "--reference-numerics", "0.48", status=2)
    assert "accepted are 0.47 and 0.42" in failed.stderr


@pytest.mark.parametrize("version, numerics", [
    ("0.42.3", "0.42"), ("0.9.0", "0.42"), ("0.43.0rc0", "0.47"), ("0.47.2.dev5+gabc", "0.47")])
def test_the_release_decides_how_a_draft_computes(outrider, copied, version, numerics):
    folder = copied("medusa_h2_l1", lambda state: state.update(modelopt_version=version))
    [mode] = outrider("inspect", folder, "--json").json()["modes"]
    assert mode["metadata"] == {"reference_numerics": numerics}


def test_the_option_is_for_checkpoints_of_modelopt(outrider, as_modelopt):
    folder = as_modelopt("medusa_h2_l1", None)
    for target in (folder, REFERENCE / "medusa_h2_l1/base"):
        failed = outrider("inspect", target, "--reference-numerics", "0.47", status=2)
        assert "is no checkpoint of ModelOpt's" in failed.stderr


def config_of(state):
    return state["modelopt_state_dict"][0][1]["config"]


BAD_STATES = {
    "dflash": (lambda s: s["modelopt_state_dict"].append(("dflash", {})),
               2, "ModelOpt's mode 'dflash' cannot be restored"),
    "a path": (lambda s: s["modelopt_state_dict"].append(("../evil", {})),
               2, "ModelOpt's mode '../evil' cannot be restored"),
    "an unknown field": (lambda s: config_of(s).update(eagle_tree=1), 2, "/eagle_tree: unknown key"),
    "unread keys": (lambda s: config_of(s)["eagle_architecture_config"].update(
        sliding_window=4, partial=1), 2, "does not know: 'partial', 'sliding_window'"),
    "unsupported": (lambda s: config_of(s).update(eagle_base_lora=True), 4, "eagle_base_lora=true"),
    "metadata": (lambda s: s["modelopt_state_dict"][0][1].update(metadata={"a": 1}),
                 3, "mode 'eagle' has metadata, which ModelOpt never writes"),
    "no version": (lambda s: s.pop("modelopt_version"), 3, "'modelopt_version' is missing"),
    "no release": (lambda s: s.update(modelopt_version="new"), 3, "its version is 'new'"),
    "no list": (lambda s: s.update(modelopt_state_dict={}), 3, "'modelopt_state_dict' is missing or"),
    "no pair": (lambda s: s["modelopt_state_dict"].append(("eagle",)), 3, "is no pair of a name"),
    "no config": (lambda s: s["modelopt_state_dict"][0][1].pop("config"), 3, "'config' is missing"),
    "twice": (lambda s: s["modelopt_state_dict"].append(s["modelopt_state_dict"][0]),
              4, "eagle_module"),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_a_state_that_cannot_be_restored_says_why(outrider, copied, tmp_path, name):
    change, status, text = BAD_STATES[name]
    folder, out = copied("eagle3_d2t", change), tmp_path / "out.safetensors"
    failed = outrider("forward", folder, "--batch", inputs("eagle3_d2t"), "--out", out,
                      status=status)
    assert text in failed.stderr and not out.exists()


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_nothing_in_a_pickle_is_run(outrider, copied, tmp_path):
    import torch

    folder, marker = copied("medusa_h2_l1"), tmp_path / "was_run"
    torch.save({"modelopt_version": Attack(marker)}, folder / "modelopt_state.pth")
    torch.save({"model_state_dict": Attack(marker)}, tmp_path / "file.pth")
    base = REFERENCE / "medusa_h2_l1/base"
    for arguments in (("inspect", folder), ("restore", base, folder, "--out", tmp_path / "out"),
                      ("restore", base, tmp_path / "file.pth", "--out", tmp_path / "out")):
        failed = outrider(*arguments, status=3)
        assert "asks for the Python object 'posix.system'" in failed.stderr
        assert "nothing of it was run" in failed.stderr
    assert not marker.exists() and not (tmp_path / "out").exists()


def test_files_that_are_no_checkpoint_are_refused_by_name(outrider, tmp_path):
    import torch

    base, file = REFERENCE / "medusa_h2_l1/base", tmp_path / "file.pth"
    empty = {"modelopt_version": "0.47.0", "modelopt_state_dict": []}
    one = torch.zeros(1)
    for content, status, text in [
            (empty, 3, "has no 'modelopt_state' beside a 'model_state_dict'"),
            ({"modelopt_state": empty, "model_state_dict": {}}, 4, "was never converted"),
            ({"modelopt_state": empty, "model_state_dict": {"a": 1}}, 3, "'a' in 'model_state_dict'"),
            ({"modelopt_state": one, "model_state_dict": {"a": one}}, 3, "no state of ModelOpt's")]:
        torch.save(content, file)
        failed = outrider("restore", base, file, "--out", tmp_path / "out", status=status)
        assert text in failed.stderr
    torch.save({}, file, _use_new_zipfile_serialization=False)
    failed = outrider("restore", base, file, "--out", tmp_path / "out", status=3)
    assert "the format that torch.save() wrote before 1.6" in failed.stderr
    assert not (tmp_path / "out").exists()


# --- to ModelOpt -------------------------------------------------------------------------------


def test_the_state_is_written_where_modelopt_computes_the_same(convert, as_modelopt):
    def is_written(folder):
        return (folder / "modelopt_state.pth").exists()

    assert is_written(as_modelopt("medusa_h2_l1", None))
    assert is_written(as_modelopt("medusa_h2_l1", "0.47"))
    assert not is_written(as_modelopt("medusa_h2_l1", None, medusa_decay_coefficient=0.7))
    assert not is_written(as_modelopt("medusa_h2_l1", None, medusa_freeze_base_model=False))
    assert is_written(as_modelopt("eagle3_d2t", "0.47"))
    assert not is_written(as_modelopt("eagle3_d2t", None))
    assert not is_written(convert(as_modelopt("eagle3_d2t", "0.47"), "--mode", "medusa"))


@pytest.mark.parametrize("name", ["eagle3_d2t", "medusa_h2_l1", "eagle3_offline",
                                  "o_eagle3_parallel"])
def test_the_state_is_the_one_that_modelopt_writes(as_modelopt, name):
    """Types included: torch.load reads it with weights_only=True."""
    expected = torch_load(SAVED / name / "modelopt_state.pth")
    found = torch_load(as_modelopt(name, release_of(name)) / "modelopt_state.pth")
    for state in (expected, found):
        [entry] = state["modelopt_state_dict"]
        assert isinstance(entry, tuple)
        architecture = entry[1]["config"].get("eagle_architecture_config", {})
        architecture.pop("attn_implementation", None)
        if architecture.get("draft_vocab_size") == 64:  # the whole vocabulary, which is the default
            del architecture["draft_vocab_size"]
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


def test_the_state_alone_restores_the_folder(forward, as_modelopt):
    for name in ("medusa_h2_l1", "eagle3_d2t", "o_eagle3_parallel"):
        folder = as_modelopt(name, release_of(name))
        (folder / "outrider_state.json").unlink()
        expected, masks = expectation(name)
        assert not differences(expected, forward(folder, inputs(name), "--train", "--gradients"),
                               masks)


def test_equal_conversions_write_equal_states(as_modelopt):
    first, second = (as_modelopt("eagle3_d2t", "0.47") / "modelopt_state.pth" for _ in range(2))
    assert first.read_bytes() == second.read_bytes()


LIVE = {"medusa_h2_l1": "MedusaLlamaForCausalLM", "eagle3_d2t": "EagleLlamaForCausalLM",
        "eagle3_qwen3": "EagleQwen3ForCausalLM", "eagle3_2layers": "EagleLlamaForCausalLM",
        "eagle_mtp_H": "EagleLlamaForCausalLM", "o_eagle1_2layers": "EagleLlamaForCausalLM",
        "o_eagle3_parallel": "EagleLlamaForCausalLM"}


def run_modelopt(release, cases):
    """What modelopt_peer.py prints for the cases, by the environment with that release."""
    assert PEERS[release].exists(), "ModelOpt is missing: run scripts/setup.sh --peers"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([PEERS[release], ROOT / "tests/e2e/modelopt_peer.py"],
                          input=json.dumps(cases), capture_output=True, text=True,
                          env=environment, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def live(as_modelopt, tmp_path_factory):
    """Outrider's folders of LIVE, restored, trained a step and saved again by ModelOpt."""
    out = tmp_path_factory.mktemp("live")
    found = {}
    for release in PEERS:
        names = [name for name in LIVE if release_of(name) == release]
        cases = [{"folder": str(as_modelopt(name, None if name.startswith("medusa") else release)),
                  "inputs": str(inputs(name)), "out": str(out / name)} for name in names]
        found |= dict(zip(names, run_modelopt(release, cases), strict=True))
    return {name: (result, out / name) for name, result in found.items()}


@pytest.mark.parametrize("name", LIVE)
def test_modelopt_restores_what_outrider_wrote(live, name):
    result, _ = live[name]
    assert result["class"] == LIVE[name]
    assert result["loss"] == pytest.approx(float(expectation(name)[0]["loss"]), rel=1e-5)


@pytest.mark.parametrize("name", LIVE)
def test_what_modelopt_wrote_from_it_comes_back(live, outrider, forward, tmp_path, name):
    _, folder = live[name]
    expected = {"loss": expectation(name)[0]["loss"]}
    assert not differences(expected, forward(folder, inputs(name), "--train"))
    outrider("restore", REFERENCE / name / "base", folder / "mto.pth", "--out", tmp_path / "out")
    assert not differences(expected, forward(tmp_path / "out", inputs(name), "--train"))
