"""Killed at any moment, a command leaves the old state or the new one, and nothing in the way of the next."""

import json
import os
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
TRAIN = ("--max-steps", 40, "--save-steps", 2, "--logging-steps", 1, "--save-total-limit", 2)


@pytest.fixture(scope="module")
def converted(convert):
    return convert(BASE, *MEDUSA)


@pytest.fixture(scope="module")
def saved(outrider, converted, tmp_path_factory):
    file = tmp_path_factory.mktemp("saved") / "model.safetensors"
    outrider("save", converted, "--out", file)
    return file


def kill_when(has_come, program, *arguments):
    """Kills the command when that is so, whatever the time; whether it was killed. One that ended before must have
    succeeded."""
    with subprocess.Popen([program, *map(str, arguments)], stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as process:
        while process.poll() is None and not has_come():
            time.sleep(0.001)
        process.kill()
        errors = process.stderr.read().decode()
    assert process.returncode in (0, -signal.SIGKILL), errors
    return process.returncode != 0


def staged(folder, name):
    """The names of the files that are being written for `name`."""
    found = []
    for entry in os.scandir(folder):
        if entry.name.startswith(f".{name}.tmp-"):
            inside = [file for _, _, files in os.walk(entry.path) for file in files]
            found += inside if entry.is_dir() else [entry.name]
    return found


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


# When a command that writes `out` is killed: a condition that comes true once, and stays so.
MOMENTS = {
    "at once": lambda out: True,
    "as it begins to write": lambda out: out.exists() or any(out.parent.glob(f".{out.name}.tmp-*")),
    "with a file written": lambda out: out.exists() or staged(out.parent, out.name),
    "with weights written": lambda out: out.exists() or any(
        "safetensors" in name for name in staged(out.parent, out.name)),
    "as it ends": lambda out: out.exists()}


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
    killed = 0
    for moment in [*MOMENTS] * 2:
        for path in (out, *(tmp_path / name for name in leftovers(tmp_path, "out"))):
            remove(path)
        killed += kill_when(lambda: MOMENTS[moment](out), program, *command)
        leftovers(tmp_path, "out")
        if out.exists():
            assert same_tensors(out if is_file else out / "model.safetensors",
                                converted / "model.safetensors")
            if not is_file:
                assert outrider("inspect", out, "--json").json()["modes"][0]["mode"] == "medusa"
    assert killed > 0
    remove(out)
    outrider(*command)
    assert out.exists()


def test_a_killed_replacement_leaves_the_old_folder_or_the_new(program, converted, tmp_path):
    out = tmp_path / "out"
    command = ("convert", BASE, "--mode", "medusa", "--set", "medusa_num_heads=1", "--replace",
               "--out", out)
    for count in range(6):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(converted, out)
        kill_when(lambda: len(staged(tmp_path, "out")) >= count, program, *command)
        for name in leftovers(tmp_path, "out"):
            remove(tmp_path / name)
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


def lines_added(run, count):
    """A condition: so many lines of metrics were written since now, or taken back by a run that goes on."""
    file = run / "metrics.jsonl"

    def lines():
        return file.read_bytes().count(b"\n") if file.exists() else 0

    before = lines()
    return lambda: lines() < before or lines() >= before + count


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(
        program, outrider, convert, tiny, shards, tmp_path):
    model = convert(tiny(), "--mode", "medusa", "--set", "medusa_num_heads=1")
    run, straight = tmp_path / "run", tmp_path / "straight"
    command = ("train", model, "--data", shards / "train", *TRAIN, "--seed", 3)
    outrider(*command, "--out", straight)
    draw = random.Random(5)
    killed, resume = 0, False
    while killed < 12:
        ways = [lines_added(run, draw.randint(1, 9)), lambda: any(run.glob(".checkpoint-*.tmp-*"))]
        killed += kill_when(draw.choice(ways), program, *command, "--out", run,
                            *(["--resume"] if resume else []))
        resume = bool(run.exists() and check_checkpoints(run))
        if not resume or (run / "final").exists():
            shutil.rmtree(run, ignore_errors=True)
            resume = False
    outrider(*command, "--out", run, *(["--resume"] if resume else []))
    assert same_tensors(run / "final/model.safetensors", straight / "final/model.safetensors")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 41))
