"""Draft metrics in the log of transformers' Trainer."""

from typing import Any

from transformers import TrainerCallback


class DraftMetricsCallback(TrainerCallback):
    """Adds each draft's accuracies and expected acceptance length to every log entry. Trainers that
    are made after a conversion have it by themselves."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None,
               **others: Any) -> None:
        meter = getattr(_inner(model), "_outrider_meter", None)
        if logs is None or meter is None:
            return
        report = meter.report()
        logs.update(report)
        if state.log_history:
            state.log_history[-1].update(report)


def _inner(model: Any) -> Any:
    for name in ("module", "base_model"):
        inner = getattr(model, name, None)
        if inner is not None and not hasattr(model, "_outrider_meter"):
            return _inner(getattr(inner, "model", inner) if name == "base_model" else inner)
    return model


def install() -> None:
    """Makes it one of the callbacks that each Trainer starts with."""
    try:
        from transformers import trainer
    except ImportError:  # the Trainer needs accelerate, which a user without it does not have
        return
    if DraftMetricsCallback not in trainer.DEFAULT_CALLBACKS:
        trainer.DEFAULT_CALLBACKS.append(DraftMetricsCallback)
