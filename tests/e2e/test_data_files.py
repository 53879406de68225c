"""The kinds of files that conversations come in: the same tokens from each, and a word for damage."""

import gzip
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conversation_data import chat, conversations

from outrider.text import json_array
from outrider.text.conversations import parse
from outrider.text.json_array import ArrayElements
from outrider.text.sources import Source
from outrider.text.tool import ToolError

RECORDS = [chat("Hi", 'Say "]", "}" and \\'), chat("1+1?", "2", "2+2?", "{[4,"),
           {"conversations": [{"from": "human", "value": "日本?"}, {"from": "gpt", "value": "🎉\n"}]},
           {"question": "Why?", "answer": "So."}]


def lines_of(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def parquet_of(records, **options):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), file, **options)
    return file.getvalue()


FORMS = {
    "a.jsonl": lines_of(RECORDS), "b.json": json.dumps(RECORDS).encode(),
    "c.json": b"\xef\xbb\xbf\r\n" + json.dumps(RECORDS, indent=3, ensure_ascii=False).encode(),
    "d.json": b"[\n" + lines_of(RECORDS).strip().replace(b"\n", b",\n") + b"\n]\n",
    "e.jsonl.gz": gzip.compress(lines_of(RECORDS)),
    "f.json.gz": gzip.compress(json.dumps(RECORDS, indent=1).encode()),
    "no_suffix": json.dumps(RECORDS).encode() + b"\n\n"}


@pytest.fixture
def written(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.fixture
def forms(written):
    """All FORMS, and Parquet, whose columns have all the records' keys."""
    columns = {key: None for record in RECORDS for key in record}
    rows = [{**columns, **record} for record in RECORDS]
    return [*(written(name, content) for name, content in FORMS.items()),
            written("g.parquet", parquet_of(rows, row_group_size=3))]


def test_every_form_of_a_file_gives_the_same_tokens(outrider, model, forms, tmp_path):
    outrider("data", "prepare", *forms, "--model", model, "--out", tmp_path / "out")
    found = [(ids.tolist(), mask.tolist()) for ids, mask in conversations(tmp_path / "out")]
    assert len(found) == len(RECORDS) * len(forms) and all(sum(mask) for _, mask in found)
    for i in range(1, len(forms)):
        assert found[i * len(RECORDS):(i + 1) * len(RECORDS)] == found[:len(RECORDS)]


def test_reading_can_begin_anywhere(forms):
    for path in forms:
        source = Source(path)
        lines = list(source.lines())
        assert [line.number for line in lines] == [1, 2, 3, 4]
        for i, line in enumerate(lines):
            assert list(source.lines(line.number - 1, line.begin)) == lines[i:], path
            assert 0 <= source.share_read(0, line.begin) <= 1


def test_fields_that_parquet_fills_with_null_are_absent(written):
    records = [
        {"messages": [{"role": "user", "content": "Rome?"},
                      {"role": "assistant", "tool_calls": [
                          {"function": {"name": "f", "arguments": {"city": "Rome"}}},
                          {"function": {"name": "g", "arguments": {"days": 3}}}]},
                      {"role": "tool", "name": "f", "content": "sunny"},
                      {"role": "assistant", "content": "Sunny.", "weight": 1, "thinking": "So"}],
         "tools": [{"name": "f", "description": "d"}, {"name": "g"}], "score": float("nan")},
        chat("Hi", "Hello")]
    source = Source(written("a.parquet", parquet_of(records)))
    del records[0]["score"]
    assert [parse(line.content) for line in source.lines()] == [
        parse(json.dumps(record).encode()) for record in records]


def test_columns_of_other_types_do_not_matter(written):
    from datetime import datetime
    rows = [{"messages": json.dumps(chat("Hi", "Hello")["messages"]), "at": datetime(2024, 1, 2),
             "raw": b"\xff"}]
    [line] = Source(written("a.parquet", parquet_of(rows))).lines()
    found = parse(line.content)
    assert [m["content"] for m in found.messages] == ["Hi", "Hello"]
    assert found.unread == {"at", "raw"}


def test_columns_of_lists_are_messages(written):
    rows = [{"messages": {"role": ["user", "assistant"], "content": ["Hi", "Hello"]}}]
    [line] = Source(written("a.parquet", parquet_of(rows))).lines()
    assert parse(line.content).messages == chat("Hi", "Hello")["messages"]


def test_lines_that_are_lists_are_lines(written):
    messages = [chat("Hi", "Hello")["messages"], chat("Bye", "See you")["messages"]]
    source = Source(written("a.jsonl", lines_of(messages)))
    assert [parse(line.content).messages for line in source.lines()] == messages


@pytest.mark.parametrize(("name", "content", "problem"), [
    ("a.json", b'[{"messages": []},\n{"mess', "a.json: begins as a JSON array, but it is not closed"),
    ("a.json", b"[\n" + lines_of(RECORDS) + b"]", "a.json: begins as a JSON array, but ',' or ']' is "
     "expected at byte "),
    ("a.json", b"[\n" + lines_of(RECORDS[:1]) + b"]\nx", "but text follows the array at byte "),
    ("a.jsonl.gz", gzip.compress(lines_of(RECORDS))[:-9], "a.jsonl.gz: damaged gzip file: "),
    ("a.jsonl.gz", b"\x1f\x8b\x08" + bytes(20), "a.jsonl.gz: damaged gzip file: "),
    ("a.parquet", parquet_of(RECORDS[:1])[:-20], "a.parquet: not readable as Parquet: "),
    ("a.jsonl.zst", b"\x28\xb5\x2f\xfd" + bytes(9), "a.jsonl.zst: is a zstd file"),
    ("a.zip", b"PK\x03\x04" + bytes(9), "a.zip: is a zip file")])
def test_damaged_and_foreign_files_are_named(written, name, content, problem):
    path = written(name, content)
    with pytest.raises(ToolError) as caught:
        list(Source(path).lines())
    assert str(caught.value).startswith(f"{path}: ") and problem in str(caught.value)


def test_skipping_what_is_invalid_skips_no_damage(outrider, model, written, tmp_path):
    path = written("a.json", b"[\n" + lines_of(RECORDS))
    text = outrider("data", "prepare", path, "--model", model, "--skip-invalid", "--out",
                    tmp_path / "out", status=4).stderr
    assert f"{path}: begins as a JSON array, but ',' or ']' is expected at byte " in text
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_elements_are_counted_from_0(outrider, model, written):
    path = written("a.json", json.dumps([*RECORDS, {"text": "x"}, 7]).encode())
    text = outrider("data", "inspect", path, "--model", model, status=4).stderr
    assert f"{path}[4]: holds 'text' but neither" in text
    assert f"{path}[5]: expected an object, got a number" in text


def test_an_array_need_not_fit_into_memory(written, monkeypatch):
    monkeypatch.setattr(json_array, "_BLOCK", 1 << 14)
    element = json.dumps(chat("Hi", 'a "quoted" answer\\' + 40000 * "x")).encode()
    path = written("a.json", b"[" + b",\n".join([element] * 50) + b"]")
    tracemalloc.start()
    with path.open("rb") as file:
        file.read(1)
        found = sum(part == element for _, part in ArrayElements(file, 1 << 24))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == 50 and path.stat().st_size > 4 * peak


def test_a_long_element_is_cut_and_the_next_ones_are_read():
    elements = [b'{"a": "' + b"x" * 3_000_000 + b'"}', b'"b"', b"[[]]"]
    file = io.BytesIO(b" , ".join(elements) + b"]")
    assert [part for _, part in ArrayElements(file, 100)] == [elements[0][:101], *elements[1:]]


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(ToolError, match="Is a directory"):
        Source(tmp_path)
