"""Runs of several processes that train together, and what is compared of them."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from runs import TIMES, metrics


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(commands):
    """One process for each command, that train together."""
    port = free_port()
    place = {"WORLD_SIZE": len(commands), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for rank, arguments in enumerate(commands):
        variables = {**place, "RANK": rank, "LOCAL_RANK": rank}
        processes.append(subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **{name: str(value) for name, value in variables.items()}}))
    return processes


def finish(processes):
    """(status, what was said) of each."""
    said = [process.communicate(timeout=100)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def together(command, run, count, batch, *options, **changes):
    for status, text in finish(start([command(run, batch, *options, **changes)] * count)):
        assert status == 0, text


def under_torchrun(arguments, count):
    torchrun = Path(sys.executable).with_name("torchrun")
    done = subprocess.run(
        [torchrun, "--standalone", "--nproc-per-node", str(count), "--no-python", *arguments],
        capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done


def numbers(value):
    """All numbers of a line that do not depend on time, with where they stand."""
    if isinstance(value, dict):
        return {f"{key}.{path}": number for key, part in value.items() if key not in TIMES
                for path, number in numbers(part).items()}
    if isinstance(value, list):
        return numbers(dict(enumerate(value)))
    return {"": value} if isinstance(value, (int, float)) else {}


def check_same_numbers(run, other):
    assert len(metrics(run)) == len(metrics(other))
    for line, expected in zip(metrics(run), metrics(other), strict=True):
        assert numbers(line) == pytest.approx(numbers(expected), rel=1e-5, abs=1e-9)


def first_steps_of(run, folder):
    """The run as it was after six steps."""
    folder.mkdir()
    shutil.copytree(run / "checkpoint-6", folder / "checkpoint-6")
    shutil.copy(run / "metrics.jsonl", folder)
    return folder
