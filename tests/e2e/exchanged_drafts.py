"""Drafts for the tests of export and import: what they are made of, and which formats hold them."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
         "max_position_embeddings": 128, "rms_norm_eps": 1e-5}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.25, 1.5, 2.0],
            "long_factor": [1.0, 2.5, 5.0, 9.0], "original_max_position_embeddings": 16}
ENGINES = {"sglang", "vllm"}
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
    "two layers read": ({"eagle_aux_hidden_state_layer_ids": [0, 7]}, {"hf", "vllm"}),
    "five layers read": ({"eagle_aux_hidden_state_layer_ids": [0, 2, 3, 5, 7],
                          "has_lm_head": True}, {"hf", "vllm"}),
    "normed residual": ({"norm_before_residual": True, "draft_vocab_size": 24}, {"vllm"}),
    "own embeddings": ({"has_embeddings": True, "has_lm_head": True}, {"vllm"}),
    "own width": ({"draft_hidden_size": 20}, ENGINES | {"eagle"}),
    "own width, fewer tokens": ({"draft_hidden_size": 48, "draft_vocab_size": 24},
                                ENGINES | {"eagle"}),
    "longrope": ({"rope_scaling": LONGROPE}, {"hf"}),
    "no norm": ({"use_last_layernorm": False}, {"hf"}),
    "parallel heads": ({"parallel_draft_step": 2}, {"hf"}),
    "eagle1": ({"use_aux_hidden_state": False}, {"hf"}),
    "mtp": ({"use_aux_hidden_state": False, "use_mtp_layernorm": True}, {"hf"}),
}
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


def change_maps(**maps):
    return lambda tensors: tensors.update(
        {name: change(tensors[name]) for name, change in maps.items()})
