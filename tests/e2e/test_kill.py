"""Killed at any moment, a command leaves the old state or the new one, and nothing in the way of the next."""

import json
import random
import shutil
import signal
import subprocess
import time

import pytest
from conftest import REFERENCE
from safetensors.numpy import load_file

BASE = REFERENCE / "base_llama/base"
MEDUSA = ("--mode", "medusa", "--set", "medusa_num_heads=2")
KILLS = {"convert": 17, "save": 8, "restore": 8, "train": 17}
TRAIN = ("--max-steps", 40, "--save-steps", 2, "--logging-steps", 1, "--save-total-limit", 2)


@pytest.fixture(scope="module")
def converted(convert):
    return convert(BASE, *MEDUSA)


@pytest.fixture(scope="module")
def saved(outrider, converted, tmp_path_factory):
    file = tmp_path_factory.mktemp("saved") / "model.safetensors"
    outrider("save", converted, "--out", file)
    return file


def seconds_of(program, *arguments):
    started = time.monotonic()
    subprocess.run([program, *map(str, arguments)], check=True, capture_output=True)
    return time.monotonic() - started


def kill_after(seconds, program, *arguments):
    """Whether the command was killed; one that ended before must have succeeded."""
    with subprocess.Popen([program, *map(str, arguments)], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as process:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        errors = process.stderr.read().decode()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode != 0


def leftovers(folder, name):
    """What `folder` holds besides `name`: staging files and folders, nothing else."""
    others = [path.name for path in folder.iterdir() if path.name != name]
    assert all(other.startswith(f".{name}.tmp-") for other in others), others
    return others


def same_tensors(a, b):
    a, b = load_file(a), load_file(b)
    return sorted(a) == sorted(b) and all((a[name] == b[name]).all() for name in a)


# --- folders and files ---------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["convert", "save", "restore"])
def test_a_killed_verb_leaves_its_whole_result_or_none(
        verb, program, outrider, converted, saved, tmp_path):
    commands = {"convert": ("convert", BASE, *MEDUSA), "save": ("save", converted),
                "restore": ("restore", BASE, saved)}
    is_file = verb == "save"
    out = tmp_path / "out"
    command = (*commands[verb], "--out", out)
    whole = seconds_of(program, *command)
    draw = random.Random(verb)
    killed = 0
    for _ in range(KILLS[verb]):
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
        killed += kill_after(draw.uniform(0.5, 1.0) * whole, program, *command)
        leftovers(tmp_path, "out")
        if out.exists():
            assert same_tensors(out if is_file else out / "model.safetensors",
                                converted / "model.safetensors")
            if not is_file:
                assert outrider("inspect", out, "--json").json()["modes"][0]["mode"] == "medusa"
    assert killed > 0
    shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
    outrider(*command)
    assert out.exists()


def test_a_killed_replacement_leaves_the_old_folder_or_the_new(program, converted, tmp_path):
    out = tmp_path / "out"
    command = ("convert", BASE, "--mode", "medusa", "--set", "medusa_num_heads=1", "--replace",
               "--out", out)
    shutil.copytree(converted, out)
    whole = seconds_of(program, *command)
    draw = random.Random(0)
    for _ in range(5):
        shutil.rmtree(out)
        shutil.copytree(converted, out)
        kill_after(draw.uniform(0.5, 1.0) * whole, program, *command)
        state = json.loads((out / "outrider_state.json").read_text())
        heads = {name.split(".")[1] for name in load_file(out / "model.safetensors")
                 if name.startswith("medusa_heads.")}
        assert len(heads) == state["modes"][0]["config"]["medusa_num_heads"] in (1, 2)


# --- runs ----------------------------------------------------------------------------------------


def check_checkpoints(run):
    """Every checkpoint that bears its name is whole."""
    found = sorted(run.glob("checkpoint-*"))
    for checkpoint in found:
        step = json.loads((checkpoint / "training_state.json").read_text())["step"]
        assert checkpoint.name == f"checkpoint-{step}"
        load_file(checkpoint / "training_state.safetensors")
        assert any(name.startswith("medusa_heads.")
                   for name in load_file(checkpoint / "model.safetensors"))
        assert (checkpoint / "outrider_state.json").is_file()
    return found


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(
        program, outrider, convert, tiny, shards, tmp_path):
    model = convert(tiny(), "--mode", "medusa", "--set", "medusa_num_heads=1")
    run, straight = tmp_path / "run", tmp_path / "straight"
    command = ("train", model, "--data", shards / "train", *TRAIN, "--seed", 3)
    whole = seconds_of(program, *command, "--out", straight)
    draw = random.Random(5)
    killed, resume = 0, False
    for _ in range(KILLS["train"]):
        killed += kill_after(draw.uniform(0.1, 0.6) * whole, program, *command, "--out", run,
                             *(["--resume"] if resume else []))
        resume = bool(run.exists() and check_checkpoints(run))
        if not resume or (run / "final").exists():
            shutil.rmtree(run, ignore_errors=True)
            resume = False
    assert killed >= 10
    outrider(*command, "--out", run, *(["--resume"] if resume else []))
    assert same_tensors(run / "final/model.safetensors", straight / "final/model.safetensors")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 41))
