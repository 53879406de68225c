"""Bases whose config.json and tensors say different things: the tensors count, as in transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from exchanged_drafts import BATCH
from runs import train_step
from safetensors.torch import load_file, save_file

TOKENS = {"input_ids": BATCH["input_ids"]}


@pytest.fixture(scope="module")
def changed(llama, tmp_path_factory):
    """changed(config={…}, tensors=change): a copy of the base; a value of None removes the key."""

    def copy(config=None, tensors=None):
        out = tmp_path_factory.mktemp("changed") / "base"
        shutil.copytree(llama, out)
        content = json.loads((out / "config.json").read_text()) | (config or {})
        kept = {key: value for key, value in content.items() if value is not None}
        (out / "config.json").write_text(json.dumps(kept))
        weights = load_file(out / "model.safetensors")
        if tensors:
            tensors(weights)
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
        return out

    return copy


def in_transformers(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    with torch.no_grad():
        return model, model(torch.tensor(TOKENS["input_ids"])).logits.float().numpy()


def close(found, expected):
    return np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def notes(outrider, folder, tmp_path):
    """What is said of a base that is converted, and the converted folder."""
    out = tmp_path / "converted"
    done = outrider("convert", folder, "--mode", "medusa", "--set=medusa_num_heads=0", "--out", out)
    return [line for line in done.stderr.splitlines() if line.startswith("note: ")], out


# --- the head


def test_a_head_of_its_own_is_used_whatever_the_config_says(changed, llama, forward, outrider,
                                                            tmp_path):
    folder = changed({"tie_word_embeddings": True})
    model, logits = in_transformers(folder)
    assert not model.lm_head.weight.equal(model.model.embed_tokens.weight)
    assert close(forward(folder, TOKENS)["logits"], logits)
    said, out = notes(outrider, folder, tmp_path)
    assert len(said) == 1 and "lm_head.weight has values of its own" in said[0]
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    head = load_file(llama / "model.safetensors")["lm_head.weight"]
    assert load_file(out / "model.safetensors")["lm_head.weight"].equal(head)
    assert not outrider("inspect", out).stderr


def tie(weights):
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()


def only_the_head(weights):
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")


@pytest.mark.parametrize("change", [tie, only_the_head])
def test_a_tied_matrix_is_read_under_either_name_and_written_once(changed, forward, outrider,
                                                                  tmp_path, change):
    folder = changed({"tie_word_embeddings": True}, change)
    assert close(forward(folder, TOKENS)["logits"], in_transformers(folder)[1])
    said, out = notes(outrider, folder, tmp_path)
    assert not said
    assert "lm_head.weight" not in load_file(out / "model.safetensors")
    assert close(forward(out, TOKENS)["base.logits"], in_transformers(folder)[1])


def test_a_missing_head_is_not_made_up(changed, outrider, tmp_path):
    folder = changed({"tie_word_embeddings": False}, lambda weights: weights.pop("lm_head.weight"))
    text = outrider("convert", folder, "--mode", "medusa", "--out", tmp_path / "out",
                    status=4).stderr
    assert "missing: lm_head.weight" in text
    assert "set tie_word_embeddings to true" in text
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_its_base_finds_a_head_that_the_config_denies(
        changed, convert, outrider, forward, tmp_path):
    folder = changed({"tie_word_embeddings": True})
    model = convert(folder, "--mode", "medusa", "--set=medusa_num_heads=1")
    run, _ = train_step(outrider, model, tmp_path / "step", "--save", "draft", "--base", folder)
    found = forward(run / "final", TOKENS, "--base", folder)["base.logits"]
    assert close(found, in_transformers(folder)[1])


# --- the type


def in_type(dtype, other=None, names=()):
    def change(weights):
        for name in weights:
            weights[name] = weights[name].to(other if name in names else dtype)

    return change


TYPES = {
    "one type": in_type(torch.bfloat16),
    "the first by name": in_type(torch.bfloat16, torch.float16, {"lm_head.weight"}),
    "not the first": in_type(torch.bfloat16, torch.float32, {"model.norm.weight"}),
}


@pytest.mark.parametrize("case", TYPES)
def test_without_a_dtype_the_tensors_have_one(changed, outrider, tmp_path, case):
    folder = changed({"torch_dtype": None}, TYPES[case])
    expected = str(in_transformers(folder)[0].dtype).removeprefix("torch.")
    said, out = notes(outrider, folder, tmp_path)
    assert len(said) == 1 and f"config.json names no dtype: {expected}" in said[0]
    assert ("of several types" in said[0]) == (case != "one type")
    assert json.loads((out / "config.json").read_text())["dtype"] == expected
    assert outrider("inspect", folder, "--json").json()["base_model"]["dtype"] == expected
    weights = load_file(out / "model.safetensors")
    assert {str(t.dtype) for t in weights.values()} == {f"torch.{expected}"}


# --- the index


def test_an_index_that_is_wrong_about_its_shards(llama, forward, outrider, tmp_path):
    folder = tmp_path / "sharded"
    outrider("convert", llama, "--mode", "medusa", "--set=medusa_num_heads=0", "--out", folder,
             "--max-shard-size", "20KB")
    for record in ("outrider_state.json", "modelopt_state.pth"):
        (folder / record).unlink()
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    places = content["weight_map"]
    del places["model.layers.3.mlp.up_proj.weight"]
    files = sorted(set(places.values()))
    moved = "model.layers.6.self_attn.o_proj.weight"
    places[moved] = next(file for file in files if file != places[moved])
    index.write_text(json.dumps(content))
    said, _ = notes(outrider, folder, tmp_path)
    assert len(said) == 2
    assert "leaves out a tensor" in said[0] and "'model.layers.3.mlp.up_proj.weight'" in said[0]
    assert "misplaces a tensor" in said[1] and f"'{moved}'" in said[1]
    assert np.array_equal(forward(folder, TOKENS)["logits"], forward(llama, TOKENS)["logits"])
    places["model.layers.8.mlp.up_proj.weight"] = files[0]
    index.write_text(json.dumps(content))
    text = outrider("inspect", folder, status=3).stderr
    assert f"'{files[0]}' lacks 'model.layers.8.mlp.up_proj.weight'" in text


# --- rotary embeddings of several lengths


FACTORS = {"short_factor": [1.0, 1.1, 1.5], "long_factor": [1.0, 3.0, 17.0]}
LONGROPES = {
    # As Phi-4-mini has it: a part of a head rotated, the original length beside the dictionary.
    "Phi3": ("Phi3", {"partial_rotary_factor": 0.75, "original_max_position_embeddings": 12,
                      "rope_scaling": {"type": "longrope", **FACTORS}}),
    "Phi3, the default length": ("Phi3", {"partial_rotary_factor": 0.75,
                                          "max_position_embeddings": 8192,
                                          "rope_scaling": {"type": "longrope", **FACTORS}}),
    "Llama, its own factor": ("Llama", {"rope_scaling": {
        "rope_type": "longrope", "factor": 5.0, "original_max_position_embeddings": 12,
        "short_factor": [1.0, 1.1, 1.5, 2.0], "long_factor": [1.0, 3.0, 17.0, 30.0]}}),
    "Llama, its own temperature": ("Llama", {"rope_scaling": {
        "rope_type": "longrope", "factor": 5.0, "attention_factor": 1.7,
        "original_max_position_embeddings": 12,
        "short_factor": [1.0, 1.1, 1.5, 2.0], "long_factor": [1.0, 3.0, 17.0, 30.0]}}),
}


@pytest.fixture(scope="module")
def longrope(tmp_path_factory):
    """longrope(case): a base of two layers with that rotary embedding."""
    import transformers

    def make(case):
        family, rope = LONGROPES[case]
        torch.manual_seed(3)
        config = getattr(transformers, family + "Config")(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
            tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            **{"max_position_embeddings": 96} | rope)
        folder = tmp_path_factory.mktemp("longrope") / "base"
        getattr(transformers, family + "ForCausalLM")(config).save_pretrained(folder)
        content = json.loads((folder / "config.json").read_text())
        content.pop("rope_parameters", None)  # in the words of the published ones
        (folder / "config.json").write_text(json.dumps(content | rope))
        return folder

    return make


@pytest.mark.parametrize("case", LONGROPES)
def test_longrope_below_and_beyond_the_original_length(longrope, forward, case):
    from transformers import AutoModelForCausalLM

    folder = longrope(case)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    random = np.random.default_rng(5)
    for length in (12, 13, 40):
        ids = random.integers(3, 64, (2, length))
        with torch.no_grad():
            expected = model(torch.from_numpy(ids)).logits.numpy()
        assert close(forward(folder, {"input_ids": ids})["logits"], expected), length


def test_a_longrope_with_other_numbers_of_factors_is_refused(longrope, edited, outrider, tmp_path):
    folder = edited(longrope("Phi3"), "config.json",
                    lambda c: c["rope_scaling"].update(long_factor=[1.0, 2.0]))
    text = outrider("convert", folder, "--mode", "medusa", "--out", tmp_path / "out", status=2).stderr
    assert "'long_factor' has 2 numbers, expected 3" in text
    folder = edited(longrope("Phi3"), "config.json",
                    lambda c: c["rope_scaling"].update(short_factor=[1.0, 0.0, 2.0]))
    text = outrider("convert", folder, "--mode", "medusa", "--out", tmp_path / "out", status=2).stderr
    assert "'short_factor' must be a list of positive numbers" in text


def test_a_draft_of_a_longrope_base_is_one_that_engines_compute(longrope, outrider, exported,
                                                                tmp_path):
    out = tmp_path / "draft"
    said = outrider("convert", longrope("Phi3"), "--mode", "eagle", "--preset", "eagle3", "--out",
                    out).stderr
    assert "type 'longrope', on 0.75 of a head" in said and "the draft's is the default one" in said
    layer = json.loads((exported(out, "vllm", "--base-name", "base") / "config.json").read_text())[
        "transformer_layer_config"]
    assert layer["rope_scaling"] is None and layer["rope_theta"] == 10000.0


# --- training beyond the base's length


def test_training_beyond_the_bases_positions_is_said(convert, llama, changed, outrider, tmp_path):
    options = ("--mode", "medusa", "--set=medusa_num_heads=1")
    short = convert(changed({"max_position_embeddings": 16}), *options)
    _, said = train_step(outrider, short, tmp_path / "short")
    assert "the longest conversation has 24 tokens" in said
    assert "max_position_embeddings (16)" in said
    _, said = train_step(outrider, convert(llama, *options), tmp_path / "long")
    assert "max_position_embeddings" not in said
