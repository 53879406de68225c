"""Conversations in JSON Lines files: OpenAI `messages` or ShareGPT `conversations`."""

import hashlib
import json
import os
from dataclasses import dataclass

from .tool import Code, ToolError, printable

LINE_LIMIT = 16 << 20  # bytes

_SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "system": "system"}
_ROLES = {"user": "user", "assistant": "assistant", "system": "system"}


class Problem(ValueError):
    """What is wrong with one line."""


@dataclass
class Conversation:
    messages: list  # of {"role", "content"}
    finished: bool  # False: the last answer was cut, no end of turn follows it


class Source:
    """A file's lines with their numbers; its SHA-256 once they are read."""

    def __init__(self, path):
        self.path = path
        self._digest, self._bytes_read = hashlib.sha256(), 0
        try:
            self._file = open(path, "rb")
            self._size = os.fstat(self._file.fileno()).st_size
        except FileNotFoundError as e:
            raise ToolError(Code.FILE_NOT_FOUND, f"{path}: no such file") from e
        except OSError as e:
            raise ToolError(Code.FILE_UNREADABLE, f"{path}: {e.strerror}") from e

    def lines(self):
        """Yields (number, line) without blank lines; a line over the limit is cut just above it."""
        number = 0
        while line := self._read_line():
            number += 1
            if line.strip():
                yield number, line

    def share_read(self):
        return min(self._bytes_read / max(self._size, 1), 1)

    def description(self):
        return {"name": self.path.name, "sha256": self._digest.hexdigest()}

    def _read_line(self):
        line = piece = self._read_piece()
        while len(piece) > LINE_LIMIT and not piece.endswith(b"\n"):
            piece = self._read_piece()
        return line

    def _read_piece(self):
        try:
            piece = self._file.readline(LINE_LIMIT + 1)
        except OSError as e:
            raise ToolError(Code.FILE_UNREADABLE, f"{self.path}: {e.strerror}") from e
        self._digest.update(piece)
        self._bytes_read += len(piece)
        return piece


def parse(line):
    """The conversation in one line; raises Problem."""
    if len(line) > LINE_LIMIT:
        raise Problem(f"longer than {LINE_LIMIT >> 20} MiB")
    record = _parse_json(line)
    if not isinstance(record, dict):
        raise Problem(f"expected an object, got {_kind(record)}")
    finished = record.get("finished", True)
    if not isinstance(finished, bool):
        raise Problem(f"'finished' must be true or false, got {_kind(finished)}")
    return Conversation(_messages(record), finished)


def _parse_json(line):
    try:
        return json.loads(line)
    except UnicodeDecodeError as e:
        raise Problem(f"not UTF-8 at byte {e.start + 1}") from e
    except json.JSONDecodeError as e:
        raise Problem(f"not JSON: {e.msg} at column {e.colno}") from e
    except RecursionError as e:
        raise Problem("nested too deeply") from e


def _messages(record):
    for key, role_key, text_key, roles in (
            ("messages", "role", "content", _ROLES),
            ("conversations", "from", "value", _SHAREGPT_ROLES)):
        if key in record:
            break
    else:
        raise Problem("has neither 'messages' nor 'conversations'")
    items = record[key]
    if not isinstance(items, list) or not items:
        raise Problem(f"'{key}' must be a list of at least one message")
    return [_message(item, f"{key}[{i}]", role_key, text_key, roles)
            for i, item in enumerate(items)]


def _message(item, where, role_key, text_key, roles):
    if not isinstance(item, dict):
        raise Problem(f"{where}: expected an object, got {_kind(item)}")
    role, text = item.get(role_key), item.get(text_key)
    if not isinstance(role, str) or role not in roles:
        raise Problem(f"{where}.{role_key}: {printable(json.dumps(role), 40)} is none of "
                      + ", ".join(roles))
    if not isinstance(text, str):
        raise Problem(f"{where}.{text_key}: expected a string, got {_kind(text)}")
    if roles[role] == "assistant" and not text.strip():
        raise Problem(f"{where}.{text_key}: the answer is empty")
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise Problem(
            f"{where}.{text_key}: half a surrogate pair at character {e.start + 1}") from e
    return {"role": roles[role], "content": text}


def _kind(value):
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean",
             type(None): "null"}
    return names.get(type(value), "a number")
