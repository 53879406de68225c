"""outrider train in several processes: one run, equal to one process with the same global batch."""

import json
import shutil
import signal
import subprocess
import time

import pytest
from conftest import REFERENCE, TEST_PLUGINS
from processes import check_same_numbers, finish, first_steps_of, start, together, under_torchrun
from runs import metrics, write_shards

# Seven conversations: the last batch of an epoch leaves a process without one.
LENGTHS = (24, 17, 20, 24, 9, 30, 12)
STEPS = ("--max-steps", 12, "--logging-steps", 1, "--save-steps", 6, "--save-total-limit", 0,
         "--learning-rate", 3e-3, "--gradient-accumulation-steps", 2)
ENDLESS = ("--max-steps", 1000000, "--logging-steps", 1, "--save-steps", 20, "--learning-rate", 1e-5)


@pytest.fixture(scope="module")
def model(convert):
    """Two drafts whose losses count rows differently."""
    medusa = convert(REFERENCE / "base_llama/base", "--mode", "medusa", "--set", "medusa_num_heads=2")
    return convert(medusa, "--mode", "eagle", "--preset", "eagle3")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", lengths=LENGTHS)


@pytest.fixture(scope="module")
def command(program, model, data):
    """command(run, batch, *options): the argument list of one process."""

    def make(run, batch, *options, data=data):
        return [str(part) for part in (program, "train", model, "--data", data, "--out", run,
                                       "--per-device-train-batch-size", batch, *options)]

    return make


@pytest.fixture(scope="module")
def alone(command, data, tmp_path_factory):
    """One process with batches of two."""
    run = tmp_path_factory.mktemp("alone") / "run"
    subprocess.run(command(run, 2, *STEPS, "--eval-data", data, "--eval-steps", 6), check=True,
                   capture_output=True)
    return run


def test_two_processes_train_as_one_under_torchrun(command, alone, data, tmp_path):
    run = tmp_path / "run"
    done = under_torchrun(command(run, 1, *STEPS, "--eval-data", data, "--eval-steps", 6), 2)
    check_same_numbers(run, alone)
    assert done.stdout.count("written to") == done.stderr.count("step 12/12") == 1
    record = json.loads((run / "run.json").read_text())
    assert [entry["processes"] for entry in record["starts"]] == [2]
    assert "processes" not in json.loads((alone / "run.json").read_text())["starts"][0]


def test_more_processes_than_a_batch_has_conversations(command, tmp_path):
    subprocess.run(command(tmp_path / "one", 4, *STEPS), check=True, capture_output=True)
    together(command, tmp_path / "four", 4, 1, *STEPS)
    check_same_numbers(tmp_path / "four", tmp_path / "one")


def test_rows_of_several_conversations_are_shared_too(command, tmp_path):
    packed = (*STEPS, "--packing", "--max-length", 40)
    subprocess.run(command(tmp_path / "one", 4, *packed), check=True, capture_output=True)
    together(command, tmp_path / "four", 4, 1, *packed)
    check_same_numbers(tmp_path / "four", tmp_path / "one")


@pytest.mark.parametrize("count", (2, 3))
def test_a_base_that_processes_hold_together_computes_the_same(command, data, tmp_path, count):
    evaluated = (*STEPS, "--eval-data", data, "--eval-steps", 6, "--save", "draft")
    subprocess.run(command(tmp_path / "one", count, *evaluated), check=True, capture_output=True)
    together(command, tmp_path / "shared", count, 1, *evaluated, "--shard-base")
    check_same_numbers(tmp_path / "shared", tmp_path / "one")
    run = first_steps_of(tmp_path / "shared", tmp_path / "resumed")
    together(command, run, count, 1, *evaluated, "--shard-base", "--resume")
    check_same_numbers(run, tmp_path / "one")


def test_a_base_that_no_process_has_is_not_written(outrider, command, tmp_path):
    said = outrider(*command(tmp_path / "run", 1, "--shard-base")[1:], status=2).stderr
    assert "shard_base needs several processes; shard_base needs save draft" in said
    for status, text in finish(start([command(tmp_path / "run", 1, "--shard-base")] * 2)):
        assert status == 2
        assert "no process has the whole base to write" in text


def test_a_base_that_trains_is_not_held_together(convert, program, data, tmp_path):
    model = convert(REFERENCE / "base_llama/base", "--mode", "eagle", "--preset", "eagle3", "--set",
                    "eagle_freeze_base_model=false")
    arguments = [program, "train", model, "--data", data, "--out", tmp_path / "run", "--shard-base"]
    for status, text in finish(start([list(map(str, [*arguments, "--save", "draft"]))] * 2)):
        assert status == 4
        assert "a base that is trained cannot be shared" in text
    assert not (tmp_path / "run").exists()


def test_steps_are_recorded_by_time(outrider, command, tmp_path):
    outrider(*command(tmp_path / "run", 2, *STEPS, "--trace-steps", 2)[1:])
    events = json.loads((tmp_path / "run/trace.json").read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert {"aten::linear", "aten::_fused_adamw_"} <= names


def test_a_run_goes_on_with_another_number_of_processes(command, alone, data, tmp_path):
    evaluated = ("--eval-data", data, "--eval-steps", 6, "--resume")
    run = first_steps_of(alone, tmp_path / "more")
    together(command, run, 2, 1, *STEPS, *evaluated)
    check_same_numbers(run, alone)
    run = first_steps_of(run, tmp_path / "fewer")
    subprocess.run(command(run, 2, *STEPS, *evaluated), check=True, capture_output=True)
    check_same_numbers(run, alone)


def test_another_global_batch_is_refused(command, alone, tmp_path):
    run = first_steps_of(alone, tmp_path / "run")
    for status, text in finish(start([command(run, 2, *STEPS, "--resume")] * 2)):
        assert status == 2
        assert "per_device_train_batch_size is 4, was 2" in text


def wait_for_checkpoint(run, processes):
    while not list(run.glob("checkpoint-*")):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)


@pytest.mark.parametrize("killed", (0, 1))
def test_a_killed_process_ends_the_other(command, tmp_path, killed):
    run = tmp_path / "run"
    processes = start([command(run, 1, *ENDLESS)] * 2)
    wait_for_checkpoint(run, processes)
    processes[killed].kill()
    began = time.monotonic()
    status, text = finish(processes)[1 - killed]
    assert time.monotonic() - began < 60
    assert status == 6
    assert "the connection to another process was lost" in text
    assert "--resume" in text
    newest = max(int(folder.name.split("-")[1]) for folder in run.glob("checkpoint-*"))
    resumed = start([command(run, 1, *ENDLESS, "--resume")] * 2)
    while metrics(run)[-1]["step"] <= newest + 2:
        assert all(process.poll() is None for process in resumed)
        time.sleep(0.05)
    for process in resumed:
        process.kill()
    assert f"resuming from '{run}/checkpoint-{newest}'" in finish(resumed)[0][1]


@pytest.mark.parametrize("asked", (0, 1))
def test_a_signal_to_one_ends_all_with_a_checkpoint(command, tmp_path, asked):
    run = tmp_path / "run"
    processes = start([command(run, 1, *ENDLESS)] * 2)
    wait_for_checkpoint(run, processes)
    processes[asked].send_signal(signal.SIGTERM)
    for status, text in finish(processes):
        assert status == 130
        assert "interrupted after step" in text
        assert "continue with the same command and --resume" in text


def test_the_clock_of_the_first_ends_all(command, tmp_path):
    together(command, tmp_path / "run", 2, 1, "--max-seconds", 1, "--learning-rate", 1e-5)
    assert (tmp_path / "run/final/config.json").exists()


def test_processes_that_would_not_train_the_same_are_refused(command, data, tmp_path):
    other = write_shards(tmp_path / "other", lengths=(*LENGTHS[:-1], 13))
    run = tmp_path / "run"
    for status, text in finish(start([
            command(run, 1, *STEPS),
            command(run, 1, *STEPS, "--weight-decay", 0.1, data=other)])):
        assert status == 2
        assert "other than in process 0 are: data (process 1); weight_decay (process 1)" in text
    assert not run.exists()


def test_a_process_that_fails_says_why_to_the_others(command, tmp_path):
    (_, first), (status, second) = finish(start([
        command(tmp_path / "run", 1, *STEPS),
        command(tmp_path / "run", 1, *STEPS, data=tmp_path / "nowhere")]))
    assert status == 3
    assert "nowhere" in second
    assert "another process ended: process 1:" in first
    assert "nowhere" in first


def test_a_draft_whose_loss_is_no_share_is_refused(program, outrider, data, tmp_path):
    (tmp_path / "plugins").mkdir()
    shutil.copy(TEST_PLUGINS / "tiny.outrider.so", tmp_path / "plugins")
    plugins = ("--plugin-dir", tmp_path / "plugins", "--allow-unlocked-plugins")
    outrider(*plugins, "convert", REFERENCE / "base_llama/base", "--mode", "tiny", "--out", tmp_path / "tiny")
    arguments = [program, *plugins, "train", tmp_path / "tiny", "--data", data, "--out", tmp_path / "run"]
    for status, text in finish(start([list(map(str, arguments))] * 2)):
        assert status == 4
        assert "several processes cannot train tiny: its loss does not divide by" in text


def test_malformed_variables_are_refused_all_at_once(outrider, command, tmp_path):
    arguments = command(tmp_path / "run", 1, *STEPS)[1:]
    said = outrider(*arguments, status=2, WORLD_SIZE="2", RANK="second", MASTER_ADDR="127.0.0.1",
                    MASTER_PORT="99999999").stderr
    assert "RANK is 'second', accepted is a number from 0 to 1" in said
    assert "LOCAL_RANK is not set" in said
    assert "MASTER_PORT is '99999999'" in said
    assert "torchrun" in said
    assert not (tmp_path / "run").exists()


def test_a_world_of_one_is_one_process(outrider, command, alone, tmp_path):
    outrider("inspect", alone / "final", WORLD_SIZE="2")
    outrider(*command(tmp_path / "run", 2, "--max-steps", 1)[1:], WORLD_SIZE="1", RANK="0")
