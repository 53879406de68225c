"""Reads what `outrider train` writes, and trains small drafts."""

import hashlib
import json
import shutil

import numpy as np
from safetensors.numpy import save_file
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


def write_shards(folder, vocabulary=64, lengths=(24, 17, 20, 24)):
    """Token shards of a few drawn conversations, the first third of each not trained on."""
    random = np.random.default_rng(4)
    ids = random.integers(3, vocabulary, sum(lengths))
    ends = np.cumsum(lengths)
    return write_shards_of(folder, vocabulary, [ids[end - length:end] for length, end in zip(lengths, ends)])


def write_shards_of(folder, vocabulary, texts):
    """Token shards of these tokens, the first third of each text not trained on."""
    folder.mkdir()
    lengths = [len(text) for text in texts]
    ids = np.concatenate([np.asarray(text, dtype=np.int32) for text in texts])
    mask = np.concatenate([np.arange(length) >= length // 3 for length in lengths])
    save_file({"input_ids": ids, "loss_mask": mask.astype(np.uint8),
               "offsets": np.cumsum([0, *lengths])}, folder / "shard.safetensors")
    digest = hashlib.sha256((folder / "shard.safetensors").read_bytes()).hexdigest()
    (folder / "shards.json").write_text(json.dumps(
        {"format_version": 1, "kind": "tokens", "vocab_size": vocabulary, "shards": [
            {"file": "shard.safetensors", "sha256": digest, "conversations": len(lengths),
             "tokens": sum(lengths)}]}))
    return folder


def train_step(outrider, model, folder, *options):
    """One step on such shards: the run's folder, and what was said."""
    folder.mkdir()
    done = outrider("train", model, "--data", write_shards(folder / "shards"), "--out",
                    folder / "run", "--max-steps", 1, "--learning-rate", 1e-2, *options)
    return folder / "run", done.stderr
