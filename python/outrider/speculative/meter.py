"""Draft metrics between two logs, kept where they were computed so that no step waits."""

import torch

from outrider.speculative.output import DraftMetrics, expected_acceptance_length


class Meter:
    """Means over all trained positions since the last report."""

    def __init__(self) -> None:
        self._steps: dict[str, list[str]] = {}
        self._sums: dict[str, torch.Tensor] = {}  # [4, steps]: loss, accuracy, overlap; count

    def add(self, metrics: DraftMetrics) -> None:
        values = torch.stack([metrics.loss, metrics.accuracy, metrics.overlap])
        sums = torch.cat([values * metrics.count, metrics.count.unsqueeze(0)])
        if self._steps.get(metrics.mode) != metrics.steps:
            self._steps[metrics.mode] = metrics.steps
            self._sums[metrics.mode] = sums
        else:
            self._sums[metrics.mode] = self._sums[metrics.mode].to(sums.device) + sums

    def report(self) -> dict[str, float]:
        """{"eagle/accuracy_STEP": …, "eagle/expected_acceptance_length": …}; starts again."""
        report: dict[str, float] = {}
        for mode, sums in self._sums.items():
            _, accuracies, overlaps = (sums[:3] / sums[3].clamp_min(1)).tolist()
            for step, accuracy, overlap in zip(
                    self._steps[mode], accuracies, overlaps, strict=True):
                report[f"{mode}/accuracy_{step}"] = accuracy
                report[f"{mode}/overlap_{step}"] = overlap
            report[f"{mode}/expected_acceptance_length"] = expected_acceptance_length(accuracies)
        self._steps, self._sums = {}, {}
        return report
