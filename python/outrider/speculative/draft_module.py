"""A draft as a module of torch: its tensors are Python's, its computation the plugin's."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from outrider.native import _C
from outrider.speculative.output import DraftMetrics


def _child(module: nn.Module, name: str) -> nn.Module:
    if name not in module._modules:
        module.add_module(name, nn.Module())
    return module._modules[name]


def _owner(root: nn.Module, path: list[str]) -> nn.Module:
    for name in path:
        root = _child(root, name)
    return root


class DraftModule(nn.Module):
    """Parameters and buffers under the draft's names. At each forward the plugin's module is bound
    to the tensors that they are at that moment, so that moving, casting, loading and sharding them
    needs nothing special; gradients arrive at them directly."""

    def __init__(self, attached: Any, device: torch.device | None = None) -> None:
        super().__init__()
        self._attached = attached
        self._names: list[str] = []
        for name, tensor, is_parameter in attached.tensors():
            self._names.append(name)
            *path, last = name.split(".")
            value = tensor if device is None else torch.empty_like(tensor, device=device)
            if is_parameter:
                _owner(self, path).register_parameter(last, nn.Parameter(value))
            else:
                _owner(self, path).register_buffer(last, value)
        attached.release()

    def __getstate__(self) -> dict[str, Any]:
        # The plugin's module is made again by whoever owns this one: see ConvertedModel.
        return {**self.__dict__, "_attached": None}

    def _tensors(self) -> Iterator[torch.Tensor]:
        for name in self._names:
            *path, last = name.split(".")
            owner = _owner(self, path)
            found = owner._parameters.get(last)
            yield owner._buffers[last] if found is None else found

    def _compute_dtype(self, device_type: str) -> torch.dtype | None:
        """The type that autocast asks for, or that of all floating parameters."""
        if torch.is_autocast_enabled(device_type):
            return torch.get_autocast_dtype(device_type)
        floating = (tensor.dtype for tensor in self._tensors() if tensor.is_floating_point())
        return next(floating, None)

    def forward(self, base: Any, batch: Any) -> tuple[torch.Tensor, DraftMetrics]:
        """Loss (0-dim) and metrics for a PassOutputs and a Batch."""
        tensors = list(self._tensors())
        device = tensors[0].device
        dtype = self._compute_dtype(device.type)
        fitted = [_fitted(tensor, device, dtype) for tensor in tensors]
        with torch.autocast(device.type, enabled=False):
            self._attached.bind(fitted)
            loss, steps, values = self._attached.loss(
                _fitted_outputs(base, device, dtype), _fitted_batch(batch, device), self.training)
        return loss, DraftMetrics(self._attached.mode, steps, *values.unbind(0))

    def extra_repr(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"mode={self._attached.mode}, parameters={count}" if self._attached else ""


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
