"""Files of conversations: JSON Lines, one JSON array, or Parquet."""

import gzip
import hashlib
import json
import os
import stat
import zlib
from contextlib import contextmanager
from dataclasses import dataclass

from .conversations import LINE_LIMIT
from .json_array import ArrayElements, ArrayError
from .parquet import ParquetError, ParquetRows
from .tool import Code, ToolError, printable

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
_UNFINISHED = b'{"outrider_unfinished"'  # the first line of what `data regenerate` has not finished
_FOREIGN = {b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip",
            b"ARROW1": "Arrow", b"Obj\x01": "Avro", b"\x89HDF": "HDF5"}
_FORMATS = "accepted are JSON Lines and a JSON array, both also with gzip, and Parquet"
_BLOCK = 1 << 20


@dataclass
class Line:
    """A conversation's bytes: a line, an element of an array, or a row."""

    number: int  # from 1
    begin: int  # where reading can begin with it
    content: bytes  # JSON, cut just above LINE_LIMIT


class Source:
    """One file, which is read more than once and must not change meanwhile."""

    def __init__(self, path):
        self.path = path
        with self._opened() as file:
            self.size = os.fstat(file.fileno()).st_size
            self.sha256 = self._digest(file)
        with self._reading():
            self._format = self._detected()

    def lines(self, number=0, position=0):
        """Yields the lines that are not blank from `position` on, where line number + 1 begins."""
        with self._reading():
            yield from self._format.lines(number, position)

    def where(self, number):
        """What to call line `number` in a message."""
        return self._format.where(number)

    def share_read(self, start, position):
        """Of what was to be read from `start` on."""
        return self._format.share_read(start, position)

    def check_unchanged(self):
        with self._opened() as file:
            if self._digest(file) != self.sha256:
                raise ToolError(
                    Code.INVALID_DATA, f"{self.path}: changed while it was read", "run again")

    def description(self):
        return {"name": self.path.name, "sha256": self.sha256}

    def _detected(self):
        with self._opened() as file:
            head = file.read(len(_UNFINISHED))
        if head == _UNFINISHED:
            raise ToolError(
                Code.INVALID_DATA, f"{self.path}: is unfinished: a run of `outrider data regenerate` was interrupted",
                "repeat its command with --resume")
        for mark, name in _FOREIGN.items():
            if head.startswith(mark):
                raise ToolError(Code.INVALID_DATA, f"{self.path}: is a {name} file", _FORMATS)
        if head.startswith(_PARQUET):
            return _Parquet(self.path)
        unpacked = _gunzipped if head.startswith(_GZIP) else lambda file: file
        stream = _Stream(self.path, self.size, self._opened, unpacked)
        return _JsonArray(stream) if stream.is_array() else _JsonLines(stream)

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

    @contextmanager
    def _reading(self):
        """Turns what can be wrong with a whole file into one error."""
        try:
            yield
        except (gzip.BadGzipFile, EOFError, zlib.error) as e:
            raise ToolError(Code.INVALID_DATA, f"{self.path}: damaged gzip file: {printable(e)}",
                            "it may be cut off: get it again") from e
        except ArrayError as e:
            raise ToolError(
                Code.INVALID_DATA, f"{self.path}: begins as a JSON array, but {e}",
                "a file is one JSON array as a whole, or has one JSON object a line") from e
        except ParquetError as e:
            raise ToolError(Code.INVALID_DATA,
                            f"{self.path}: not readable as Parquet: {printable(e)}") from e
        except OSError as e:
            raise self._unreadable(e) from e


def _gunzipped(file):
    return gzip.GzipFile(fileobj=file)


class _Stream:
    """The bytes of a file of JSON, unpacked."""

    def __init__(self, path, size, opened, unpacked):
        self.path, self._size = path, size
        self._opened, self._unpacked = opened, unpacked
        self._raw = None

    @contextmanager
    def opened(self):
        with self._opened() as self._raw, self._unpacked(self._raw) as file:
            yield file

    def share_read(self, start, position):
        if self._unpacked is _gunzipped:  # its unpacked size is not known
            start, position = 0, self._raw.tell() if self._raw and not self._raw.closed else 0
        return min((position - start) / max(self._size - start, 1), 1)

    def is_array(self):
        """Whether it is one array, and not lines of which the first is one."""
        with self.opened() as file:
            line = file.readline(LINE_LIMIT + 1).removeprefix(_BYTE_ORDER_MARK)
            while line and not line.strip():
                line = file.readline(LINE_LIMIT + 1)
            return line.lstrip().startswith(b"[") and not (_is_json(line) and _has_more(file))

    def array_begin(self):
        """The position behind the [."""
        with self.opened() as file:
            while (byte := file.read(1)) != b"[":
                assert byte, "is_array() has seen it"
            return file.tell()

    def without_mark(self, content):
        if content.startswith(_UTF16_MARKS):
            raise ToolError(
                Code.INVALID_DATA, f"{self.path}:1: the file is UTF-16", "save it as UTF-8")
        return content.removeprefix(_BYTE_ORDER_MARK)


def _is_json(line):
    try:
        json.loads(line)
        return True
    except (ValueError, RecursionError):
        return False


def _has_more(file):
    while block := file.read(_BLOCK):
        if block.strip():
            return True
    return False


class _JsonLines:
    def __init__(self, stream):
        self._stream, self.share_read = stream, stream.share_read

    def where(self, number):
        return f"{self._stream.path}:{number}"

    def lines(self, number, position):
        with self._stream.opened() as file:
            file.seek(position)
            while content := _read_line(file):
                number += 1
                begin, position = position, file.tell()
                if begin == 0:
                    content = self._stream.without_mark(content)
                if content.strip():
                    yield Line(number, begin, content)


def _read_line(file):
    line = piece = file.readline(LINE_LIMIT + 1)
    while len(piece) > LINE_LIMIT and not piece.endswith(b"\n"):
        piece = file.readline(LINE_LIMIT + 1)
    return line


class _JsonArray:
    def __init__(self, stream):
        self._stream, self.share_read = stream, stream.share_read

    def where(self, number):
        return f"{self._stream.path}[{number - 1}]"

    def lines(self, number, position):
        position = position or self._stream.array_begin()
        with self._stream.opened() as file:
            file.seek(position)
            for begin, content in ArrayElements(file, LINE_LIMIT):
                number += 1
                yield Line(number, begin, content)


class _Parquet:
    def __init__(self, path):
        self._path, self._rows = path, ParquetRows(path)

    def where(self, number):
        return f"{self._path}[{number - 1}]"

    def share_read(self, start, position):
        return (position - start) / max(self._rows.count - start, 1)

    def lines(self, number, position):
        for row, content in self._rows.rows(position):
            yield Line(row + 1, row, content[:LINE_LIMIT + 1])
