"""From the arguments of a forward to what drafts are trained on."""

from typing import Any

import torch

from outrider.errors import OutriderError
from outrider.native import _C

IGNORED = -100


class Labels:
    """Which convention a model's labels follow; the first batch that has any tells."""

    def __init__(self) -> None:
        self._are_unshifted: bool | None = None

    def are_unshifted(self, input_ids: torch.Tensor, labels: torch.Tensor) -> bool:
        """True where labels[t] is token t or -100, as collators of transformers write them; False
        where it is token t+1, as ModelOpt's does. Elsewhere than on the CPU only the first batch is
        looked at, since a look waits. Raises OutriderError (InvalidData) for neither."""
        if self._are_unshifted is not None and not labels.is_cpu:
            return self._are_unshifted
        found = _are_unshifted(input_ids, labels)
        if bool((labels != IGNORED).any()):
            self._are_unshifted = found
        return found


def _are_unshifted(input_ids: torch.Tensor, labels: torch.Tensor) -> bool:
    same = (labels == input_ids) | (labels == IGNORED)
    if bool(same.all()):
        return True
    following = (labels[:, :-1] == input_ids[:, 1:]) | (labels[:, :-1] == IGNORED)
    if bool(following.all()):
        return False
    raise OutriderError(
        "labels are neither the tokens of input_ids nor those that follow them", "InvalidData",
        "give labels[t] = input_ids[t] (or input_ids[t+1]) where a token is trained on, else -100")


def _refuse_packed_rows(positions: torch.Tensor, mask: torch.Tensor | None) -> None:
    starts_again = positions.diff(dim=1) <= 0
    if mask is not None:  # what stands in padding is of no conversation
        seen = mask != 0
        starts_again = starts_again & seen[:, 1:] & seen[:, :-1]
    if bool(starts_again.any()):
        raise OutriderError(
            "position_ids start again inside a row: it holds more than one conversation, and drafts "
            "would attend across them", "Unsupported", "give one conversation a row (no packing)")


def train_batch(arguments: dict[str, Any], labels: Labels) -> Any:
    """A Batch of `input_ids`, `attention_mask`, `position_ids`, `loss_mask` and `labels` [B,S]."""
    batch = _C.Batch()
    batch.input_ids = arguments.get("input_ids")
    if batch.input_ids is None:
        raise OutriderError("input_ids are missing", "InvalidArgument",
                            "drafts are trained on tokens: inputs_embeds alone do not tell them")
    batch.attention_mask = arguments.get("attention_mask")
    if batch.attention_mask is not None and batch.attention_mask.dim() != 2:
        raise OutriderError(f"attention_mask is {list(batch.attention_mask.shape)}, expected [B,S]")
    positions = arguments.get("position_ids")
    if positions is not None and positions.shape == batch.input_ids.shape:
        _refuse_packed_rows(positions, batch.attention_mask)
        batch.position_ids = positions
    batch.loss_mask = arguments.get("loss_mask")
    given = arguments.get("labels")
    if given is None:
        return batch
    if not labels.are_unshifted(batch.input_ids, given):
        batch.labels = given
    elif batch.loss_mask is None:
        batch.loss_mask = (given != IGNORED).to(torch.float32)
    return batch
