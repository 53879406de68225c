"""The elements of a file that is one JSON array, one at a time and as their bytes."""

import re

_BLOCK = 1 << 20
_BLANKS = re.compile(rb"[ \t\r\n]*")
_BRACKETS = re.compile(rb'["\[\]{}]')
_IN_STRING = re.compile(rb'"|\\[\s\S]?')
_BEHIND_SCALAR = re.compile(rb"[,\[\]{}\s]")


class ArrayError(ValueError):
    """The file is no well-formed array."""


class ArrayElements:
    """Iterates over (position in the file, bytes) of the elements from where `file` stands: behind
    the array's [ or at the begin of an element. Of an element above `limit` bytes the first
    limit + 1 are given."""

    def __init__(self, file, limit):
        self._file, self._limit = file, limit
        self._bytes, self._at = b"", 0  # what is in memory; what of it has been looked at
        self._offset = file.tell()  # of _bytes
        self._begin, self._head = None, b""  # of the element that is being looked at

    def __iter__(self):
        while self._next_byte() != b"]":
            begin = self._offset + self._at
            yield begin, self._element()
            if (found := self._next_byte()) == b",":
                self._at += 1
            elif found != b"]":
                raise ArrayError(f"',' or ']' is expected at byte {self._offset + self._at + 1}")
        self._at += 1
        if self._next_byte(may_end=True):
            raise ArrayError(f"text follows the array at byte {self._offset + self._at + 1}")

    def _element(self):
        self._begin, self._head = self._at, b""
        if self._bytes[self._at:self._at + 1] in (b'"', b"[", b"{"):
            self._skip_value()
        else:
            self._at = self._find(_BEHIND_SCALAR).start()
        element = self._head or self._bytes[self._begin:self._at]
        self._begin = None
        return element[:self._limit + 1]

    def _skip_value(self):
        depth = 0
        while True:
            found = self._find(_BRACKETS)
            self._at = found.end()
            if found.group() == b'"':
                self._skip_string()
            else:
                depth += 1 if found.group() in (b"[", b"{") else -1
            if depth == 0:
                return

    def _skip_string(self):
        while True:
            found = self._find(_IN_STRING)
            if found.group() == b"\\":  # what it escapes is not in memory
                self._at = found.start()
                self._read_more()
            else:
                self._at = found.end()
                if found.group() == b'"':
                    return

    def _next_byte(self, may_end=False):
        while True:
            self._at = _BLANKS.match(self._bytes, self._at).end()
            if self._at < len(self._bytes):
                return self._bytes[self._at:self._at + 1]
            if not self._read_more(may_end):
                return b""

    def _find(self, pattern):
        while not (found := pattern.search(self._bytes, self._at)):
            self._at = len(self._bytes)
            self._read_more()
        return found

    def _read_more(self, may_end=False):
        """Forgets what is no longer needed and reads on."""
        block = self._file.read(_BLOCK)
        if not block and not may_end:
            raise ArrayError("it is not closed by ']': the file is cut off")
        if self._begin is not None and self._at - self._begin > self._limit:
            self._head = self._head or self._bytes[self._begin:self._begin + self._limit + 1]
            self._begin = self._at
        kept = self._at if self._begin is None else self._begin
        self._bytes = self._bytes[kept:] + block
        self._offset += kept
        self._at -= kept
        if self._begin is not None:
            self._begin = 0
        return bool(block)
