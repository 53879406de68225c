"""Draft metrics in the log of transformers' Trainer."""

from typing import Any

from transformers import TrainerCallback


class DraftMetricsCallback(TrainerCallback):
    """Adds each draft's accuracies and expected acceptance length to every log entry. Trainers that
    are made after a conversion have it by themselves."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None,
               **others: Any) -> None:
        meters = getattr(_inner(model), "_outrider_meters", None)
        if logs is None or meters is None:
            return
        report = meters["train"].report() if "loss" in logs else {}
        if any(name.startswith("eval_") for name in logs):
            report |= {f"eval_{name}": value for name, value in meters["eval"].report().items()}
        logs.update(report)
        if state.log_history:
            state.log_history[-1].update(report)


def _inner(model: Any) -> Any:
    for name in ("module", "base_model"):
        inner = getattr(model, name, None)
        if inner is not None and not hasattr(model, "_outrider_meters"):
            return _inner(getattr(inner, "model", inner) if name == "base_model" else inner)
    return model


def install() -> None:
    """Makes it one of the callbacks that each Trainer starts with."""
    try:
        from transformers import trainer
    except ImportError:  # the Trainer needs accelerate, which a user without it does not have
        return
    callbacks: list[Any] = trainer.DEFAULT_CALLBACKS
    if DraftMetricsCallback not in callbacks:
        callbacks.append(DraftMetricsCallback)
