"""What the tools that the program starts have in common.

Protocol: progress goes to stderr; the one line on stdout is JSON, either {"result": …} or
{"error": {"code": …, "message": …, "hint": …}} with a code of outrider::ErrorCode.
"""

import json
import os
import shutil
import signal
import sys
from contextlib import contextmanager, redirect_stdout
from enum import IntEnum
from pathlib import Path


class Code(IntEnum):
    """The values of outrider::ErrorCode that the tools use."""

    INVALID_ARGUMENT = 100
    FILE_NOT_FOUND = 200
    FILE_UNREADABLE = 201
    INVALID_FILE = 202
    FILE_EXISTS = 203
    WRITE_FAILED = 204
    UNSUPPORTED = 301
    INVALID_DATA = 307
    TOOL_MISSING = 501
    INTERRUPTED = 600


class ToolError(Exception):
    def __init__(self, code, message, hint=""):
        super().__init__(message)
        self.code, self.hint = code, hint


def printable(text, limit=200):
    """`text` with control characters escaped, cut at `limit` characters."""
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def offline():
    """Keeps Hugging Face's libraries from the network; call before they are imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def without_torch():
    """Hides torch from transformers, which would spend seconds on importing it: text needs none."""
    sys.modules.setdefault("torch", None)


_interrupted = False


def _interrupt(*_):
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def check_interrupted():
    """Raises an interrupt that was lost: Python drops exceptions in its callbacks, as around fork."""
    if _interrupted:
        raise KeyboardInterrupt


def run(work):
    """Calls `work` and reports its result or error; returns the exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        with redirect_stdout(sys.stderr):  # whatever a library prints is no answer
            answer, status = {"result": work()}, 0
    except ToolError as e:
        answer = {"error": {"code": e.code, "message": str(e), "hint": e.hint}}
        status = 1
    except ImportError as e:
        hint = ("scripts/setup.sh installs what the text tools need; "
                "OUTRIDER_PYTHON names an interpreter")
        answer = {"error": {"code": Code.TOOL_MISSING, "message": printable(e), "hint": hint}}
        status = 1
    except KeyboardInterrupt:
        answer = {"error": {"code": Code.INTERRUPTED, "message": "interrupted", "hint": ""}}
        status = 130
    try:
        print(json.dumps(answer), flush=True)
    except BrokenPipeError:  # the program has ended: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


@contextmanager
def writing(path):
    """Turns the system's errors into one that names `path`."""
    try:
        yield
    except OSError as e:
        raise ToolError(
            Code.WRITE_FAILED, f"{path}: {e.strerror or e}",
            "check free space and permissions") from e


def write_atomically(path, content):
    """At any moment `path` is as it was, or whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        temporary.write_bytes(content)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)


def _sync(*paths):
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def atomic_folder(path):
    """A temporary folder beside `path` that takes its place when the block ends, or disappears."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ToolError(
            Code.FILE_EXISTS, f"{path}: exists and is not an empty folder",
            "remove it, or choose another --out")
    if not path.absolute().parent.is_dir():
        raise ToolError(Code.FILE_NOT_FOUND, f"{path}: its parent folder does not exist")
    staging = path.absolute().parent / f".{path.name}.{os.getpid()}.tmp"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        with writing(path):
            staging.mkdir()
            yield staging
            _sync(*staging.rglob("*"), staging)
            os.replace(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class Progress:
    """A line on stderr, rewritten in place on a terminal, else every ten seconds."""

    def __init__(self, label, clock):
        self._label, self._clock = label, clock
        self._start = self._last = clock()
        self._live = sys.stderr.isatty()

    def update(self, share, detail):
        now = self._clock()
        if now - self._last < (0.2 if self._live else 10):
            return
        self._last = now
        left = (now - self._start) * (1 - share) / share if share > 0 else 0
        text = f"{self._label}: {share:4.0%}  {detail}  {left:.0f} s left"
        print(f"\r\033[K{text}" if self._live else text, end="" if self._live else "\n",
              file=sys.stderr, flush=True)

    def finish(self):
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
