"""Tokens as text: what `outrider data inspect SHARDS --model`, `data coverage --model` and the report of a
training run show."""

import argparse
import json
import sys
from itertools import groupby
from pathlib import Path

from .chat import load_tokenizer
from .tool import Code, ToolError, offline, run, without_torch


def segments(tokenizer, ids, mask):
    """The text of a conversation in pieces: [{"text", "trained"}]."""
    pieces, position, known = [], 0, ""
    for trained, group in groupby(mask):
        position += len(list(group))
        text = _decode(tokenizer, ids[:position])
        if position < len(ids):
            text = text.rstrip("\ufffd")  # a character whose other bytes follow
        if not text.startswith(known):
            raise ToolError(
                Code.UNSUPPORTED, f"the tokenizer decodes token {position} differently with more "
                "tokens behind it, so that trained text cannot be told apart")
        pieces.append({"text": text[len(known):], "trained": bool(trained)})
        known = text
    return [piece for piece in pieces if piece["text"]]


def texts(decode, stretches):
    """The text of each of these stretches of ids, which follow each other: together they are the text of all."""
    found, ids, known = [], [], ""
    for number, stretch in enumerate(stretches, start=1):
        ids += stretch
        text = decode(ids)
        if number < len(stretches):
            text = text.rstrip("\ufffd")  # a character whose other bytes follow
        if not text.startswith(known):
            return [decode(part) for part in stretches]
        found.append(text[len(known):])
        known = text
    return found


def light_decoder(folder):
    """A function from ids to text that needs no more than the tokenizer's one file, where there is one."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        tokenizer = load_tokenizer(folder)
        return lambda ids: _decode(tokenizer, ids)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False)


def shown(tokenizer, where, ids, mask):
    return {"where": where, "tokens": len(ids), "trained_tokens": sum(mask),
            "segments": segments(tokenizer, ids, mask)}


def _decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _conversations(folder, begin, count):
    """(number, ids, mask) of some conversations in a folder that the program has checked."""
    from safetensors.numpy import load_file

    first = 0
    for shard in json.loads((folder / "shards.json").read_bytes())["shards"]:
        end = first + shard["conversations"]
        if first < begin + count and begin < end:
            content = load_file(folder / shard["file"])
            offsets = content["offsets"]
            for i in range(max(begin, first), min(begin + count, end)):
                part = slice(offsets[i - first], offsets[i - first + 1])
                yield i, content["input_ids"][part].tolist(), content["loss_mask"][part].tolist()
        first = end


def show(options):
    offline()
    without_torch()
    if options.stretches:
        decode = light_decoder(options.model)
        return {"texts": [texts(decode, stretches) for stretches in json.loads(options.stretches)]}
    tokenizer = load_tokenizer(options.model)
    if options.tokens:
        ids = [int(token) for token in options.tokens.split(",")]
        return {"tokens": {str(i): _decode(tokenizer, [i]) for i in ids}}
    found = _conversations(options.shards, options.begin, options.show)
    return {"shown": [shown(tokenizer, f"conversation {i}", ids, mask) for i, ids, mask in found]}


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(prog="python -m outrider.text.show")
    parser.add_argument("--model", type=Path, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shards", type=Path)
    what.add_argument("--tokens", help="ids, separated by commas")
    what.add_argument("--stretches", help="JSON: of each conversation a list of lists of ids")
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--from", type=int, default=0, dest="begin")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run(lambda: show(parse_arguments(sys.argv[1:]))))
