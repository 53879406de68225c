"""Export and import: what goes out in another project's format comes back as it was."""

import json

import numpy as np
import pytest
from exchanged_drafts import (
    ALL, BATCH, DRAFTS, LLAMA3, YARN, randomize, recorded, same_tensors, without_record)
from safetensors.numpy import load_file

ROUND_TRIPS = [(name, format) for name, (_, held) in DRAFTS.items() for format in sorted(held)]
REFUSALS = [(name, format) for name, (_, held) in DRAFTS.items() for format in sorted(ALL - held)]


@pytest.mark.parametrize("name, format", ROUND_TRIPS)
def test_a_round_trip_is_the_identity(draft, exported, imported, name, format):
    folder = exported(draft(name), format)
    back = imported(folder)
    assert same_tensors(back, draft(name))
    assert recorded(back)["config"] == recorded(draft(name))["config"]
    assert recorded(back)["metadata"] == recorded(draft(name))["metadata"]
    assert recorded(back)["mode"] == "eagle"


@pytest.mark.parametrize("name, format", [
    (name, format) for name, format in ROUND_TRIPS
    if name in ("own head", "vocabulary", "epsilon", "linear", "llama3", "yarn", "layers read",
                "biases", "two layers", "parallel heads", "mtp", "five layers read",
                "normed residual", "own embeddings", "own width", "longrope")])
def test_files_without_our_record_compute_the_same(draft, exported, imported, forward, name,
                                                   format):
    back = imported(without_record(exported(draft(name), format)))
    found, expected = (forward(folder, BATCH) for folder in (back, draft(name)))
    assert found["logits.step_0"].std() > 0.1
    for tensor in ("base.aux_hidden", "logits.step_0", "eagle_loss"):
        if tensor in expected:
            assert np.array_equal(found[tensor], expected[tensor]), tensor


@pytest.mark.parametrize("name, format", REFUSALS)
def test_a_draft_that_does_not_fit_is_refused(draft, outrider, tmp_path, name, format):
    words = {"dynamic": "rope type 'dynamic'", "llama3": "rope type 'llama3'",
             "yarn": "rope type 'yarn'",
             "layers read": "always reads the layers 1, L/2-1 and L-4 of the base, which has L=8",
             "biases": "attention_bias=true", "two layers": "num_hidden_layers=2",
             "two layers read": "reads 2 layers of the base",
             "five layers read": "reads 5 layers of the base",
             "normed residual": "norm_before_residual=true",
             "own embeddings": "has_embeddings=true",
             "own width": "draft_hidden_size=20", "own width, fewer tokens": "draft_hidden_size=48",
             "longrope": "rope type 'longrope'", "no norm": "use_last_layernorm=false",
             "parallel heads": "parallel_draft_step=2", "eagle1": "use_aux_hidden_state=false",
             "mtp": "use_mtp_layernorm=true"}
    done = outrider("export", draft(name), "--format", format, "--out", tmp_path / "out", status=4)
    assert f"format '{format}' cannot hold this draft" in done.stderr
    assert words[name] in done.stderr
    assert not (tmp_path / "out").exists()


# --- what the files say


def test_the_layers_read_are_numbered_as_each_format_does(draft, exported):
    def config(format):
        return json.loads((exported(draft("layers read"), format) / "config.json").read_text())

    key = "eagle_aux_hidden_state_layer_ids"
    assert config("hf")["eagle_config"][key] == [0, 4, 7]       # outputs of these layers
    assert config("sglang")["eagle_config"][key] == [0, 4, 7]
    assert config("vllm")[key] == [1, 5, 8]                     # inputs of these layers
    plain = json.loads((exported(draft("plain"), "eagle") / "config.json").read_text())
    assert not [k for k in plain if "aux" in k or k == "eagle_config"]


def test_the_rotary_embedding_is_written_in_each_formats_words(draft, exported):
    def config(name, format):
        return json.loads((exported(draft(name), format) / "config.json").read_text())

    linear = config("linear", "eagle")
    assert linear["rope_scaling"] == {"type": "linear", "factor": 2.0}
    default = config("epsilon", "eagle")
    assert default["rope_scaling"] is None and default["rope_theta"] == 5e5
    for layer in (config("yarn", "sglang"), config("yarn", "vllm")["transformer_layer_config"]):
        assert layer["rope_theta"] == 10000.0
        assert layer["rope_scaling"] == YARN | {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
                                                "mscale_all_dim": 0.0}
        assert layer["rope_parameters"] == layer["rope_scaling"] | {"rope_theta": 10000.0}
    assert config("llama3", "sglang")["rope_scaling"] == LLAMA3


def test_the_export_rope_of_a_default_one_is_written_and_comes_back(convert, llama, exported,
                                                                     imported, forward):
    served = json.dumps({"rope_type": "yarn", "factor": 32.0,
                         "original_max_position_embeddings": 2048})
    folder = randomize(convert(llama, "--mode", "eagle", "--preset", "eagle3",
                               f"--set=eagle_export_rope_scaling={served}"))
    for format in ("hf", "sglang", "vllm"):
        out = exported(folder, format)
        back = imported(out)
        assert recorded(back)["config"] == recorded(folder)["config"]
        assert same_tensors(back, folder)
        # Another program sees YaRN alone.
        config = recorded(imported(without_record(out)))["config"]
        assert config["eagle_export_rope_scaling"] == {}
        rope = config["eagle_architecture_config"]["rope_scaling"]
        assert (rope["rope_type"], rope["factor"]) == ("yarn", 32.0)


@pytest.mark.parametrize("format", ["eagle", "sglang", "vllm"])
def test_the_vocabulary_maps_agree(draft, exported, format):
    tensors = load_file(exported(draft("vocabulary"), format) / "model.safetensors")
    assert tensors["d2t"].dtype == np.int64 and tensors["t2d"].dtype == bool
    assert tensors["t2d"].shape == (64,)
    assert np.array_equal(np.flatnonzero(tensors["t2d"]), tensors["d2t"] + np.arange(24))


def test_the_whole_vocabulary_has_maps_in_sglang_alone(draft, exported):
    tensors = {format: load_file(exported(draft("plain"), format) / "model.safetensors")
               for format in ("eagle", "sglang", "vllm")}
    assert tensors["sglang"]["t2d"].all() and not tensors["sglang"]["d2t"].any()
    for format in ("eagle", "vllm"):
        assert not {"t2d", "d2t"} & set(tensors[format])


def test_vllm_names_the_base_and_what_is_proposed(draft, exported):
    out = exported(draft("plain"), "vllm", "--base-name", "org/base")
    config = json.loads((out / "config.json").read_text())["speculators_config"]
    assert config["verifier"] == {"name_or_path": "org/base", "architectures": ["LlamaForCausalLM"]}
    assert config["proposal_methods"][0]["speculative_tokens"] == 2
    assert json.loads((exported(draft("plain"), "vllm") / "config.json").read_text())[
        "speculators_config"]["verifier"]["name_or_path"] is None


# --- numerics and types


@pytest.mark.parametrize("numerics", ["0.47", "0.42"])
def test_reference_numerics_go_to_no_serving_format(convert, llama, exported, imported, outrider,
                                                    tmp_path, numerics):
    folder = randomize(convert(
        llama, "--mode", "eagle", "--reference-numerics", numerics,
        "--set=eagle_export_rope_scaling={}",
        '--set=eagle_architecture_config={"num_attention_heads": 4, "num_key_value_heads": 2,'
        ' "head_dim": 8, "intermediate_size": 48, "rope_scaling": {"rope_type": "default"},'
        ' "use_aux_hidden_state": true, "use_last_layernorm": true}'))
    for format in ("eagle", "sglang", "vllm"):
        text = outrider("export", folder, "--format", format, "--out", tmp_path / format,
                        status=4).stderr
        assert f"trained with the numerics of ModelOpt {numerics}" in text
        assert "norm the hidden state twice" in text
        assert "--allow-train-serve-mismatch" in text
        out = exported(folder, format, "--allow-train-serve-mismatch")
        assert same_tensors(imported(out), folder)
    back = imported(exported(folder, "hf"))
    assert same_tensors(back, folder)
    assert recorded(back)["metadata"]["reference_numerics"] == numerics
    assert recorded(back)["config"] == recorded(folder)["config"]


def test_import_takes_the_release_that_trained_a_draft(draft, exported, imported):
    out = without_record(exported(draft("plain"), "hf"))
    assert recorded(imported(out))["metadata"]["reference_numerics"] is None
    back = imported(out, "--reference-numerics", "0.47")
    assert recorded(back)["metadata"]["reference_numerics"] == "0.47"


def test_tensors_of_another_type_take_the_bases(draft, exported, imported):
    def halve(tensors):
        for name, tensor in tensors.items():
            if tensor.dtype == np.float32:
                tensors[name] = tensor.astype(np.float16)

    back = load_file(imported(without_record(exported(draft("own head"), "eagle"), halve)) /
                     "model.safetensors")
    before = load_file(draft("own head") / "model.safetensors")
    for name, tensor in back.items():
        assert tensor.dtype == before[name].dtype
        if name.startswith("eagle_module."):
            assert np.array_equal(tensor, before[name].astype(np.float16).astype(np.float32))
