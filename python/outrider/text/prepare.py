"""Conversations to token shards with a loss mask: what `outrider data prepare` runs."""

import argparse
import sys
from datetime import date
from pathlib import Path

from .findings import Findings
from .pipeline import add_reading_options, chat_of, tokenized
from .shard_writer import ShardWriter
from .sources import Source
from .tool import ToolError, offline, run, without_torch
from .unfinished import OutputFolder

FORMAT_VERSION = 1
_START = {"source": 0, "number": 0, "position": 0}


class Preparation:
    """Reads sources into the shards of a folder, from where an interrupted run ended."""

    def __init__(self, options, sources, folder):
        self._options, self._sources, self._folder = options, sources, folder
        state = folder.state or {}
        self._day = date.fromisoformat(state.get("date", date.today().isoformat()))
        self._chat = chat_of(options, self._day)
        folder.begin(self._identity())
        self._at = dict(state.get("at", _START))
        self._trained_tokens = state.get("trained_tokens", 0)
        self._findings = Findings(options.skip_invalid, state.get("findings"))
        self._writer = ShardWriter(folder.path, options.shard_tokens, state.get("shards", []))
        if state:
            print(f"continuing behind {len(self._writer.shards)} finished shards", file=sys.stderr)
        else:
            self._save()

    def run(self):
        """The description of the finished shards."""
        for i in range(self._at["source"], len(self._sources)):
            if i > self._at["source"]:
                self._at = {**_START, "source": i}
                self._findings.begin_file()
            self._read(self._sources[i])
            if self._findings.are_hopeless():
                break
        self._writer.flush()
        self._findings.check(self._writer.shards)
        self._findings.tell(self._chat.template)
        for source in self._sources:
            source.check_unchanged()
        return self._description()

    def _read(self, source):
        lines = tokenized(self._chat, source, self._options, self._at["number"],
                          self._at["position"])
        for line in lines:
            if self._writer.is_full_for(line.tokens()):
                self._writer.flush()
                self._at.update(number=line.number - 1, position=line.begin)
                self._save()
            for ids, mask in self._findings.take(source, line):
                self._writer.add(ids, mask)
                self._trained_tokens += mask.count(1)
            if self._findings.are_hopeless():
                return
        self._findings.end_file(source)

    def _save(self):
        self._folder.save({
            "identity": self._identity(), "date": self._day.isoformat(), "at": self._at,
            "shards": self._writer.shards, "findings": self._findings.counts(),
            "trained_tokens": self._trained_tokens})

    def _identity(self):
        """What decides the bytes of the result."""
        return {
            "format_version": FORMAT_VERSION, "--max-length": self._options.max_length,
            "--shard-tokens": self._options.shard_tokens,
            "--skip-invalid": self._options.skip_invalid,
            **{f"file {i + 1}": source.description() for i, source in enumerate(self._sources)},
            **self._chat.identity()}

    def _description(self):
        counts = self._findings.counts()
        dated = self._chat.template.asks_for_the_date()
        return {
            "format_version": FORMAT_VERSION, "kind": "tokens",
            "max_length": self._options.max_length,
            "vocab_size": self._chat.vocab_size,
            "conversations": self._writer.total("conversations"),
            "tokens": self._writer.total("tokens"), "trained_tokens": self._trained_tokens,
            "dropped_without_trained_token": counts["untrained"],
            "dropped_invalid": counts["invalid"], "noted": self._findings.noted(),
            "sources": [source.description() for source in self._sources],
            "shards": self._writer.shards, **self._chat.description(),
            **({"date": self._day.isoformat()} if dated else {})}


def prepare(options):
    offline()
    without_torch()
    sources = [Source(path) for path in options.files]
    folder = OutputFolder(options.out, options.resume)
    try:
        description = Preparation(options, sources, folder).run()
        folder.finish(description)
        return description
    except (KeyboardInterrupt, ToolError) as e:
        folder.abandon(e)
        raise


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(prog="python -m outrider.text.prepare")
    add_reading_options(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shard-tokens", type=int, required=True)
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run(lambda: prepare(parse_arguments(sys.argv[1:]))))
