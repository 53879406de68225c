"""convert(): from a mode request to a model with drafts."""

import json
import logging
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from outrider.errors import OutriderError
from outrider.speculative.converted import Building

logger = logging.getLogger("outrider")
Model = TypeVar("Model", bound=nn.Module)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _mode_json(mode: Any) -> str:
    try:
        return json.dumps(_plain(mode))
    except TypeError as error:
        raise OutriderError(
            f"mode: {error}", "InvalidArgument",
            "accepted are a mode name, a list of (name, config) pairs, or a preset dict") from None


def convert(
    model: Model, mode: Any, *, seed: int = 0, reference_numerics: str | None = None,
    draft_vocabulary: torch.Tensor | None = None,
) -> Model:
    """Attaches drafts to a causal language model of transformers, in place, and returns it.

    mode: a name ("medusa"), a list of names or (name, config) pairs, or a preset
      {"algorithm": NAME, "config": {…}}; an empty one changes nothing. Configs are dicts or
      ModeConfigs.
    seed: of the drafts' initial values.
    reference_numerics: "0.47" or "0.42" for those of that release of ModelOpt.
    draft_vocabulary: [Vd] int64, strictly increasing base token ids that the draft knows.

    Drafts get the type of the base's head and the device of its last layer. Raises OutriderError
    (UnknownMode, InvalidConfig, AlreadyConverted, Unsupported, …); the model is then as it was.
    """
    if not mode:
        return model
    building = Building(model)
    notes = building.external.convert(_mode_json(mode), seed, reference_numerics, draft_vocabulary)
    for note in notes:
        logger.info("%s", note)
    building.attach()
    return model
