"""Lines of conversations to tokens and masks, on several cores, in their order and with a bounded
number of them in memory."""

import ctypes
import os
import signal
import time
from array import array
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from .conversations import Problem, parse
from .tool import Code, Progress, ToolError, check_interrupted

LINES_PER_TASK = 64
TASK_BYTES = 4 << 20
_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_PR_SET_PDEATHSIG = 1

_chat = None  # inherited by the worker processes


class Tokenized(NamedTuple):
    """One line: either `ids` (int32 bytes) and `mask`, or what is wrong with it."""

    number: int
    begin: int  # the position of the line in its file
    ids: bytes = b""
    mask: bytes = b""
    has_tools: bool = False
    problem: str | None = None


def add_reading_options(parser):
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--skip-invalid", action="store_true")


def tokenized(chat, source, options, number=0, position=0):
    """Yields a Tokenized for each line of a Source behind byte `position`, where line number + 1
    begins; shows the progress."""
    global _chat
    _chat = chat
    progress, tokens = Progress(source.path.name, time.monotonic), 0
    tasks = _tasks(source.lines(number, position))
    for result in _in_order(tasks, options.max_length, options.workers):
        check_interrupted()
        tokens += len(result.mask)
        progress.update(source.share_read(position, result.begin), f"{tokens:,} tokens")
        yield result
    progress.finish()


def _tokenize(lines, max_length):
    return [_tokenize_line(line, max_length) for line in lines]


def _tokenize_line(line, max_length):
    try:
        conversation = parse(line.content)
        ids, mask = _chat.tokenize(conversation, max_length)
    except Problem as problem:
        return Tokenized(line.number, line.begin, problem=str(problem))
    return Tokenized(line.number, line.begin, array("i", ids).tobytes(), mask,
                     bool(conversation.tools))


@contextmanager
def _signals_held():
    """A signal amid a fork is lost in Python's own callbacks, in the parent or in the worker."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(parent):
    """Signals are the parent's affair, and no worker outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _tasks(lines):
    task, size = [], 0
    for line in lines:
        task.append(line)
        size += len(line.content)
        if len(task) == LINES_PER_TASK or size >= TASK_BYTES:
            yield task
            task, size = [], 0
    if task:
        yield task


def _in_order(tasks, max_length, workers):
    if workers == 1:
        for task in tasks:
            yield from _tokenize(task, max_length)
        return
    with ProcessPoolExecutor(
            workers, get_context("fork"), _prepare_worker, (os.getpid(),)) as pool:
        pending = deque()
        try:
            for task in tasks:
                with _signals_held():  # submit() starts the workers
                    pending.append(pool.submit(_tokenize, task, max_length))
                if len(pending) >= 4 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        except BrokenProcessPool as e:
            check_interrupted()
            raise ToolError(
                Code.TOOL_MISSING, "a worker process ended unexpectedly",
                "the machine may be out of memory: use fewer --workers") from e
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
