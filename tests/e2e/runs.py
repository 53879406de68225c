"""Reads what `outrider train` writes."""

import json
import shutil

from safetensors.torch import load_file

TIMES = {"elapsed_seconds", "tokens_per_second", "trained_tokens_per_second", "peak_memory_mib"}


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(run):
    return [{key: value for key, value in line.items() if key not in TIMES}
            for line in metrics(run)]


def same_tensors(a, b):
    a, b = (load_file(folder / "model.safetensors") for folder in (a, b))
    return sorted(a) == sorted(b) and all(a[name].equal(b[name]) for name in a)


def half_of(run, folder):
    """The run as it was after six steps, with metrics that were written later."""
    folder.mkdir()
    shutil.copytree(run / "checkpoint-6", folder / "checkpoint-6")
    shutil.copy(run / "metrics.jsonl", folder)
    return folder


# Options of the run that is compared with resumed ones.
SHORT = ("--max-steps", 12, "--logging-steps", 2, "--save-steps", 6, "--save-total-limit", 0,
         "--lr-scheduler-type", "cosine", "--warmup-steps", 3)
