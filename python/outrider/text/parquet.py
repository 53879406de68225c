"""Rows of a Parquet file as JSON."""

import json
import math
from contextlib import contextmanager

_ROWS_AT_ONCE = 64


class ParquetError(ValueError):
    """The file cannot be read as Parquet."""


class ParquetRows:
    def __init__(self, path):
        import pyarrow.parquet

        with _reading():
            self._file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
        self.count = self._file.metadata.num_rows

    def rows(self, begin):
        """Yields (number, bytes of JSON) from row `begin` on."""
        first = 0
        for group in range(self._file.num_row_groups):
            end = first + self._file.metadata.row_group(group).num_rows
            if begin < end:
                yield from self._rows_of(group, first, begin)
            first = end

    def _rows_of(self, group, first, begin):
        with _reading():
            batches = self._file.iter_batches(
                _ROWS_AT_ONCE, row_groups=[group], use_threads=False)
        while batch := _next(batches):
            for number, row in enumerate(batch.to_pylist(), first):
                if number >= begin:
                    yield number, _json(row)
            first += batch.num_rows


def _next(batches):
    with _reading():
        return next(batches, None)


@contextmanager
def _reading():
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as e:
        raise ParquetError(str(e)) from e


def _json(row):
    return json.dumps(_without_nulls(row), ensure_ascii=False).encode(errors="surrogatepass")


def _without_nulls(value):
    """All structs of a column have the same fields: one that is null was absent in the data."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if not _is_absent(v)}
    if isinstance(value, (list, tuple)):
        return [_without_nulls(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(type(value))


def _is_absent(value):
    return value is None or isinstance(value, float) and not math.isfinite(value)
