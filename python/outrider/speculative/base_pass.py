"""One pass of the base, with what drafts read of it caught by hooks."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from outrider.native import _C
from outrider.speculative.base_parts import BaseParts, plain


class Request:
    """What all attached drafts read, together."""

    def __init__(self, drafts: list[Any]) -> None:
        wanted = [draft.request() for draft in drafts]
        self.layers = sorted({layer for one in wanted for layer in one["layer_outputs"]})
        self.prenorm = any(one["last_hidden_prenorm"] for one in wanted)
        self.embeddings = any(one["input_embeddings"] for one in wanted)


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _input_of(args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    return args[0] if args else next(iter(kwargs.values()))


class _Catcher:
    """Hooks for the length of one pass: nothing stays on the model."""

    def __init__(self, parts: BaseParts, request: Request) -> None:
        self.parts, self.request = parts, request
        self.outputs = _C.PassOutputs()
        self.layers: dict[int, torch.Tensor] = {}

    def __enter__(self) -> "_Catcher":
        self._hooks = ExitStack()
        parts, request = self.parts, self.request
        for layer in request.layers:
            self._after(parts.layers[layer], partial(self.layers.__setitem__, layer))
        if request.embeddings:
            self._before(parts.layers[0], lambda x: setattr(self.outputs, "input_embeddings", x))
        if request.prenorm and parts.norm is not None:
            self._before(parts.norm, lambda x: setattr(self.outputs, "last_hidden_prenorm", x))
        self._hooks.callback(
            parts.head.register_forward_pre_hook(self._at_head, prepend=True).remove)
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()
        self.outputs.layer_outputs = self.layers

    def _after(self, module: torch.nn.Module, keep: Callable[[torch.Tensor], Any]) -> None:
        def hook(_module: Any, _args: tuple, output: Any) -> None:
            keep(_first(output))

        self._hooks.callback(module.register_forward_hook(hook).remove)

    def _before(self, module: torch.nn.Module, keep: Callable[[torch.Tensor], Any]) -> None:
        def hook(_module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            keep(_input_of(args, kwargs))

        self._hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    # The head then computes one row a sequence instead of [tokens, vocabulary].
    def _at_head(self, _module: Any, args: tuple) -> tuple:
        self.outputs.last_hidden = args[0]
        return (args[0][:, -1:], *args[1:])


def run_base(
    forward: Callable[..., Any], parts: BaseParts, request: Request, trains_base: bool,
    arguments: dict[str, Any],
) -> Any:
    """Runs `forward`, the base's own, and returns a PassOutputs."""
    keeps_graph = trains_base and torch.is_grad_enabled()
    with torch.set_grad_enabled(keeps_graph):
        with _Catcher(parts, request) as catcher:
            forward(**arguments)
        outputs = catcher.outputs
        outputs.embedding_weight = plain(parts.embedding.weight)
        outputs.head_weight = plain(parts.head.weight)
    outputs.carries_gradient = keeps_graph
    return outputs
