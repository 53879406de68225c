"""Drafts as other projects publish them: old files, copied configs, settings of their own."""

import json
import os

import numpy as np
import pytest
import torch
from compare import differences
from draft_formula import Rules, draft_weights, run
from exchanged_drafts import BATCH, randomize, recorded, same_tensors, without_record
from runs import train_step
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

KEY = "eagle_aux_hidden_state_layer_ids"


def as_pickle(folder, dtype=None):
    """The tensors of an exported folder as torch.save writes them, and nothing else."""
    tensors = load_torch(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({name: t.to(dtype) if dtype and t.is_floating_point() else t
                for name, t in tensors.items()}, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def published(draft, exported, edited):
    """published(name, format, change): the files of another program, with a changed config."""

    def make(name, format, change=lambda config: None):
        return edited(without_record(exported(draft(name), format)), "config.json", change)

    return make


@pytest.fixture
def import_text(outrider, llama, tmp_path):
    """import_text(folder, status): what an import says, and the folder it writes."""
    numbers = iter(range(1000))

    def run_import(folder, *options, status=0):
        out = tmp_path / f"imported-{next(numbers)}"
        done = outrider("import", folder, "--base", llama, "--out", out, *options, status=status)
        assert out.exists() == (status == 0)
        return done.stderr, out

    return run_import


# --- pytorch_model.bin


@pytest.mark.parametrize("format", ["eagle", "sglang", "vllm", "hf"])
def test_a_draft_in_pytorch_model_bin(draft, published, import_text, format):
    folder = as_pickle(published("vocabulary", format))
    _, out = import_text(folder)
    assert same_tensors(out, draft("vocabulary"))
    assert recorded(out)["config"]["eagle_architecture_config"]["draft_vocab_size"] == 24


def test_half_precision_in_a_pickle_keeps_its_values(draft, published, import_text):
    _, out = import_text(as_pickle(published("vocabulary", "eagle"), torch.float16))
    before, after = (load_file(f / "model.safetensors") for f in (draft("vocabulary"), out))
    for name, tensor in after.items():
        if name.startswith("eagle_module.") and tensor.dtype == np.float32:
            assert np.array_equal(tensor, before[name].astype(np.float16).astype(np.float32))


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_nothing_in_a_pickle_is_run(published, import_text, tmp_path):
    folder, marker = as_pickle(published("plain", "eagle")), tmp_path / "was_run"
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({**tensors, "fc.weight": Attack(marker)}, folder / "pytorch_model.bin")
    text, _ = import_text(folder, "--format", "eagle", status=3)
    assert "asks for the Python object 'posix.system'" in text
    assert not marker.exists()


def test_a_draft_in_other_files_gets_a_hint_that_keeps_it(published, import_text):
    folder = as_pickle(published("plain", "eagle"))
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
    text, _ = import_text(folder, status=3)
    assert "has neither model.safetensors, nor its shards, nor pytorch_model.bin" in text
    assert "torch.load(FILE, weights_only=True)" in text and "from_pretrained" not in text


# --- configs that were copied from the base, or from another draft


COPIED = {
    "layers": ("sglang", "plain", {"num_hidden_layers": 8}, "num_hidden_layers 8, the tensors 1"),
    "layers of two": ("hf", "two layers", {"num_hidden_layers": 8},
                      "num_hidden_layers 8, the tensors 2"),
    "inner size": ("eagle", "plain", {"intermediate_size": 96}, "intermediate_size 96, the tensors 48"),
    "width": ("eagle", "plain", {"hidden_size": 48}, "hidden_size 48, the tensors 32"),
    "whole vocabulary": ("sglang", "vocabulary", {"vocab_size": 80}, "vocab_size 80, the tensors 64"),
    "draft's vocabulary": ("eagle", "vocabulary", {"draft_vocab_size": 32},
                           "draft_vocab_size 32, the tensors 24"),
    "no reduced vocabulary": ("hf", "own head", {"draft_vocab_size": 32},
                              "draft_vocab_size 32, the tensors 64"),
    "number of heads": ("sglang", "plain", {"num_attention_heads": 12, "num_key_value_heads": 6},
                        "num_attention_heads 12, the tensors 4"),
}


@pytest.mark.parametrize("case", COPIED)
def test_the_tensors_count_where_a_config_was_copied(draft, published, import_text, forward, case):
    format, name, wrong, said = COPIED[case]
    text, out = import_text(published(name, format, lambda config: config.update(wrong)))
    assert f"note: config.json has {said}: the tensors count" in text
    expected = forward(draft(name), BATCH)
    found = forward(out, BATCH)
    for tensor in ("logits.step_0", "eagle_loss"):
        assert np.array_equal(found[tensor], expected[tensor]), tensor


def test_a_size_of_heads_that_is_left_out_comes_from_the_tensors(draft, published, import_text,
                                                                forward):
    # 4 heads of 16 where hidden_size / heads is 8.
    _, out = import_text(published("grouped keys", "sglang", lambda config: config.pop("head_dim")))
    assert np.array_equal(forward(out, BATCH)["logits.step_0"],
                          forward(draft("grouped keys"), BATCH)["logits.step_0"])


def test_heads_that_nothing_decides_are_asked_for(published, import_text):
    text, _ = import_text(published("plain", "sglang", lambda config: config.update(head_dim=16)),
                          status=4)
    assert "config.json has 4 heads of 16, the tensors 32 rows of queries" in text
    assert "2 heads of 16, or 4 of 8" in text


def test_a_draft_of_another_base_is_still_refused(published, import_text, exported, draft):
    text, _ = import_text(published("own width", "sglang",
                                    lambda config: config.update(target_hidden_size=20)), status=4)
    assert f"'eagle_config.{KEY}' names 3 layers of the base, of a width of 20" in text


# --- which layers of the base are read


def drop_layers(config):
    config.get("eagle_config", config).pop(KEY)


@pytest.mark.parametrize("format, key, numbers", [
    ("hf", f"eagle_config.{KEY}", "[1, 3, 4]"), ("sglang", f"eagle_config.{KEY}", "[1, 3, 4]"),
    ("vllm", KEY, "[2, 4, 5]")])
def test_layers_that_are_assumed_are_said(draft, published, import_text, format, key, numbers):
    text, out = import_text(published("plain", format, drop_layers))
    assert "the outputs of layers 1, 3, 4, as" in text and f"'{key}': {numbers}" in text
    assert recorded(out)["metadata"]["aux_layer_ids"] == [1, 3, 4]
    silent, _ = import_text(published("plain", format))
    assert "layers" not in silent


def test_eagles_own_layers_are_said_too(published, import_text, exported, draft):
    text, _ = import_text(published("plain", "eagle"))
    assert "layers 1, 3, 4, as EAGLE's program does" in text
    silent, _ = import_text(exported(draft("plain"), "eagle"))  # whose record says which
    assert "layers" not in silent


@pytest.mark.parametrize("format", ["hf", "vllm"])
def test_five_layers_must_be_named(published, import_text, format):
    text, _ = import_text(published("five layers read", format, drop_layers), status=4)
    assert "fc.weight reads 160 columns" in text and f"{KEY}' must name them" in text


# --- a normed residual, another width


@pytest.fixture(scope="module")
def plain_case(convert, llama):
    """plain_case(settings): a converted draft whose numbers are drawn, with the default rotation."""

    def make(settings):
        architecture = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
                        "intermediate_size": 24, "rope_scaling": {"rope_type": "default"},
                        "use_aux_hidden_state": True, "use_last_layernorm": True,
                        KEY: [0, 3, 5]} | settings
        return randomize(convert(llama, "--mode", "eagle", "--set=eagle_ttt_steps=3",
                                 "--set=eagle_export_rope_scaling={}",
                                 "--set=eagle_architecture_config=" + json.dumps(architecture)))

    return make


@pytest.mark.parametrize("settings", [
    {"norm_before_residual": True}, {"draft_hidden_size": 20}, {"has_embeddings": True},
    {"draft_hidden_size": 56, "norm_before_residual": True, KEY: [0, 1, 3, 6]}])
def test_losses_and_gradients_are_the_formulas(plain_case, llama, forward, settings):
    model = plain_case(settings)
    inputs = {"input_ids": torch.tensor(BATCH["input_ids"])}
    expected = run(llama, draft_weights(model / "model.safetensors"), inputs,
                   recorded(model)["config"], Rules())
    found = forward(model, BATCH, "--train", "--gradients")
    wrong = differences(expected, found)
    assert not wrong, wrong
    assert {n for n in expected if n.startswith("grad.")} == {
        n for n in found if n.startswith("grad.")}
    assert abs(expected["grad.eagle_module.fc.weight"]).max() > 0


def test_a_new_draft_of_another_width_has_parts_of_its_own(outrider, llama, tmp_path):
    done = outrider("convert", llama, "--mode", "eagle", "--preset", "eagle3",
                    "--set=eagle_architecture_config.draft_hidden_size=16", "--out", tmp_path / "out")
    assert "is 16 wide and the base 32: it gets an embedding and a head of its own" in done.stderr
    shapes = {n: t.shape for n, t in load_file(tmp_path / "out/model.safetensors").items()}
    assert shapes["eagle_module.fc.weight"] == (16, 96)
    assert shapes["eagle_module.embed_tokens.weight"] == (64, 16)
    assert shapes["eagle_module.lm_head.weight"] == (64, 16)


def test_new_embeddings_of_a_draft_start_as_the_bases(convert, llama):
    out = convert(llama, "--mode", "eagle", "--preset", "eagle3",
                  "--set=eagle_architecture_config.has_embeddings=true")
    weights = load_file(out / "model.safetensors")
    assert np.array_equal(weights["eagle_module.embed_tokens.weight"],
                          weights["model.embed_tokens.weight"])


@pytest.mark.parametrize("setting, text", [
    ("draft_hidden_size=16", "draft_hidden_size with reference numerics"),
    ("norm_before_residual=true", "norm_before_residual=true with reference numerics"),
    ("has_embeddings=true", "has_embeddings=true with reference numerics")])
def test_modelopts_numerics_have_no_such_settings(outrider, llama, tmp_path, setting, text):
    done = outrider("convert", llama, "--mode", "eagle", "--preset", "eagle3",
                    "--reference-numerics", "0.47", f"--set=eagle_architecture_config.{setting}",
                    "--out", tmp_path / "out", status=4)
    assert text in done.stderr


# --- import, a step of training, export, import


@pytest.mark.parametrize("name, format, pickle", [
    ("vocabulary", "eagle", True), ("normed residual", "vllm", False),
    ("own width, fewer tokens", "sglang", False), ("own width", "eagle", True),
    ("own embeddings", "vllm", True), ("five layers read", "vllm", False)])
def test_a_published_draft_is_trained_further(draft, published, import_text, exported, outrider,
                                              tmp_path, name, format, pickle):
    folder = published(name, format)
    _, model = import_text(as_pickle(folder) if pickle else folder)
    assert same_tensors(model, draft(name))
    trained = train_step(outrider, model, tmp_path / "step")[0] / "final"
    assert not same_tensors(trained, model)
    out = exported(trained, format)
    _, back = import_text(out)
    assert same_tensors(back, trained)
    assert recorded(back)["config"] == recorded(trained)["config"]
    _, foreign = import_text(without_record(out))
    assert same_tensors(foreign, trained)


# --- Medusa


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("sizes", [{}, {"medusa_num_heads": 2, "medusa_num_layers": 1}])
def test_the_heads_of_medusa_are_counted(convert, llama, exported, edited, import_text, layers, sizes):
    folder = randomize(convert(llama, "--mode", "medusa", "--set=medusa_num_heads=3",
                               f"--set=medusa_num_layers={layers}"))
    out = exported(folder, "medusa", "--allow-train-serve-mismatch")
    (out / "medusa_lm_head.safetensors").unlink()

    def rewrite(config):
        for key in ("medusa_num_heads", "medusa_num_layers"):
            config.pop(key)
        config.update(sizes, hidden_size=4096)

    text, back = import_text(edited(out, "config.json", rewrite))
    assert same_tensors(back, folder)
    found = recorded(back)["config"]
    assert (found["medusa_num_heads"], found["medusa_num_layers"]) == (3, layers)
    assert ("config.json has medusa_num_heads 2, the tensors 3" if sizes else
            "config.json has no medusa_num_heads: the tensors have 3") in text
