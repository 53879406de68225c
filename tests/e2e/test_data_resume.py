"""`outrider data prepare` that is interrupted or killed, and goes on."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from conversation_data import chat, conversations

SHARDS = ["--shard-tokens", 20000]
COPIES = 6  # of the example conversations: some seconds of work


@pytest.fixture(scope="module")
def command(model, examples, tmp_path_factory):
    """Arguments of a run that with SHARDS writes dozens of them; --out is missing."""
    folder = tmp_path_factory.mktemp("inputs")
    text = (examples / "smollm2_self.jsonl").read_bytes()
    files = [folder / "a.jsonl", folder / "b.jsonl"]
    files[0].write_bytes(text * (COPIES - 1) + b"{\n")
    files[1].write_bytes(b"}\n" + text)
    return ["data", "prepare", *files, "--model", model, "--skip-invalid"]


@pytest.fixture(scope="module")
def uninterrupted(outrider, command, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    outrider(*command, *SHARDS, "--out", out)
    return out


@pytest.fixture
def stopped(program, command, tmp_path):
    """stopped(signal): what a run stopped after some shards said; its folder is tmp_path / "out"."""

    def run(number):
        out = tmp_path / "out"
        process = subprocess.Popen(
            [program, *map(str, [*command, *SHARDS]), "--out", out], stderr=subprocess.PIPE, text=True,
            start_new_session=True)
        deadline = time.monotonic() + 120
        while len(list(out.glob("shard-*"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, number)
        _, text = process.communicate(timeout=600)
        assert process.returncode == (-number if number == signal.SIGKILL else 130)
        return text

    return run


def same_files(folder, other):
    names = sorted(p.name for p in folder.iterdir())
    assert names == sorted(p.name for p in other.iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def test_a_killed_run_goes_on_with_the_same_bytes(
        outrider, command, uninterrupted, stopped, tmp_path):
    out = tmp_path / "out"
    stopped(signal.SIGKILL)
    assert (out / "unfinished.json").is_file() and not (out / "shards.json").exists()
    text = outrider("data", "inspect", out, status=3).stderr
    assert "the folder holds what an interrupted `outrider data prepare` left" in text
    text = outrider(*command, *SHARDS, "--out", out, status=3).stderr
    assert f"{out}: holds the shards of an interrupted run" in text and "--resume" in text
    (out / "shard-09999.safetensors").write_text("cut off")
    done = outrider(*command, *SHARDS, "--out", out, "--resume", "--workers", 1)
    assert "continuing behind" in done.stderr
    same_files(out, uninterrupted)


def test_an_interrupted_run_goes_on_with_the_same_bytes(
        outrider, command, uninterrupted, stopped, tmp_path):
    out = tmp_path / "out"
    text = stopped(signal.SIGINT)
    assert f"interrupted; {out} holds " in text and "--resume" in text
    outrider(*command, *SHARDS, "--out", out, "--resume")
    same_files(out, uninterrupted)
    text = outrider(*command, *SHARDS, "--out", out, "--resume", status=3).stderr
    assert f"{out}: holds finished token shards" in text


def test_what_differs_from_the_interrupted_run_is_named(outrider, command, model, stopped, tmp_path):
    out, other_model = tmp_path / "out", tmp_path / "model"
    stopped(signal.SIGINT)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    text = outrider(*command, *SHARDS, "--out", out, "--resume", "--max-length", 99,
                    status=2).stderr
    assert "--max-length: was 2048, is 99\n" in text and "--shard-tokens" not in text
    changed = tmp_path / "a.jsonl"
    changed.write_bytes(command[2].read_bytes() + b"\n")
    text = outrider(*command[:2], changed, *command[3:], *SHARDS, "--out", out, "--resume",
                    status=2).stderr
    assert 'file 1: was {"name": "a.jsonl", "sha256": "' in text
    shutil.copytree(model, other_model, ignore=shutil.ignore_patterns("*.safetensors"))
    with (other_model / "chat_template.jinja").open("a") as file:
        file.write(" ")
    place = command.index(model)
    text = outrider(*command[:place], other_model, *command[place + 1:], *SHARDS, "--out", out,
                    "--resume", status=2).stderr
    assert "chat_template_sha256: was " in text
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    shard = out / "shard-00001.safetensors"
    shard.write_bytes(before[shard.name][:-1] + b"\x07")
    text = outrider(*command, *SHARDS, "--out", out, "--resume", status=3).stderr
    assert f"{shard}: its SHA-256 is " in text and "unfinished.json says " in text


def test_a_run_interrupted_before_its_first_shard_leaves_nothing(program, command, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [program, *map(str, command), "--shard-tokens", "100000000", "--out", out],
        stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (out / "unfinished.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, text = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "interrupted" in text and "--resume" not in text
    assert not list(tmp_path.iterdir())


def test_resume_without_anything_to_continue_begins(prepare):
    assert len(conversations(prepare(chat("Hi", "Hello"), options=["--resume"]))) == 1


def test_an_unreadable_state_is_an_error(outrider, model, jsonl, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "unfinished.json").write_text("{")
    text = outrider("data", "prepare", jsonl(chat("Hi", "Hello")), "--model", model, "--out", out,
                    "--resume", status=3).stderr
    assert "unfinished.json: not the state of an interrupted run" in text
    assert [p.name for p in out.iterdir()] == ["unfinished.json"]


def test_shards_have_about_the_tokens_that_were_asked_for(prepare):
    shards = prepare(*[chat("Hi", "Hello " * 20)] * 9, options=["--shard-tokens", 150])
    described = json.loads((shards / "shards.json").read_text())["shards"]
    length = len(conversations(shards)[0][0])
    assert [shard["conversations"] for shard in described] == [150 // length] * (
        9 // (150 // length)) + ([9 % (150 // length)] if 9 % (150 // length) else [])
