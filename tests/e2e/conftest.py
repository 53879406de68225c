"""Drives the built program. OUTRIDER_PROGRAM names it; ctest sets that."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))

from outrider import demo_model  # noqa: E402


@dataclass
class Finished:
    status: int
    stdout: str
    stderr: str

    def json(self):
        return json.loads(self.stdout)


@pytest.fixture(scope="session")
def program():
    path = Path(os.environ.get("OUTRIDER_PROGRAM", ROOT / "build/bin/outrider"))
    assert path.is_file(), f"{path} is missing: run `make build`, or set OUTRIDER_PROGRAM"
    return path


@pytest.fixture(scope="session")
def outrider(program):
    """outrider(*arguments, status=0): runs the program and checks its exit status."""

    def run(*arguments, status=0, **environment):
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True,
            env={**os.environ, **environment}, timeout=600, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def model():
    """SmolLM2-135M-Instruct, made once per machine. Read only."""
    folder = demo_model.default_folder()
    demo_model.make(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model):
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, local_files_only=True)


@pytest.fixture(scope="session")
def examples():
    return ROOT / "examples/data"


@pytest.fixture
def jsonl(tmp_path):
    """jsonl(records…): a file with one line for each; bytes and strings are written as they are."""

    def write(*records, name="chats.jsonl"):
        path = tmp_path / name
        lines = [r if isinstance(r, (bytes, str)) else json.dumps(r) for r in records]
        path.write_bytes(b"".join(
            (line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
        return path

    return write
