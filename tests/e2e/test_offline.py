"""Hidden states on disk, and training on them: the same losses as with the base beside the draft."""

import json
import re
import shutil
import signal
import subprocess
import time

import pytest
from conftest import REFERENCE

REQUEST, FILES, MODELS = 2, 3, 4
EAGLE = ("--mode", "eagle", "--preset", "eagle3")
OFFLINE = ("--set", "eagle_offline=true")
STEPS = ("--max-steps", 4, "--logging-steps", 1, "--max-length", 96,
         "--per-device-train-batch-size", 4)


@pytest.fixture(scope="module")
def online(convert, tiny):
    return convert(tiny(), *EAGLE)


@pytest.fixture(scope="module")
def offline(outrider, convert, tiny, online, tmp_path_factory):
    """A converted folder without decoder layers, with the same draft as the other one."""
    from safetensors.torch import load_file, save_file

    folder = convert(tiny(), *EAGLE, *OFFLINE)
    tensors = load_file(folder / "model.safetensors")
    assert not [name for name in tensors if name.startswith("model.layers.")]
    drafts = load_file(online / "model.safetensors")
    tensors.update({n: t for n, t in drafts.items() if n.startswith("eagle_module.")})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def stored(outrider, tiny, offline, shards, tmp_path_factory):
    """stored(*options): hidden states of both sets of shards."""
    made = {}

    def run(*options):
        if options not in made:
            out = tmp_path_factory.mktemp("stored")
            for name in ("train", "held_out"):
                outrider("data", "hidden-states", tiny(), "--for", offline, "--data", shards / name,
                         "--out", out / name, *options)
            made[options] = out
        return made[options]

    return run


def losses_of(outrider, model, data, out):
    """Per step, and of the last evaluation."""
    summary = outrider("train", model, "--data", data / "train", "--eval-data", data / "held_out",
                       "--out", out, "--json", *STEPS).json()
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line] + [
        summary["eval"]["drafts"][0]["loss"]]


@pytest.fixture
def losses(outrider, tmp_path):
    return lambda model, data: losses_of(outrider, model, data, tmp_path / "run")


@pytest.fixture(scope="module")
def expected(outrider, online, shards, tmp_path_factory):
    return losses_of(outrider, online, shards, tmp_path_factory.mktemp("online") / "run")


@pytest.mark.parametrize("options", [(), ("--prenorm",), ("--batch-size", 5, "--max-shard-size", "40KB")],
                         ids=["normed", "prenorm", "many files"])
def test_offline_training_has_the_losses_of_online_training(losses, offline, stored, expected, options):
    assert len(expected) == 5 and expected[0] != expected[3]
    assert losses(offline, stored(*options)) == pytest.approx(expected, rel=2e-5)


def test_stored_states_serve_a_model_with_its_layers_too(losses, online, stored, expected):
    assert losses(online, stored()) == pytest.approx(expected, rel=2e-5)


def test_the_description_tells_where_the_states_come_from(stored, offline):
    json_ = json.loads((stored("--prenorm") / "train/hidden_states.json").read_text())
    state = json.loads((offline / "outrider_state.json").read_text())
    assert json_["layers"] == state["modes"][0]["metadata"]["aux_layer_ids"]
    assert json_["last_hidden"] == "before_final_norm"
    assert json_["base_model"]["weights_sha256"] == state["base_model"]["weights_sha256"]


def failing(outrider, tmp_path, model, data, status, *options):
    return outrider("train", model, "--data", data, "--out", tmp_path / "run", *STEPS, *options,
                    status=status).stderr


@pytest.fixture
def copied(stored, tmp_path):
    return shutil.copytree(stored() / "train", tmp_path / "copied")


def test_a_changed_file_is_noticed(outrider, tmp_path, offline, copied):
    path = copied / "hidden-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    text = failing(outrider, tmp_path, offline, copied, FILES)
    assert "hidden-00000.safetensors: its SHA-256 is" in text and not (tmp_path / "run").exists()


def test_another_base_is_refused(outrider, convert, tmp_path, edited, tiny, copied):
    other = convert(REFERENCE / "base_llama/base", *EAGLE)
    text = failing(outrider, tmp_path, other, copied, MODELS)
    assert "vocabulary" in text or "made by base weights" in text


def test_other_token_shards_are_refused(outrider, tmp_path, offline, copied):
    description = json.loads((copied / "shards.json").read_text())
    (copied / "shards.json").write_text(json.dumps(description | {"note": 1}))
    assert "from other token shards" in failing(outrider, tmp_path, offline, copied, MODELS)


def test_layers_that_are_not_stored_are_named(outrider, convert, tiny, tmp_path, copied):
    model = convert(tiny(), *EAGLE, "--set",
                    "eagle_architecture_config.eagle_aux_hidden_state_layer_ids=[2,3]")
    text = failing(outrider, tmp_path, model, copied, MODELS)
    assert "the drafts read the layers 2, 3" in text


def test_a_base_that_is_trained_cannot_use_them(outrider, convert, tiny, tmp_path, copied):
    model = convert(tiny(), *EAGLE, "--set", "eagle_freeze_base_model=false")
    assert "cannot train the base itself" in failing(outrider, tmp_path, model, copied, REQUEST)


def test_longer_conversations_than_stored_are_refused(outrider, tiny, offline, shards, tmp_path):
    out = tmp_path / "short"
    outrider("data", "hidden-states", tiny(), "--for", offline, "--data", shards / "train",
             "--out", out, "--max-length", 32)
    text = failing(outrider, tmp_path, offline, out, REQUEST)
    assert "the hidden states end at 32 tokens, --max-length is 96" in text


def test_an_offline_model_needs_hidden_states(outrider, offline, shards, tmp_path):
    text = failing(outrider, tmp_path, offline, shards / "train", MODELS)
    assert "no hidden states, and the model has no decoder layers" in text
    assert "outrider data hidden-states BASE" in text


@pytest.mark.parametrize("change, problem", [
    (lambda d: d.pop("layers"), "'layers' must be ascending layer numbers"),
    (lambda d: d.update(layers=[3, 1], kind="x"), "'kind' must be \"hidden_states\"; 'layers'"),
    (lambda d: d["files"][0].update(file="../x"), "'files' must be a list of files"),
    (lambda d: d["files"][0].update(tokens=5), "expected [5,64]"),
    (lambda d: d["files"].pop(), "describes 0 conversations"),
    (lambda d: d["base_model"].update(hidden_size=2**60), "'base_model' must be"),
], ids=["missing", "wrong", "outside", "tokens", "no file", "huge"])
def test_a_damaged_description_is_refused(outrider, offline, copied, tmp_path, change, problem):
    description = json.loads((copied / "hidden_states.json").read_text())
    change(description)
    (copied / "hidden_states.json").write_text(json.dumps(description))
    assert problem in failing(outrider, tmp_path, offline, copied, FILES)


@pytest.mark.parametrize("options, problem", [
    ((), "which layers should be stored?"),
    (("--layers", "1,99"), "layer 99 is not there: the base has the layers 0 to 3"),
], ids=["no choice", "no such layer"])
def test_wrong_requests_leave_nothing(outrider, tiny, shards, tmp_path, options, problem):
    done = outrider("data", "hidden-states", tiny(), "--data", shards / "train", "--out",
                    tmp_path / "out", *options, status=REQUEST)
    assert problem in done.stderr and not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(program, tiny, offline, shards, tmp_path):
    process = subprocess.Popen(
        [program, "data", "hidden-states", tiny(), "--for", offline, "--data", shards / "train", "--out",
         tmp_path / "out"], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.iterdir()):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate()
    assert process.returncode == 130, text
    assert re.search(r"error: interrupted after \d+ of 200 conversations; nothing was kept\n", text)
    assert not list(tmp_path.iterdir())
