"""One file, or a folder, for a conversion."""

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from outrider.errors import OutriderError
from outrider.native import _C
from outrider.speculative.base_parts import plain
from outrider.speculative.converted import Building, converted
from outrider.speculative.draft_module import stored_bytes

Model = TypeVar("Model", bound=nn.Module)


def _once(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without further names of tied weights."""
    seen: dict[tuple, str] = {}
    return {name: tensor for name, tensor in tensors.items()
            if seen.setdefault(_place(tensor), name) == name}


def _place(tensor: torch.Tensor) -> tuple:
    return (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())


def save(model: nn.Module, file: Any) -> None:
    """Writes base, drafts and what they record into one file, atomically. Where FSDP shards the
    model every process must call it, and rank 0 writes."""
    record = converted(model)._outrider.record()
    tensors = {name: plain(tensor).detach().cpu() for name, tensor in model.state_dict().items()}
    if torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
        return
    _C.save_file(record, _once(tensors), str(Path(file).resolve()))


def restore(model: Model, path: Any, *, reference_numerics: str | None = None) -> Model:
    """Rebuilds on an unconverted base what save() or save_pretrained() wrote, in Python, by the
    program or by ModelOpt; returns the same object. Strict: missing, unexpected and mis-shaped
    tensors raise OutriderError (TensorMismatch), all named; the model is then of no use."""
    record, tensors = _C.read_stored(str(Path(path).resolve()), reference_numerics)
    building = Building(model)
    building.external.rebuild(record, str(path), stored_bytes(tensors))
    building.attach()
    base = json.loads(record.json())["base_model"]
    _load(model, tensors, str(path), drafts_only="reference" in base)
    return model


def _load(model: nn.Module, tensors: dict[str, torch.Tensor], path: str, drafts_only: bool) -> None:
    known = dict(model.state_dict())
    targets = _once(known)
    if drafts_only:
        drafts = tuple(f"{name}." for name in converted(model)._outrider_attributes)
        targets = {name: target for name, target in targets.items() if name.startswith(drafts)}
    problems = [f"missing {name}" for name in targets.keys() - tensors.keys()]
    problems += [f"unexpected {name}" for name in tensors.keys() - known.keys()]
    for name in targets.keys() & tensors.keys():
        if targets[name].shape != tensors[name].shape:
            problems.append(f"{name} is {list(tensors[name].shape)}, "
                            f"expected {list(targets[name].shape)}")
    if problems:
        raise OutriderError(f"{path}: {'; '.join(sorted(problems))}", "TensorMismatch",
                            "restore onto the base model that was converted")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])
