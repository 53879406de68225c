"""A Llama of a Hugging Face folder as one GGUF file, in float32 or bfloat16, for comparisons with llama.cpp."""

import json

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

TYPES = {"float32": gguf.GGMLQuantizationType.F32, "bfloat16": gguf.GGMLQuantizationType.BF16}
LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in names:
        return names[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER[rest.removesuffix('.weight')]}.weight"


def neighbours_rotated(weight, heads):
    """Rows of a query or key matrix in the order in which llama.cpp rotates them: pairs beside each other, where
    Hugging Face has halves."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def converted(name, tensor, config):
    if name.endswith("q_proj.weight"):
        return neighbours_rotated(tensor, config["num_attention_heads"])
    if name.endswith("k_proj.weight"):
        return neighbours_rotated(tensor, config["num_key_value_heads"])
    return tensor


def add_config(writer, config):
    heads = config["num_attention_heads"]
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(theta)
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer, folder, size):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    known = {i: token for token, i in tokenizer.get_vocab().items()}
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([known.get(i, f"<unused{i}>") for i in range(size)])
    writer.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(size)])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)


def write(folder, path, dtype):
    """Norms stay in float32, as llama.cpp wants them."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    add_config(writer, config)
    add_tokenizer(writer, folder, config["vocab_size"])
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            tensor = converted(name, tensor, config)
            if dtype == "bfloat16" and tensor.ndim > 1:
                data = tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
                writer.add_tensor(gguf_name(name), data, raw_dtype=TYPES[dtype])
            else:
                writer.add_tensor(gguf_name(name), tensor.to(torch.float32).numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
