"""Export and import: what goes out in another project's format comes back as it was."""

import itertools
import json
import os
import subprocess

import numpy as np
import pytest
from conftest import REFERENCE, ROOT
from safetensors.numpy import load_file, save_file

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
         "max_position_embeddings": 128, "rms_norm_eps": 1e-5}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
ENGINES = {"sglang", "vllm"}
PEERS = ROOT / ".venv-peers/bin/python"
ALL = ENGINES | {"eagle", "hf"}

# A draft's architecture, and the formats that can hold it.
DRAFTS = {
    "plain": ({}, ALL),
    "own head": ({"has_lm_head": True}, ALL),
    "vocabulary": ({"draft_vocab_size": 24}, ALL),
    "grouped keys": ({"num_key_value_heads": 1, "head_dim": 16}, ALL),
    "epsilon": ({"rms_norm_eps": 1e-3, "rope_theta": 5e5,
                 "rope_scaling": {"rope_type": "default"}}, ALL),
    "linear": ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, ALL),
    "dynamic": ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, {"eagle", "hf"}),
    "llama3": ({"rope_scaling": LLAMA3, "rope_theta": 5e5}, ENGINES | {"hf"}),
    "yarn": ({"rope_scaling": YARN}, ENGINES | {"hf"}),
    "layers read": ({"eagle_aux_hidden_state_layer_ids": [0, 4, 7]}, ENGINES | {"hf"}),
    "biases": ({"attention_bias": True, "mlp_bias": True}, {"vllm", "hf"}),
    "two layers": ({"num_hidden_layers": 2, "draft_vocab_size": 24}, {"vllm", "hf"}),
    "two layers read": ({"eagle_aux_hidden_state_layer_ids": [0, 7]}, {"hf"}),
    "no norm": ({"use_last_layernorm": False}, {"hf"}),
    "parallel heads": ({"parallel_draft_step": 2}, {"hf"}),
    "eagle1": ({"use_aux_hidden_state": False}, {"hf"}),
    "mtp": ({"use_aux_hidden_state": False, "use_mtp_layernorm": True}, {"hf"}),
}
ROUND_TRIPS = [(name, format) for name, (_, held) in DRAFTS.items() for format in sorted(held)]
REFUSALS = [(name, format) for name, (_, held) in DRAFTS.items() for format in sorted(ALL - held)]
BATCH = {"input_ids": [list(range(3, 63, 3)), list(range(63, 3, -3))]}


def make_base(folder, **changes):
    """A Llama with random weights."""
    sizes = SIZES | changes
    h, inner, heads = sizes["hidden_size"], sizes["intermediate_size"], sizes["head_dim"]
    keys = sizes["num_key_value_heads"] * heads
    random = np.random.default_rng(1)
    shapes = {"model.embed_tokens.weight": (sizes["vocab_size"], h),
              "lm_head.weight": (sizes["vocab_size"], h), "model.norm.weight": (h,)}
    for i in range(sizes["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        shapes |= {layer + "input_layernorm.weight": (h,),
                   layer + "post_attention_layernorm.weight": (h,),
                   layer + "self_attn.q_proj.weight": (sizes["num_attention_heads"] * heads, h),
                   layer + "self_attn.k_proj.weight": (keys, h),
                   layer + "self_attn.v_proj.weight": (keys, h),
                   layer + "self_attn.o_proj.weight": (h, sizes["num_attention_heads"] * heads),
                   layer + "mlp.gate_proj.weight": (inner, h),
                   layer + "mlp.up_proj.weight": (inner, h),
                   layer + "mlp.down_proj.weight": (h, inner)}
    folder.mkdir()
    save_file({name: (random.standard_normal(shape) * (0.2 if len(shape) == 2 else 0.1) +
                      (len(shape) == 1)).astype(np.float32)
               for name, shape in shapes.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(sizes | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32"}))
    return folder


def randomize(folder):
    """Gives the draft in a folder values that no initialisation has."""
    random = np.random.default_rng(2)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        if name == "eagle_module.d2t":
            ids = np.sort(random.choice(SIZES["vocab_size"], len(tensor), replace=False))
            weights[name] = ids - np.arange(len(tensor))
        elif name.startswith(("eagle_module.", "medusa_heads.")):
            weights[name] = (random.standard_normal(tensor.shape) * 0.2 +
                             (tensor.ndim == 1)).astype(tensor.dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("formats") / "base")


@pytest.fixture(scope="session")
def draft(convert, base):
    """draft(name): the base with that draft, one of DRAFTS."""
    made = {}

    def make(name):
        if name not in made:
            settings = [f"--set=eagle_architecture_config.{key}={json.dumps(value)}"
                        for key, value in DRAFTS[name][0].items()]
            made[name] = randomize(convert(base, "--mode", "eagle", "--preset", "eagle3",
                                           "--set=eagle_ttt_steps=2", *settings))
        return made[name]

    return make


@pytest.fixture(scope="session")
def exported(outrider, tmp_path_factory):
    """exported(folder, format, *options): the folder that export writes."""
    numbers = itertools.count()

    def run(folder, format, *options):
        out = tmp_path_factory.mktemp("exported") / f"{format}-{next(numbers)}"
        outrider("export", folder, "--format", format, "--out", out, *options)
        return out

    return run


@pytest.fixture(scope="session")
def imported(outrider, base, tmp_path_factory):
    """imported(folder, *options): the base with the draft of an exported folder."""
    numbers = itertools.count()

    def run(folder, *options, onto=None):
        out = tmp_path_factory.mktemp("imported") / f"model-{next(numbers)}"
        outrider("import", folder, "--base", onto or base, "--out", out, *options)
        return out

    return run


def recorded(folder):
    return json.loads((folder / "outrider_state.json").read_text())["modes"][0]


def without_record(folder, change=lambda tensors: None, file="model.safetensors"):
    """Rewrites a folder's tensors as another program would, after a change."""
    weights = load_file(folder / file)
    change(weights)
    save_file(weights, folder / file, metadata={"format": "pt"})
    return folder


def same_tensors(one, other, prefix=""):
    found, expected = (load_file(folder / "model.safetensors") for folder in (one, other))
    found, expected = ({n: t for n, t in w.items() if n.startswith(prefix)}
                       for w in (found, expected))
    assert list(found) == list(expected)
    return all(np.array_equal(found[name], expected[name]) for name in expected)


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
                "biases", "two layers", "parallel heads", "mtp")])
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
             "two layers read": "reads 2 layers of the base", "no norm": "use_last_layernorm=false",
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


def test_the_export_rope_of_a_default_one_is_written_and_comes_back(convert, base, exported,
                                                                     imported, forward):
    served = json.dumps({"rope_type": "yarn", "factor": 32.0,
                         "original_max_position_embeddings": 2048})
    folder = randomize(convert(base, "--mode", "eagle", "--preset", "eagle3",
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
def test_reference_numerics_go_to_no_serving_format(convert, base, exported, imported, outrider,
                                                    tmp_path, numerics):
    folder = randomize(convert(
        base, "--mode", "eagle", "--reference-numerics", numerics,
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


# --- files that are wrong


def break_tensors(tensors):
    del tensors["norm.weight"], tensors["midlayer.mlp.up_proj.weight"]
    tensors["midlayer.mlp.gate_proj.weight"] = np.zeros((48, 31), np.float32)
    tensors["layers.0.extra.weight"] = np.zeros(3, np.float32)
    tensors["surprise\x1b[2J"] = np.zeros(3, np.float32)
    tensors["t2d"] = np.roll(tensors["t2d"], 1)
    tensors["embed_tokens.weight"] = np.ones((64, 32), np.float32)


@pytest.mark.parametrize("format", ["eagle", "sglang"])
def test_everything_wrong_with_the_tensors_is_named_at_once(draft, exported, outrider, base,
                                                            tmp_path, format):
    folder = without_record(exported(draft("vocabulary"), format), break_tensors)
    text = outrider("import", folder, "--base", base, "--out", tmp_path / "out", status=4).stderr
    for part in ("missing: norm.weight", "missing: midlayer.mlp.up_proj.weight",
                 "midlayer.mlp.gate_proj.weight is [48,31] Float, expected [48,32] Float",
                 "unexpected: layers.0.extra.weight", "unexpected: surprise\\x1b[2J",
                 "d2t and t2d disagree: t2d marks 24 tokens, d2t names 24; draft id ",
                 "differs from the base's, which a draft here cannot replace: embed_tokens.weight"):
        assert part in text, text
    assert "\x1b" not in text
    assert not (tmp_path / "out").exists()


def change_maps(**maps):
    return lambda tensors: tensors.update(
        {name: change(tensors[name]) for name, change in maps.items()})


MAPS = {
    "a token less in t2d": (
        change_maps(t2d=lambda t: t & (np.arange(64) != np.flatnonzero(t)[-1])),
        "t2d marks 23 tokens, d2t names 24; one is the beginning of the other"),
    "out of order": (change_maps(d2t=lambda d: d[::-1].copy()), "must be increasing token ids below"),
    "outside": (change_maps(d2t=lambda d: d + 64), "must be increasing token ids below 64"),
    "negative": (change_maps(d2t=lambda d: d - 64), "must be increasing token ids below 64"),
    "short d2t": (change_maps(d2t=lambda d: d[:9].copy()), "d2t is [9] Long, expected [24] Long"),
    "d2t of floats": (change_maps(d2t=lambda d: d.astype(np.float32)), "d2t is [24] Float"),
    "t2d of numbers": (change_maps(t2d=lambda t: t.astype(np.int64)), "t2d is [64] Long, expected"),
    "no t2d": (lambda tensors: tensors.pop("t2d"), "missing: t2d"),
    "no d2t": (lambda tensors: tensors.pop("d2t"), "missing: d2t"),
}


@pytest.mark.parametrize("case", MAPS)
def test_vocabulary_maps_that_disagree_are_refused(draft, exported, outrider, base, tmp_path, case):
    change, expected = MAPS[case]
    folder = without_record(exported(draft("vocabulary"), "vllm"), change)
    text = outrider("import", folder, "--base", base, "--out", tmp_path / "out", status=4).stderr
    assert expected in text


CONFIGS = {
    "normed residual": ("vllm", lambda c: c.update(norm_before_residual=True), 4,
                        ["'norm_before_residual' is not false"]),
    "unsaid residual": ("vllm", lambda c: c.pop("norm_before_residual"), 4,
                        ["speculators reads as false and vLLM as true"]),
    "all flags": ("vllm", lambda c: c.update(norm_before_fc=True, fc_norm=True, norm_output=True), 4,
                  ["'norm_before_fc'", "'fc_norm'", "'norm_output'"]),
    "another algorithm": ("vllm", lambda c: c.update(speculators_model_type="dflash"), 4,
                          ['is "dflash", supported is "eagle3"']),
    "another decoder": ("vllm", lambda c: c["transformer_layer_config"].update(model_type="qwen3"), 4,
                        ['model_type\' is "qwen3"']),
    "layer 0's input": ("vllm", lambda c: c.update(eagle_aux_hidden_state_layer_ids=[0, 2, 4]), 4,
                        ["is [0,2,4], expected increasing layer numbers from 1 on"]),
    "unordered layers": (
        "sglang", lambda c: c["eagle_config"].update(eagle_aux_hidden_state_layer_ids=[4, 2, 1]), 4,
        ["is [4,2,1], expected increasing layer numbers from 0 on"]),
    "a layer that is not there": (
        "sglang", lambda c: c["eagle_config"].update(eagle_aux_hidden_state_layer_ids=[1, 2, 8]), 2,
        ["eagle reads the layers [1, 2, 8], but the base has 8 layers"]),
    "SpecForge's flags": ("sglang", lambda c: c.update(fc_norm=True, norm_output=False), 4,
                          ["'fc_norm'", "no norm before the head"]),
    "two embeddings": (
        "sglang", lambda c: c.update(rope_scaling={"rope_type": "linear", "factor": 2.0}), 4,
        ["'rope_scaling' and 'rope_parameters' describe different rotary embeddings"]),
    "unknown key": ("hf", lambda c: c["eagle_config"].update(mixer="x"), 4,
                    ["'eagle_config.mixer' is not known"]),
    "a rope it never had": ("eagle", lambda c: c.update(rope_scaling=LLAMA3), 4,
                            ["EAGLE's program knows null and the types linear and dynamic"]),
    "sliding window": ("eagle", lambda c: c.update(sliding_window=16), 4, ["'sliding_window' is 16"]),
    "wrong sizes": ("eagle", lambda c: c.update(hidden_size=16, vocab_size=65), 4,
                    ["hidden_size is 32 in the base, 16 in the draft's files",
                     "vocab_size is 64 in the base, 65 in the draft's files"]),
    "huge": ("eagle", lambda c: c.update(intermediate_size=2**20), 4,
             ["far larger than the tensors beside it"]),
    "mistyped": ("eagle", lambda c: c.update(num_attention_heads="4", intermediate_size=-1), 2,
                 ["num_attention_heads", "intermediate_size"]),
    "mistyped vocabulary": ("hf", lambda c: c.update(draft_vocab_size=65), 2,
                            ["'draft_vocab_size' is 65, expected an integer from 1 to 64"]),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_mean_something_else_are_refused(draft, exported, outrider, base, tmp_path,
                                                      edited, case):
    format, change, status, parts = CONFIGS[case]
    folder = edited(exported(draft("plain"), format), "config.json", change)
    text = outrider("import", folder, "--base", base, "--format", format, "--out", tmp_path / "out",
                    status=status).stderr
    for part in parts:
        assert part in text, text
    assert not (tmp_path / "out").exists()


def test_the_config_wins_over_our_record(draft, exported, imported, edited):
    folder = edited(exported(draft("plain"), "sglang"), "config.json",
                    lambda c: c["eagle_config"].update(eagle_aux_hidden_state_layer_ids=[0, 2, 5]))
    mode = recorded(imported(folder))
    assert mode["metadata"]["aux_layer_ids"] == [0, 2, 5]
    assert mode["config"]["eagle_ttt_steps"] == 2


@pytest.mark.parametrize("record", ["[]", "{", '{"config": {"eagle_ttt_steps": "x"}, "metadata": {}}'])
def test_a_record_that_is_none_is_refused(draft, exported, outrider, base, tmp_path, record):
    folder = exported(draft("plain"), "eagle")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors",
              metadata={"outrider_draft": record})
    done = outrider("import", folder, "--base", base, "--out", tmp_path / "out",
                    status=2 if "ttt" in record else 3)
    assert ("eagle_ttt_steps" if "ttt" in record else "outrider_draft") in done.stderr


# --- which format, which base


def test_the_format_is_recognized(draft, exported, outrider, base, tmp_path):
    for format in sorted(ALL):
        found = outrider("import", exported(draft("plain"), format), "--base", base, "--json",
                         "--out", tmp_path / format).json()
        assert (found["mode"], found["format"]) == ("eagle", format)


def test_a_folder_of_no_format_is_refused(outrider, base, tmp_path):
    text = outrider("import", base, "--base", base, "--out", tmp_path / "out", status=2).stderr
    assert "looks like no format that can be imported" in text
    assert "known are: eagle, hf, medusa, sglang, vllm" in text
    text = outrider("import", base, "--base", base, "--format", "vlm", "--out", tmp_path / "out",
                    status=2).stderr
    assert "there is no format 'vlm' to import" in text and "did you mean 'vllm'" in text
    (tmp_path / "empty").mkdir()
    text = outrider("import", tmp_path / "empty", "--base", base, "--out", tmp_path / "out",
                    status=3).stderr
    assert "has no config.json" in text


def test_a_folder_that_fits_two_formats_is_refused(draft, exported, edited, outrider, base,
                                                   tmp_path):
    folder = edited(exported(draft("plain"), "sglang"), "config.json",
                    lambda c: c.update(speculators_model_type="eagle3"))
    text = outrider("import", folder, "--base", base, "--out", tmp_path / "out", status=2).stderr
    assert "fits several formats" in text
    assert "--mode eagle --format sglang" in text and "--mode eagle --format vllm" in text


def test_a_pickle_is_not_read(draft, exported, outrider, base, tmp_path):
    folder = exported(draft("plain"), "eagle")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    text = outrider("import", folder, "--base", base, "--out", tmp_path / "out", status=3).stderr
    assert "neither model.safetensors nor" in text


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


def test_a_token_twice_is_refused(draft, exported, outrider, base, tmp_path):
    folder = without_record(exported(draft("vocabulary"), "hf"),
                            change_maps(d2t=lambda d: np.concatenate([d[:1], d[:1] - 1, d[2:]])))
    text = outrider("import", folder, "--base", base, "--out", tmp_path / "out", status=4).stderr
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
def medusa(convert, base):
    return randomize(convert(base, "--mode", "medusa", "--set=medusa_num_heads=3",
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
    foreign = imported(without_record(out, file="medusa_lm_head.safetensors"))
    assert same_tensors(foreign, medusa)
    assert recorded(foreign)["config"]["medusa_num_heads"] == 3


def test_medusas_blocks_must_be_one(convert, base, exported, imported, outrider, tmp_path):
    folder = randomize(convert(base, "--mode", "medusa", "--set=medusa_num_layers=2"))
    text = outrider("export", folder, "--format", "medusa", "--out", tmp_path / "out",
                    status=4).stderr
    assert "medusa_num_layers=2: Medusa's own program applies one residual block" in text
    back = imported(exported(folder, "medusa", "--allow-train-serve-mismatch"))
    assert same_tensors(back, folder)


def test_wrong_medusa_files_are_refused(medusa, exported, outrider, base, tmp_path, edited):
    def change(tensors):
        del tensors["0.0.linear.bias"]
        tensors["1.1.weight"] = np.zeros((63, 32), np.float32)
        tensors["3.1.weight"] = np.zeros((64, 32), np.float32)

    def refused(folder, status):
        return outrider("import", folder, "--base", base, "--out", tmp_path / "out",
                        status=status).stderr

    out = exported(medusa, "medusa")
    text = refused(edited(out, "config.json", lambda c: c.update(medusa_num_heads=-1)), 2)
    assert "'medusa_num_heads' is -1, expected an integer from 0 to 64" in text
    text = refused(without_record(out, change, "medusa_lm_head.safetensors"), 4)
    assert "missing: 0.0.linear.bias" in text and "unexpected: 3.1.weight" in text
    assert "1.1.weight is [63,32] Float, expected [64,32] Float" in text
    (out / "medusa_lm_head.safetensors").rename(out / "medusa_lm_head.pt")
    assert "medusa_lm_head.pt is a Python pickle, which Outrider does not run" in refused(out, 4)


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
        capture_output=True, timeout=60,
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
     ["plain", "vocabulary", "epsilon", "llama3", "yarn", "biases", "two layers"]),
    ("sglang", "read_specforge.py",
     ["plain", "vocabulary", "grouped keys", "epsilon", "linear", "llama3", "yarn"])])
def test_the_readers_compute_the_same_logits(draft, base, exported, forward, tmp_path, format,
                                             script, names):
    ids = np.array(BATCH["input_ids"][:1])
    ours = {name: forward(draft(name), {"input_ids": ids}) for name in names}
    embeddings = load_file(base / "model.safetensors")["model.embed_tokens.weight"]

    def batch_of(name):
        return {"hidden": ours[name]["base.aux_hidden"][:, :-1].copy(),
                "input_ids": ids[:, 1:].copy(), "embeddings": embeddings[ids[:, 1:]]}

    exports = {name: exported(draft(name), format, "--base-name", base) for name in names}
    for name, found in peer_results(script, exports, batch_of, tmp_path).items():
        expected = ours[name]["logits.step_0"][:, :-1]
        assert expected.std() > 0.1
        check_logits(found["logits"], expected)
        weights = load_file(draft(name) / "model.safetensors")
        if "eagle_module.d2t" in weights:
            d2t = weights["eagle_module.d2t"]
            assert np.array_equal(found["target_ids"], d2t + np.arange(len(d2t)))
