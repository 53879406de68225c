"""Conversations as tests write them, and folders of token shards as tests read them."""

import json

import numpy as np
from safetensors.numpy import load_file


def chat(*turns, **fields):
    """user, assistant, user, …"""
    roles = ["user", "assistant"]
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)],
            **fields}


def conversations(shards):
    """(ids, mask) of each conversation in a folder of shards."""
    found = []
    for shard in json.loads((shards / "shards.json").read_text())["shards"]:
        content = load_file(shards / shard["file"])
        assert content["input_ids"].dtype == np.int32
        assert content["loss_mask"].dtype == np.uint8
        assert content["offsets"].dtype == np.int64
        for begin, end in zip(content["offsets"], content["offsets"][1:]):
            found.append((content["input_ids"][begin:end], content["loss_mask"][begin:end]))
    return found


def trained_runs(ids, mask, tokenizer):
    """The text of each run of tokens that are trained on."""
    runs = np.split(np.arange(len(ids)), np.flatnonzero(np.diff(mask.astype(int))) + 1)
    return [tokenizer.decode(ids[run]) for run in runs if mask[run[0]]]
