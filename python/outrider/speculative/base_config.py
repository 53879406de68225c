"""A base's config in the form that Outrider reads, whatever its family calls things."""

import json
from typing import Any

from outrider.native import _C
from outrider.speculative.base_parts import BaseParts, text_config


def _dtype_name(parts: BaseParts) -> str:
    return str(parts.head.weight.dtype).removeprefix("torch.")


def _rope(config: Any) -> dict[str, Any]:
    """The plain rotary embedding with the base's theta: what a draft with the base's sizes starts
    from. Scaled and multi-dimensional ones are the base's affair."""
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)  # one for each kind of layer, in some families
    theta = rope.get("rope_theta") or getattr(config, "rope_theta", None) or 10000.0
    return {"rope_type": "default", "rope_theta": theta}


def _even_head_dim(config: Any, hidden_size: int, heads: int) -> int:
    head_dim = getattr(config, "head_dim", None) or max(2, hidden_size // heads)
    return head_dim + head_dim % 2


def _described(model: Any, parts: BaseParts) -> dict[str, Any]:
    config = text_config(model)
    vocab_size, hidden_size = parts.head.weight.shape
    heads = getattr(config, "num_attention_heads", None) or 1
    return {
        "architectures": [type(model).__name__],
        "model_type": config.model_type,
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": getattr(config, "intermediate_size", None) or 4 * hidden_size,
        "num_hidden_layers": len(parts.layers),
        "num_attention_heads": heads,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": _even_head_dim(config, hidden_size, heads),
        "max_position_embeddings": getattr(config, "max_position_embeddings", None) or 2048,
        "rms_norm_eps": getattr(config, "rms_norm_eps", None) or 1e-6,
        "rope_parameters": _rope(config),
        "dtype": _dtype_name(parts),
    }


def base_config(model: Any, parts: BaseParts) -> str:
    """JSON: config.json itself of a family that Outrider runs natively, else what describes the
    text part under the same keys."""
    if type(model).__name__ not in _C.native_architectures():
        return json.dumps(_described(model, parts))
    config = json.loads(model.config.to_json_string(use_diff=False))
    config["architectures"] = [type(model).__name__]
    config["vocab_size"] = parts.head.weight.shape[0]
    config["dtype"] = _dtype_name(parts)
    for key in ("torch_dtype", "quantization_config"):
        config.pop(key, None)
    return json.dumps(config)
