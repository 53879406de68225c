"""ModelOpt's own exports, Medusa's layout, and the programs that read exported drafts."""

import json
import os
import subprocess

import numpy as np
import pytest
from conftest import REFERENCE, ROOT
from exchanged_drafts import (
    BATCH, change_maps, randomize, recorded, same_tensors, without_record)
from safetensors.numpy import load_file, save_file

PEERS = ROOT / ".venv-peers/bin/python"


# --- ModelOpt's own exports, and Medusa


def shuffle_vocabulary(tensors):
    """The head's rows in another order, as a vocabulary by frequency has them."""
    ids = tensors["d2t"] + np.arange(24)
    order = np.random.default_rng(3).permutation(24)
    tensors["d2t"] = ids[order] - np.arange(24)
    tensors["lm_head.weight"] = tensors["lm_head.weight"][order]


def test_a_vocabulary_by_frequency_stays_in_format_hf(draft, exported, imported, outrider,
                                                      tmp_path):
    folder = without_record(exported(draft("vocabulary"), "hf"), shuffle_vocabulary)
    back = imported(folder)
    found, expected = (load_file(f / "model.safetensors") for f in (exported(back, "hf"), folder))
    assert set(found) == set(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    text = outrider("export", back, "--format", "sglang", "--out", tmp_path / "out",
                    status=4).stderr
    assert "must be increasing token ids below 64" in text and "order by frequency" in text


def test_a_token_twice_is_refused(draft, exported, outrider, llama, tmp_path):
    folder = without_record(exported(draft("vocabulary"), "hf"),
                            change_maps(d2t=lambda d: np.concatenate([d[:1], d[:1] - 1, d[2:]])))
    text = outrider("import", folder, "--base", llama, "--out", tmp_path / "out", status=4).stderr
    assert "must be different token ids below 64" in text


@pytest.mark.parametrize("name", [
    p.parents[1].name for p in sorted(REFERENCE.glob("*/export/model.safetensors"))])
def test_an_export_of_modelopt_comes_in(outrider, tmp_path, name):
    case = json.loads((REFERENCE / name / "case.json").read_text())
    if case["mode"] != "eagle":
        pytest.skip("no EAGLE draft")
    folder, numerics = REFERENCE / name, case["versions"]["modelopt"].rsplit(".", 1)[0]
    outrider("import", folder / "export", "--base", folder / "base", "--reference-numerics",
             numerics, "--out", tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    expected = load_file(folder / "export/model.safetensors")
    assert {n.removeprefix("eagle_module.") for n in found if n.startswith("eagle_module.")} == set(
        expected)
    for tensor, value in expected.items():
        assert np.array_equal(found["eagle_module." + tensor], value), tensor


@pytest.fixture(scope="session")
def medusa(convert, llama):
    return randomize(convert(llama, "--mode", "medusa", "--set=medusa_num_heads=3",
                             "--set=medusa_decay_coefficient=0.5"))


def test_medusa_comes_back_as_it_was(medusa, exported, imported):
    out = exported(medusa, "medusa", "--base-name", "org/base")
    config = json.loads((out / "config.json").read_text())
    assert (config["medusa_num_heads"], config["medusa_num_layers"]) == (3, 1)
    assert (config["base_model_name_or_path"], config["version"]) == ("org/base", "2")
    assert sorted(load_file(out / "medusa_lm_head.safetensors")) == sorted(
        f"{i}.{part}" for i in range(3) for part in ("0.linear.bias", "0.linear.weight", "1.weight"))
    back = imported(out)
    assert same_tensors(back, medusa)
    assert recorded(back)["config"] == recorded(medusa)["config"]
    (out / "medusa_lm_head.pt").unlink()
    foreign = imported(without_record(out, file="medusa_lm_head.safetensors"))
    assert same_tensors(foreign, medusa)
    assert recorded(foreign)["config"]["medusa_num_heads"] == 3


def test_medusas_program_finds_its_pickle(medusa, exported, imported):
    import torch

    out = exported(medusa, "medusa")
    tensors = load_file(out / "medusa_lm_head.safetensors")
    for options in ({}, {"mmap": True}):
        found = torch.load(out / "medusa_lm_head.pt", weights_only=True, **options)
        assert list(found) == sorted(tensors)
        for name, tensor in found.items():
            assert tensor.dtype == torch.float32 and not tensor.requires_grad
            assert np.array_equal(tensor.numpy(), tensors[name])
    # As such folders come from elsewhere: the pickle alone, saved by torch, in another type.
    (out / "medusa_lm_head.safetensors").unlink()
    assert same_tensors(imported(out), medusa)
    torch.save({name: tensor.double() for name, tensor in found.items()}, out / "medusa_lm_head.pt")
    assert same_tensors(imported(out), medusa)


def test_a_pickle_in_bfloat16_keeps_its_bits(convert, llama, exported):
    import torch
    from safetensors.torch import load_file as load_torch

    out = exported(convert(llama, "--mode", "medusa", "--dtype", "bfloat16"), "medusa")
    expected = load_torch(out / "medusa_lm_head.safetensors")
    found = torch.load(out / "medusa_lm_head.pt", weights_only=True)
    assert all(found[name].dtype == torch.bfloat16 and found[name].equal(expected[name])
               for name in expected)


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_pickles_that_are_no_heads_are_refused(medusa, exported, outrider, llama, tmp_path):
    import torch

    out, marker = exported(medusa, "medusa"), tmp_path / "was_run"
    pickle, heads = out / "medusa_lm_head.pt", out / "medusa_lm_head.safetensors"
    good = torch.load(pickle, weights_only=True)

    def refused(content, status):
        torch.save(content, pickle)
        done = outrider("import", out, "--base", llama, "--out", tmp_path / "out", status=status)
        assert not (tmp_path / "out").exists()
        return done.stderr

    other = {**good, "1.1.weight": good["1.1.weight"] + 1}
    text = refused(other, 4)
    assert "medusa_lm_head.safetensors and medusa_lm_head.pt hold different tensors" in text
    heads.unlink()
    text = refused({"0.0.linear.bias": Attack(marker)}, 3)
    assert "asks for the Python object 'posix.system'" in text and "nothing of it was run" in text
    assert not marker.exists()
    assert "'0.0.linear.bias' is no tensor" in refused({**good, "0.0.linear.bias": 1}, 3)
    assert "holds no state dict" in refused([1], 3)
    text = refused({**good, "3.1.weight": good["0.1.weight"]}, 4)
    assert "unexpected: 3.1.weight" in text
    pickle.write_bytes(pickle.read_bytes()[:-1])
    done = outrider("import", out, "--base", llama, "--out", tmp_path / "out", status=3)
    assert "does not end with the directory of a zip file" in done.stderr
    pickle.unlink()
    done = outrider("import", out, "--base", llama, "--out", tmp_path / "out", status=3)
    assert "has neither medusa_lm_head.safetensors nor medusa_lm_head.pt" in done.stderr


def test_medusas_blocks_must_be_one(convert, llama, exported, imported, outrider, tmp_path):
    folder = randomize(convert(llama, "--mode", "medusa", "--set=medusa_num_layers=2"))
    text = outrider("export", folder, "--format", "medusa", "--out", tmp_path / "out",
                    status=4).stderr
    assert "medusa_num_layers=2: Medusa's own program applies one residual block" in text
    back = imported(exported(folder, "medusa", "--allow-train-serve-mismatch"))
    assert same_tensors(back, folder)


def test_wrong_medusa_files_are_refused(medusa, exported, outrider, llama, tmp_path, edited):
    def change(tensors):
        del tensors["0.0.linear.bias"]
        tensors["1.1.weight"] = np.zeros((63, 32), np.float32)
        tensors["3.1.weight"] = np.zeros((64, 32), np.float32)

    def refused(folder, status):
        return outrider("import", folder, "--base", llama, "--out", tmp_path / "out",
                        status=status).stderr

    out = exported(medusa, "medusa")
    text = refused(edited(out, "config.json", lambda c: c.update(medusa_num_heads=-1)), 2)
    assert "'medusa_num_heads' is -1, expected an integer from 0 to 64" in text
    (out / "medusa_lm_head.pt").unlink()
    text = refused(without_record(out, change, "medusa_lm_head.safetensors"), 4)
    assert "missing: 0.0.linear.bias" in text and "unexpected: 3.1.weight" in text
    assert "1.1.weight is [63,32] Float, expected [64,32] Float" in text


# --- the programs that read these files


def peer_results(script, exports, batch_of, tmp_path):
    """What a reader's own classes compute from folders; one process for all of them."""
    arguments, outs = [], {}
    for name, folder in exports.items():
        save_file(batch_of(name), tmp_path / f"{len(outs)}.batch")
        outs[name] = tmp_path / f"{len(outs)}.out"
        arguments += [folder, tmp_path / f"{len(outs) - 1}.batch", outs[name]]
    done = subprocess.run(
        [PEERS, ROOT / "tests/e2e/readers" / script, *arguments], text=True, check=False,
        capture_output=True, timeout=600,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TORCHDYNAMO_DISABLE": "1"})
    assert done.returncode == 0, done.stderr
    return {name: load_file(out) for name, out in outs.items()}


def check_logits(found, expected):
    """One sequence's logits, of the positions that have a next token."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.skipif(not PEERS.exists(), reason="run scripts/setup.sh --peers")
@pytest.mark.parametrize("format, script, names", [
    ("vllm", "read_speculators.py",
     ["plain", "vocabulary", "epsilon", "llama3", "yarn", "biases", "two layers",
      "two layers read", "five layers read", "normed residual", "own embeddings"]),
    ("sglang", "read_specforge.py",
     ["plain", "vocabulary", "grouped keys", "epsilon", "linear", "llama3", "yarn", "own width",
      "own width, fewer tokens"])])
def test_the_readers_compute_the_same_logits(draft, llama, exported, forward, tmp_path, format,
                                             script, names):
    ids = np.array(BATCH["input_ids"][:1])
    ours = {name: forward(draft(name), {"input_ids": ids}) for name in names}

    def batch_of(name):
        weights = load_file(draft(name) / "model.safetensors")
        embeddings = weights.get("eagle_module.embed_tokens.weight",
                                 weights["model.embed_tokens.weight"])
        return {"hidden": ours[name]["base.aux_hidden"][:, :-1].copy(),
                "input_ids": ids[:, 1:].copy(), "embeddings": embeddings[ids[:, 1:]]}

    exports = {name: exported(draft(name), format, "--base-name", llama) for name in names}
    for name, found in peer_results(script, exports, batch_of, tmp_path).items():
        expected = ours[name]["logits.step_0"][:, :-1]
        assert expected.std() > 0.1
        check_logits(found["logits"], expected)
        weights = load_file(draft(name) / "model.safetensors")
        if "eagle_module.d2t" in weights:
            d2t = weights["eagle_module.d2t"]
            assert np.array_equal(found["target_ids"], d2t + np.arange(len(d2t)))
