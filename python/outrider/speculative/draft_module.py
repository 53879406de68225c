"""A draft as a module of torch: its tensors are Python's, its computation the plugin's."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from outrider.native import _C
from outrider.speculative.output import DraftMetrics


def _holder(tensor: torch.Tensor) -> nn.Module:
    """What holds a parameter: a Linear for a matrix, which tools that look for such (peft) find."""
    if tensor.dim() != 2 or not tensor.is_floating_point():
        return nn.Module()
    return nn.Linear(tensor.shape[1], tensor.shape[0], bias=False, device="meta")


def _place(root: Any, name: str, tensor: torch.Tensor, is_parameter: bool) -> None:
    *path, last = name.split(".")
    for depth, part in enumerate(path, 1):
        if part not in root._modules:
            root.add_module(part, _holder(tensor) if depth == len(path) else nn.Module())
        root = root._modules[part]
    if is_parameter:
        root.register_parameter(last, nn.Parameter(tensor))
    else:
        root.register_buffer(last, tensor)


def _found(root: Any, name: str) -> torch.Tensor:
    """What stands under a name now; with what peft's adapters add to it."""
    *path, last = name.split(".")
    for part in path:
        root = root._modules[part]
    value = getattr(root, last)
    if last != "weight" or not hasattr(root, "get_delta_weight"):
        return value
    if root.merged or root.disable_adapters:
        return value
    deltas = [root.get_delta_weight(adapter) for adapter in root.active_adapters
              if adapter in root.lora_A]
    return sum(deltas, start=value)


def stored_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """What tensors take: the bound on a draft that is made again for them."""
    return sum(tensor.nbytes for tensor in tensors.values())


class DraftModule(nn.Module):
    """Parameters and buffers under the draft's names. At each forward the plugin's module is bound
    to the tensors that they are at that moment, so that moving, casting, loading and sharding them
    needs nothing special; gradients arrive at them directly."""

    _attached: Any

    def __init__(self, attached: Any, device: torch.device | None = None) -> None:
        super().__init__()
        self._attached = attached
        self._names: list[str] = []
        for name, tensor, is_parameter in attached.tensors():
            self._names.append(name)
            value = tensor if device is None else torch.empty_like(tensor, device=device)
            _place(self, name, value, is_parameter)
        attached.release()

    def __getstate__(self) -> dict[str, Any]:
        # In a pickle the plugin's module is made again with the whole model: see ConvertedModel.
        return {**self.__dict__, "_attached": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> "DraftModule":
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        other._attached = self._attached.copy(stored_bytes(self.state_dict()))
        other._attached.release()
        return other

    def _tensors(self) -> list[torch.Tensor]:
        return [_found(self, name) for name in self._names]

    def forward(self, base: Any, batch: Any) -> tuple[torch.Tensor, DraftMetrics]:
        """Loss (0-dim) and metrics for a PassOutputs and a Batch."""
        tensors = self._tensors()
        device = tensors[0].device
        dtype = _compute_dtype(tensors, device.type)
        fitted = [_fitted(tensor, device, dtype) for tensor in tensors]
        with torch.autocast(device.type, enabled=False):
            self._attached.bind(fitted)
            loss, steps, values = self._attached.loss(
                _fitted_outputs(base, device, dtype), _fitted_batch(batch, device), self.training)
        return loss, DraftMetrics(self._attached.mode, steps, *values.unbind(0))

    def extra_repr(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"mode={self._attached.mode}, parameters={count}" if self._attached else ""


def _compute_dtype(tensors: list[torch.Tensor], device_type: str) -> torch.dtype | None:
    """The type that autocast asks for, or that of all floating parameters."""
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def _fitted(tensor: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if tensor is None:
        return None
    return tensor.to(device, dtype if tensor.is_floating_point() else None)


def _fitted_outputs(base: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    fitted = _C.PassOutputs()
    for name in ("input_embeddings", "last_hidden", "last_hidden_prenorm", "embedding_weight",
                 "head_weight"):
        setattr(fitted, name, _fitted(getattr(base, name), device, dtype))
    fitted.layer_outputs = {
        layer: _fitted(hidden, device, dtype) for layer, hidden in base.layer_outputs.items()}
    fitted.carries_gradient = base.carries_gradient
    return fitted


def _fitted_batch(batch: Any, device: torch.device) -> Any:
    for name in ("input_ids", "attention_mask", "position_ids", "loss_mask", "labels"):
        tensor = getattr(batch, name)
        if tensor is not None and tensor.device != device:
            setattr(batch, name, tensor.to(device))
    return batch
