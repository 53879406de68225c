"""Conversations to token shards with a loss mask: what `outrider data prepare` runs."""

import argparse
import json
import os
import signal
import sys
import time
from array import array
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from .chat import Chat
from .conversations import Problem, Source, parse
from .shard_writer import ShardWriter
from .tool import Code, Progress, ToolError, atomic_folder, offline, run, without_torch

FORMAT_VERSION = 1
LINES_PER_TASK = 64
TASK_BYTES = 4 << 20
PROBLEM_LIMIT = 20

_chat = None  # inherited by the worker processes


def _tokenize(lines, max_length):
    """For each (number, line): (number, ids, mask, None) or (number, None, None, problem)."""
    results = []
    for number, line in lines:
        try:
            ids, mask = _chat.tokenize(parse(line), max_length)
            if ids and max(ids) >= _chat.vocab_size:
                raise Problem(f"token id {max(ids)} is outside the model's vocabulary")
            if ids and 0 not in mask:
                raise Problem("every token would be trained on: the template renders no prompt")
            results.append((number, array("i", ids).tobytes(), mask, None))
        except Problem as problem:
            results.append((number, None, None, str(problem)))
    return results


def _leave_signals_to_parent():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _tasks(lines):
    task, size = [], 0
    for number, line in lines:
        task.append((number, line))
        size += len(line)
        if len(task) == LINES_PER_TASK or size >= TASK_BYTES:
            yield task
            task, size = [], 0
    if task:
        yield task


def _in_order(tasks, max_length, workers):
    """The results of all tasks in their order, a bounded number of them in flight."""
    if workers == 1:
        for task in tasks:
            yield from _tokenize(task, max_length)
        return
    with ProcessPoolExecutor(workers, get_context("fork"), _leave_signals_to_parent) as pool:
        pending = deque()
        try:
            for task in tasks:
                pending.append(pool.submit(_tokenize, task, max_length))
                if len(pending) >= 4 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool as e:
            raise ToolError(
                Code.TOOL_MISSING, "a worker process ended unexpectedly",
                "the machine may be out of memory: use fewer --workers") from e
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Preparation:
    """What was kept, dropped and refused while sources are read into a writer."""

    def __init__(self, options, writer):
        self.options, self.writer = options, writer
        self.untrained, self.invalid, self.problems = 0, 0, []

    def read(self, source):
        """Reads one file; stops early when too much of it is wrong."""
        progress = Progress(source.path.name, time.monotonic)
        results = _in_order(_tasks(source.lines()), self.options.max_length, self.options.workers)
        for number, ids, mask, problem in results:
            progress.update(source.share_read(), f"{self.writer.trained_tokens:,} trained tokens")
            self._take(source, number, ids, mask, problem)
            if self.is_hopeless():
                break
        progress.finish()

    def is_hopeless(self):
        return len(self.problems) == PROBLEM_LIMIT and not self.options.skip_invalid

    def check(self):
        if self.problems and not self.options.skip_invalid:
            raise ToolError(
                Code.INVALID_DATA, "lines that are no usable conversations:\n" + self._listing(),
                "correct them, or leave them out with --skip-invalid")
        if not self.writer.shards:
            raise ToolError(
                Code.INVALID_DATA,
                f"no conversation with a token to train on is left ({self.untrained} without one, "
                f"{self.invalid} invalid)",
                "conversations need an answer of the assistant that begins before --max-length")
        if self.problems:
            print("skipped invalid lines:\n" + self._listing(), file=sys.stderr)

    def _take(self, source, number, ids, mask, problem):
        if problem is not None:
            self.invalid += 1
            if len(self.problems) < PROBLEM_LIMIT:
                self.problems.append(f"{source.path}:{number}: {problem}")
        elif 1 in mask:
            self.writer.add(ids, mask)
        else:
            self.untrained += 1

    def _listing(self):
        lines = ["  " + problem for problem in self.problems]
        if self.invalid > len(self.problems):
            lines.append(f"  … and {self.invalid - len(self.problems)} more")
        elif self.is_hopeless():
            lines.append(f"  … stopped after {PROBLEM_LIMIT}")
        return "\n".join(lines)


def prepare(options):
    global _chat
    offline()
    without_torch()
    sources = [Source(path) for path in options.files]
    with atomic_folder(options.out) as folder:
        _chat = Chat(options.model)
        writer = ShardWriter(folder)
        preparation = Preparation(options, writer)
        for source in sources:
            preparation.read(source)
            if preparation.is_hopeless():
                break
        writer.finish()
        preparation.check()
        description = {
            "format_version": FORMAT_VERSION, "kind": "tokens", "vocab_size": _chat.vocab_size,
            "max_length": options.max_length, "conversations": writer.total("conversations"),
            "tokens": writer.total("tokens"), "trained_tokens": writer.trained_tokens,
            "dropped_without_trained_token": preparation.untrained,
            "dropped_invalid": preparation.invalid,
            "sources": [source.description() for source in sources], "shards": writer.shards,
            **_chat.description()}
        text = json.dumps(description, indent=2, sort_keys=True) + "\n"
        (folder / "shards.json").write_text(text)
    return description


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(prog="python -m outrider.prepare")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--skip-invalid", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run(lambda: prepare(parse_arguments(sys.argv[1:]))))
