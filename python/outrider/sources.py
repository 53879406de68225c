"""Files of conversations, read line by line."""

import hashlib
import os
import stat
from dataclasses import dataclass

from .conversations import LINE_LIMIT
from .tool import Code, ToolError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BLOCK = 1 << 20


@dataclass
class Line:
    number: int  # from 1
    begin: int  # position of its first byte in the file
    content: bytes  # cut just above LINE_LIMIT


class Source:
    """One file, which is read more than once and must not change meanwhile."""

    def __init__(self, path):
        self.path = path
        with self._opened() as file:
            self.size = os.fstat(file.fileno()).st_size
            self.sha256 = self._digest(file)

    def lines(self, number=0, position=0):
        """Yields the lines that are not blank from byte `position` on, where line number + 1
        begins."""
        with self._opened() as file:
            file.seek(position)
            while content := self._read_line(file):
                number += 1
                begin, position = position, file.tell()
                if begin == 0:
                    content = self._without_mark(content)
                if content.strip():
                    yield Line(number, begin, content)

    def check_unchanged(self):
        with self._opened() as file:
            if self._digest(file) != self.sha256:
                raise ToolError(
                    Code.INVALID_DATA, f"{self.path}: changed while it was read", "run again")

    def share_read(self, start, position):
        """Of what was to be read from `start` on."""
        return min((position - start) / max(self.size - start, 1), 1)

    def description(self):
        return {"name": self.path.name, "sha256": self.sha256}

    def _opened(self):
        try:
            if stat.S_ISFIFO(os.stat(self.path).st_mode):
                raise ToolError(
                    Code.FILE_UNREADABLE, f"{self.path}: is a pipe, which can be read only once",
                    "write it to a file first")
            return open(self.path, "rb")
        except FileNotFoundError as e:
            raise ToolError(Code.FILE_NOT_FOUND, f"{self.path}: no such file") from e
        except OSError as e:
            raise self._unreadable(e) from e

    def _unreadable(self, error):
        return ToolError(Code.FILE_UNREADABLE, f"{self.path}: {error.strerror}")

    def _digest(self, file):
        digest = hashlib.sha256()
        try:
            while block := file.read(_BLOCK):
                digest.update(block)
        except OSError as e:
            raise self._unreadable(e) from e
        return digest.hexdigest()

    def _read_line(self, file):
        try:
            line = piece = file.readline(LINE_LIMIT + 1)
            while len(piece) > LINE_LIMIT and not piece.endswith(b"\n"):
                piece = file.readline(LINE_LIMIT + 1)
            return line
        except OSError as e:
            raise self._unreadable(e) from e

    def _without_mark(self, content):
        if content.startswith(_UTF16_MARKS):
            raise ToolError(
                Code.INVALID_DATA, f"{self.path}:1: the file is UTF-16", "save it as UTF-8")
        return content.removeprefix(_BYTE_ORDER_MARK)
