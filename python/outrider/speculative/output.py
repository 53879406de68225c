"""What a converted model's forward returns, and its metrics."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

from outrider.native import _C


@dataclass
class DraftMetrics:
    """One draft's steps, in the order in which drafted tokens follow each other. Tensors [steps],
    float32, on the model's device: reading one waits for it."""

    mode: str
    steps: list[str]
    loss: torch.Tensor  # mean over the trained positions, without the step's weight
    accuracy: torch.Tensor  # share of them whose argmax is the target's
    overlap: torch.Tensor  # mean of the sum of min(p, q): acceptance of speculative sampling
    count: torch.Tensor  # trained positions


@dataclass
class SpeculativeOutput(ModelOutput):
    """Losses of a converted model. B sequences, S positions, h hidden size."""

    loss: torch.Tensor | None = None  # drafts' losses, plus lm_loss where the base trains
    logits: torch.Tensor | None = None  # never made for all positions: None
    hidden_states: torch.Tensor | None = None  # [B,S,h], the last one, after the final norm
    lm_loss: torch.Tensor | None = None
    draft_losses: Any = None  # {attribute: 0-dim tensor}
    draft_metrics: Any = None  # {attribute: DraftMetrics}

    @property
    def train_acc(self) -> list[list[float]]:
        """Accuracies of the steps, a list for each draft, as ModelOpt returns them."""
        return [metrics.accuracy.tolist() for metrics in (self.draft_metrics or {}).values()]


def expected_acceptance_length(accuracies: list[float]) -> float:
    """1 + sum over k of the product of the first k accuracies: tokens for each base pass if the
    steps' hits were independent."""
    return _C.expected_acceptance_length(accuracies)
