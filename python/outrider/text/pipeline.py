"""Lines of conversations to tokens and masks, on several cores, in their order and with a bounded
number of them in memory."""

import ctypes
import json
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

from .chat import Chat, ChatOptions
from .conversations import Problem, parse
from .tool import Code, Progress, ToolError, check_interrupted, printable

LINES_PER_TASK = 64
TASK_BYTES = 4 << 20
_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_PR_SET_PDEATHSIG = 1

_chat = None  # inherited by the worker processes


class Tokenized(NamedTuple):
    """One line: either its samples, or what is wrong with it."""

    number: int
    begin: int  # the position of the line in its file
    samples: list = []  # of (ids as int32 bytes, mask)
    has_tools: bool = False
    notes: list = []  # a Note for each message that it is about
    unread: frozenset = frozenset()  # keys without a meaning here
    problem: str | None = None
    hint: str = ""

    def tokens(self):
        return sum(len(mask) for _, mask in self.samples)


def add_reading_options(parser):
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--skip-invalid", action="store_true")
    parser.add_argument("--turns", choices=("all", "last", "each"), default="all")
    parser.add_argument("--reasoning", choices=("keep", "drop"), default="keep")
    parser.add_argument("--chat-template", type=Path)
    parser.add_argument("--template-arg", action="append", default=[])


def chat_of(options, day=None):
    """The Chat that the reading options ask for."""
    return Chat(options.model, day, ChatOptions(
        options.chat_template, template_arguments(options.template_arg), options.turns,
        options.reasoning))


def template_arguments(settings):
    """{name: value} of settings NAME=VALUE, where a value is JSON or else text."""
    arguments = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier():
            raise ToolError(Code.INVALID_ARGUMENT, f"--template-arg {printable(setting, 60)}: "
                            "expected NAME=VALUE", "for example enable_thinking=false")
        if name in arguments:
            raise ToolError(Code.INVALID_ARGUMENT, f"--template-arg {name}: is given twice")
        try:
            arguments[name] = json.loads(value)
        except (ValueError, RecursionError):
            arguments[name] = value
    return arguments


def tokenized(chat, source, options, number=0, position=0):
    """Yields a Tokenized for each line of a Source behind byte `position`, where line number + 1
    begins; shows the progress."""
    global _chat
    _chat = chat
    progress, tokens = Progress(source.path.name, time.monotonic), 0
    tasks = _tasks(source.lines(number, position))
    for result in _in_order(tasks, options.max_length, options.workers):
        check_interrupted()
        tokens += result.tokens()
        progress.update(source.share_read(position, result.begin), f"{tokens:,} tokens")
        yield result
    progress.finish()


def _tokenize(lines, max_length):
    return [_tokenize_line(line, max_length) for line in lines]


def _tokenize_line(line, max_length):
    try:
        conversation = parse(line.content, _chat.template.dialect)
        samples, notes = _chat.samples(conversation, max_length)
    except Problem as problem:
        return Tokenized(line.number, line.begin, problem=str(problem), hint=problem.hint)
    return Tokenized(
        line.number, line.begin, [(array("i", ids).tobytes(), mask) for ids, mask in samples],
        bool(conversation.tools), sorted(note.value for note, _ in notes),
        conversation.unread | _chat.template.unread(conversation.variables))


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
