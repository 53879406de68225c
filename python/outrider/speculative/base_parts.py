"""Where a model of transformers keeps the parts that drafts read."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from outrider.errors import OutriderError

_NORM_NAMES = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f")


@dataclass
class BaseParts:
    """Modules of a base; they belong to the model, this only points at them."""

    embedding: Any
    head: Any
    layers: nn.ModuleList
    decoder: nn.Module
    norm: Any


def text_config(model: nn.Module) -> Any:
    """The config of the part that reads text: the model's own unless it reads other things too."""
    config = getattr(model, "config", None)
    if config is None:
        raise OutriderError(
            f"{type(model).__name__} has no config", "Unsupported",
            "convert takes a causal language model of transformers")
    get = getattr(config, "get_text_config", None)
    return get(decoder=True) if get else config


def _required(value: Any, model: nn.Module, what: str) -> Any:
    if value is None:
        raise OutriderError(
            f"{type(model).__name__} has no {what} that can be found", "Unsupported",
            "convert takes a causal language model of transformers, with its head")
    return value


def _decoder_layers(model: nn.Module, decoder: nn.Module, count: int) -> nn.ModuleList:
    for _, module in decoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    return _required(None, model, f"list of {count} decoder layers")


def _decoder(model: Any) -> nn.Module:
    get = getattr(model, "get_decoder", None)
    decoder = get() if get else None
    return model if decoder is None else decoder


def base_parts(model: Any) -> BaseParts:
    """Raises OutriderError (Unsupported) for what is no causal language model."""
    decoder = _decoder(model)
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    head = getattr(model, "get_output_embeddings", lambda: None)()
    norms = (getattr(decoder, name, None) for name in _NORM_NAMES)
    return BaseParts(
        embedding=_required(embedding, model, "token embedding"),
        head=_required(head, model, "output head"),
        layers=_decoder_layers(model, decoder, text_config(model).num_hidden_layers),
        decoder=decoder,
        norm=next((norm for norm in norms if isinstance(norm, nn.Module)), None),
    )


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with all of its rows, where FSDP keeps a shard on each rank."""
    full = getattr(tensor, "full_tensor", None)
    return full() if full else tensor


def require_plain_head(model: nn.Module, parts: BaseParts) -> None:
    """Drafts compute the base's logits as a product with the head's matrix and nothing else."""
    config = text_config(model)
    changed = []
    if getattr(config, "final_logit_softcapping", None):
        changed.append("caps its logits (final_logit_softcapping)")
    for name in ("logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            changed.append(f"scales its logits ({name})")
    if getattr(parts.head, "bias", None) is not None:
        changed.append("has a bias in its head")
    if changed:
        raise OutriderError(
            f"{type(model).__name__} {' and '.join(changed)}", "Unsupported",
            "drafts are trained on logits that are a plain product with the head")
