"""`outrider verify`: folders as they are written pass, and each deliberate fault is caught by its name."""

import hashlib
import itertools
import json
import shutil

import numpy as np
import pytest
from exchanged_drafts import DRAFTS
from runs import write_shards
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

IDS = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53]
VOCABULARY = {"vocabulary": 16}
MODES = {
    "eagle3": ("eagle", "--preset", "eagle3"),
    "eagle1": ("eagle", "--set", "eagle_architecture_config.use_aux_hidden_state=false"),
    "mtp": ("eagle", "--set", "eagle_architecture_config.use_aux_hidden_state=false",
            "--set", "eagle_architecture_config.use_mtp_layernorm=true"),
    "medusa": ("medusa", "--preset", "medusa")}


@pytest.fixture(scope="module")
def draft_vocab(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "d2t.safetensors"
    save_file({"d2t": np.asarray(IDS) - np.arange(len(IDS))}, path)
    return path


@pytest.fixture(scope="module")
def base(llama, tmp_path_factory):
    """The small Llama, with something for a tokenizer."""
    folder = tmp_path_factory.mktemp("verified") / "base"
    shutil.copytree(llama, folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    return folder


@pytest.fixture(scope="module")
def trained(outrider, convert, base, draft_vocab, tmp_path_factory):
    """trained(name): the folder of a short run; "vocabulary" is eagle3 with 16 tokens."""
    made = {}

    def make(name="vocabulary"):
        if name not in made:
            mode = MODES.get(name, (*MODES["eagle3"], "--draft-vocab", draft_vocab))
            folder = tmp_path_factory.mktemp("trained")
            model = convert(base, "--mode", *mode)
            outrider("train", model, "--data", write_shards(folder / "shards"), "--out", folder / "run",
                     "--max-steps", 2, "--learning-rate", 1e-2)
            made[name] = folder / "run/final"
        return made[name]

    return make


@pytest.fixture
def damaged(tmp_path):
    """damaged(folder, fault): a copy of it with the fault."""
    numbers = itertools.count()

    def copy(folder, fault):
        out = tmp_path / f"damaged-{next(numbers)}"
        shutil.copytree(folder, out)
        fault(out)
        return out

    return copy


def edit(file, change):
    def fault(folder):
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return fault


def edit_state(change):
    return edit("outrider_state.json", lambda state: change(state["modes"][0]))


def edit_tensor(name, change):
    def fault(folder):
        tensors = load_torch(folder / "model.safetensors")
        found = [key for key in tensors if key.endswith(name)]
        assert len(found) == 1, sorted(tensors)
        tensors[found[0]] = change(tensors[found[0]].clone())
        save_torch(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return fault


def architecture(**settings):
    return edit_state(lambda mode: mode["config"]["eagle_architecture_config"].update(settings))


def one_further(ids):
    return [i + 1 for i in ids]


def moved(d2t):
    d2t[-1] += 1
    return d2t


def flipped(tensor):
    return tensor.flip(0)


def reported(outrider, folder, *options, status=4):
    done = outrider("verify", folder, "--json", *options, status=status)
    return done.json(), done.stderr


def causes(report):
    return [check["cause"] for check in report["checks"] if check["ok"] is False]


@pytest.mark.parametrize("name", [*MODES, "vocabulary"])
def test_a_trained_folder_passes(outrider, trained, name):
    report, _ = reported(outrider, trained(name), status=0)
    assert report["ok"]
    results = {check["name"]: check for check in report["checks"]}
    mode = "medusa" if name == "medusa" else "eagle"
    assert all(check["ok"] for check in report["checks"]), report
    assert results[f"{mode} decode"]["figure"] < 1e-4
    assert results["outputs"]["figure"] < 1e-4 and results["base decode"]["figure"] < 1e-4


@pytest.mark.parametrize("name", ["eagle3", "medusa"])
def test_a_bfloat16_folder_passes(outrider, convert, tiny, shards, tmp_path, name):
    model = convert(tiny("bfloat16"), "--mode", *MODES[name])
    assert reported(outrider, model, status=0)[0]["ok"]
    outrider("train", model, "--data", shards / "train", "--out", tmp_path / "run", "--max-steps", 2)
    report, _ = reported(outrider, tmp_path / "run/final", status=0)
    assert all(check["ok"] for check in report["checks"]), report
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "Tell me about the sea, the sky and what is between them."}\n')
    assert reported(outrider, model, "--prompts", prompts, status=0)[0]["ok"]


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_converted_folder_passes(outrider, convert, base, name, dtype):
    report, _ = reported(outrider, convert(base, "--mode", *MODES[name], "--dtype", dtype), status=0)
    checks = {check["name"]: check for check in report["checks"]}
    assert report["ok"] and checks["tensors"]["ok"] and checks["outputs"]["ok"] is None
    assert checks["base config"]["ok"] and checks["metadata"]["ok"]
    assert ("base weights" in checks) == (dtype == "float32")


FAULTS = {
    "aux ids off by one": (
        "aux layers", edit_state(lambda mode: mode["metadata"].update(
            aux_layer_ids=one_further(mode["metadata"]["aux_layer_ids"])))),
    "rope base of the draft": ("rope", architecture(rope_theta=5e5, rope_scaling={"rope_type": "default"})),
    "rope scaling of the draft": (
        "rope", architecture(rope_scaling={"rope_type": "linear", "factor": 2.0})),
    "rope base of the base": ("rope", edit("config.json", lambda config: config.update(rope_theta=5e5))),
    "rope scaling of the base": ("rope", edit("config.json", lambda config: config.update(
        rope_scaling={"rope_type": "linear", "factor": 2.0}))),
    "double norm": ("norms", edit_state(lambda mode: mode["metadata"].update(reference_numerics="0.47"))),
    "norm": ("norms", edit_tensor("eagle_module.norm.weight", lambda weight: weight * 2)),
    "epsilon": ("norms", edit("config.json", lambda config: config.update(rms_norm_eps=1e-2))),
    "wrong d2t": ("vocabulary map", edit_tensor("d2t", moved)),
    "max_position_embeddings": (
        "max_position_embeddings", edit("config.json", lambda config: config.update(max_position_embeddings=16))),
    "max_position_embeddings of the draft": (
        "max_position_embeddings", architecture(max_position_embeddings=16)),
    "embeddings of another base": ("embeddings", edit_tensor("embed_tokens.weight", flipped)),
    "tokenizer": ("tokenizer", edit("tokenizer.json", lambda file: file.update(version="2.0"))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(outrider, trained, damaged, fault):
    cause, change = FAULTS[fault]
    report, error = reported(outrider, damaged(trained(), change))
    assert not report["ok"]
    assert cause in causes(report) and cause in error
    allowed = {cause, "vocabulary map"} if fault == "wrong d2t" else {cause}
    assert set(causes(report)) <= allowed, report


def test_several_faults_are_named_together(outrider, trained, damaged):
    def both(folder):
        FAULTS["aux ids off by one"][1](folder)
        FAULTS["rope base of the base"][1](folder)

    report, error = reported(outrider, damaged(trained(), both))
    assert {"aux layers", "rope"} <= set(causes(report))
    detail = next(check["detail"] for check in report["checks"] if check["cause"] == "aux layers")
    ids = json.loads((trained() / "outrider_state.json").read_text())["modes"][0]["metadata"]["aux_layer_ids"]
    assert json.dumps(ids).replace(" ", "") in detail and json.dumps(one_further(ids)).replace(" ", "") in detail
    assert "aux layers" in error and "rope" in error


@pytest.mark.parametrize("name", ["eagle3", "vocabulary"])
@pytest.mark.parametrize("format", ["hf", "vllm", "sglang", "eagle"])
def test_an_exported_folder_passes(outrider, trained, exported, name, format):
    folder = trained(name)
    report, _ = reported(outrider, folder, "--export", exported(folder, format), status=0)
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["export config"]["ok"] and checks["export tensors"]["ok"]
    assert checks["export decode"]["ok"] and checks["export decode"]["figure"] < 1e-4


@pytest.mark.parametrize("name", [name for name in DRAFTS if name not in ("dynamic", "longrope")])
def test_a_draft_of_any_kind_passes_with_its_export(outrider, draft, exported, name):
    """Their weights were put into the folder by hand, as another trainer would."""
    format = sorted(DRAFTS[name][1])[-1]
    report, _ = reported(outrider, draft(name), "--export", exported(draft(name), format), status=0)
    assert not causes(report)


def nested(*path):
    """Changes what a config has at this path."""

    def change(value):
        def apply(config):
            for key in path[:-1]:
                config = config[key]
            config[path[-1]] = value(config.get(path[-1]))

        return edit("config.json", apply)

    return change


def rope_of(config):
    config["rope_theta"] = 5e5
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}


EXPORT_FAULTS = {
    "aux ids off by one": ("aux layers", nested("eagle_aux_hidden_state_layer_ids")(one_further)),
    "rope base": ("rope", edit("config.json", lambda config: rope_of(config["transformer_layer_config"]))),
    "rope scaling": ("rope", edit("config.json", lambda config: config["transformer_layer_config"].update(
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}))),
    "max_position_embeddings": (
        "max_position_embeddings", nested("transformer_layer_config", "max_position_embeddings")(lambda _: 16)),
    "norm before the residual": ("norms", nested("norm_before_residual")(lambda _: True)),
    "wrong d2t": ("vocabulary map", edit_tensor("d2t", moved)),
    "norm": ("norms", edit_tensor("layers.0.hidden_norm.weight", lambda weight: weight * 2)),
    "embeddings of another base": ("embeddings", edit_tensor("embed_tokens.weight", flipped)),
    "head": ("head", edit_tensor("lm_head.weight", flipped)),
}


@pytest.mark.parametrize("fault", EXPORT_FAULTS)
def test_a_fault_of_an_export_is_named(outrider, trained, exported, damaged, fault):
    cause, change = EXPORT_FAULTS[fault]
    folder = damaged(exported(trained(), "vllm"), change)
    report, error = reported(outrider, trained(), "--export", folder)
    assert set(causes(report)) == {cause}, report
    assert cause in error


@pytest.fixture
def calibrated(convert, base, draft_vocab):
    """A folder with a chosen draft vocabulary that nobody trained."""
    return convert(base, "--mode", *MODES["eagle3"], "--draft-vocab", draft_vocab)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_converted_folder_is_named(outrider, calibrated, damaged, fault):
    cause, change = FAULTS[fault]
    report, error = reported(outrider, damaged(calibrated, change))
    also = {"wrong d2t": "vocabulary map", "embeddings of another base": "another base"}.get(fault, cause)
    assert {cause} <= set(causes(report)) <= {cause, also}, report
    assert cause in error


def test_another_map_of_a_converted_folder_is_told(outrider, calibrated, damaged):
    """It may be as good a map as the one that was chosen: only the record knows."""
    report, _ = reported(outrider, damaged(calibrated, edit_tensor("d2t", lambda d2t: d2t + (d2t > 0))))
    assert set(causes(report)) == {"vocabulary map"}


def test_a_layer_of_a_converted_base_is_told(outrider, calibrated, damaged):
    report, _ = reported(outrider, damaged(calibrated, edit_tensor("model.layers.0.mlp.up_proj.weight", flipped)))
    assert "another base" in causes(report)


@pytest.mark.parametrize("options", [
    ("--reference-numerics", "0.47"), ("--reference-numerics", "0.42"), ("--set", "eagle_mix_hidden_states=true"),
    ("--set", "eagle_offline=true"), ("--dtype", "float16"), ("--max-shard-size", "50KB"),
    ("--set", "eagle_ttt_steps=6")], ids=lambda options: options[1])
def test_other_conversions_pass(outrider, convert, base, options):
    report, _ = reported(outrider, convert(base, "--mode", *MODES["eagle3"], *options), status=0)
    decode = next((check for check in report["checks"] if check["name"] == "eagle decode"), None)
    assert decode["ok"] is (None if "eagle_offline=true" in options else True)
    if "eagle_mix_hidden_states=true" in options:
        assert "training draws random numbers" in decode["detail"]


@pytest.mark.parametrize("save", ["draft", "full"])
def test_two_drafts_and_a_folder_of_drafts_alone_pass(outrider, convert, base, tmp_path, save):
    model = convert(convert(base, "--mode", *MODES["eagle3"]), "--mode", "medusa")
    outrider("train", model, "--data", write_shards(tmp_path / "shards"), "--out", tmp_path / "run", "--max-steps",
             1, "--save", save)
    report, _ = reported(outrider, tmp_path / "run/final", status=0)
    assert {"eagle decode", "medusa decode", "outputs"} <= {c["name"] for c in report["checks"] if c["ok"]}


def test_a_converted_folder_with_another_base_is_told(outrider, convert, base, damaged):
    folder = damaged(convert(base, "--mode", "medusa"), FAULTS["embeddings of another base"][1])
    report, error = reported(outrider, folder)
    assert causes(report) == ["embeddings", "another base"] and "another base" in error


def test_without_a_record_the_two_ways_are_still_compared(outrider, trained, damaged):
    folder = damaged(trained(), lambda folder: (folder / "outrider_probe.json").unlink())
    report, _ = reported(outrider, folder, status=0)
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["record"]["ok"] is None and "outrider_probe.json" in checks["record"]["detail"]
    assert checks["eagle decode"]["ok"]
    for d2t, word in (lambda d2t: d2t * 0, "never chosen"), (lambda d2t: d2t + 100, "outside"), (flipped, "order"):
        report, _ = reported(outrider, damaged(folder, edit_tensor("d2t", d2t)))
        assert causes(report)[0] == "vocabulary map" and word in report["checks"][-3]["detail"] + str(report)


@pytest.mark.parametrize("content", ["[]", "{", '{"format_version": 2}', '{"format_version": 1, "facts": 3}',
                                     '{"format_version": 1, "facts": {}, "base": {}, "drafts": {}}'])
def test_a_record_that_is_none_is_refused(outrider, trained, damaged, content):
    folder = damaged(trained(), lambda folder: (folder / "outrider_probe.json").write_text(content))
    assert "outrider_probe.json" in outrider("verify", folder, status=3).stderr
    outrider("inspect", folder)  # nothing else reads it


def bytes_in(file):
    """Name → the bytes of each tensor, as they are stored."""
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    return {name: content[start + part["data_offsets"][0]:start + part["data_offsets"][1]]
            for name, part in header.items() if name != "__metadata__"}


@pytest.mark.parametrize("is_frozen", [True, False], ids=["frozen", "trained"])
def test_each_record_of_a_run_is_of_its_folder(outrider, convert, base, tmp_path, is_frozen):
    model = convert(base, "--mode", *MODES["eagle3"], "--set", f"eagle_freeze_base_model={str(is_frozen).lower()}")
    outrider("train", model, "--data", write_shards(tmp_path / "shards"), "--out", tmp_path / "run", "--max-steps", 3,
             "--save-steps", 1, "--learning-rate", 1e-2)
    folders = [tmp_path / "run" / name for name in ("checkpoint-1", "checkpoint-2", "final")]
    records = [json.loads((folder / "outrider_probe.json").read_text()) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        hashes = {name: hashlib.sha256(content).hexdigest()
                  for name, content in bytes_in(folder / "model.safetensors").items() if ".layers." not in name}
        assert hashes.items() <= {**record["base"], **record["drafts"]["eagle"]}.items() and record["base"]
    assert (records[1]["base"] == records[2]["base"]) == is_frozen
    assert (records[0]["base"] == records[1]["base"]) == is_frozen


def test_recorded_outputs_are_compared(outrider, trained, damaged):
    """As after a release that computes something else, where config and tensors are as they were."""
    def from_row_3(name):
        def change(probe):
            sizes = probe["outputs"][name]
            probe["outputs"][name] = sizes[:3] + [2 * size for size in sizes[3:]]

        return edit("outrider_probe.json", change)

    for name, cause in ("embeddings", "embeddings"), ("layer 2", "rope"), ("last_hidden", "norms"):
        report, _ = reported(outrider, damaged(trained(), from_row_3(name)))
        assert causes(report) == [cause] and f"{name} is another than recorded, from row 3" in str(report)


def test_wrong_calls_are_told(outrider, base, trained, damaged, tmp_path, jsonl):
    assert "no draft" in outrider("verify", base, status=4).stderr
    plain = damaged(trained(), lambda folder: (folder / "tokenizer.json").unlink())
    short = jsonl({"input_ids": [1, 2, 3]}, name="short.jsonl")
    assert "too few" in outrider("verify", plain, "--prompts", short, status=2).stderr
    unknown = jsonl({"input_ids": [99] * 9}, name="unknown.jsonl")
    assert "outside the vocabulary" in outrider("verify", plain, "--prompts", unknown, status=2).stderr
    assert "no such folder" in outrider("verify", trained(), "--export", tmp_path / "none", status=3).stderr
