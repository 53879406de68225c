"""outrider train --sequence-parallel: processes that share sequences train as one process does."""

import json
import shutil
import subprocess

import pytest
from conftest import REFERENCE, TEST_PLUGINS
from processes import check_same_numbers, finish, first_steps_of, start, together, under_torchrun
from runs import write_shards

# Odd lengths and even ones, some no multiple of the processes.
LENGTHS = (24, 17, 20, 24, 9, 30, 13)
STEPS = ("--max-steps", 12, "--logging-steps", 1, "--save-steps", 6, "--save-total-limit", 0,
         "--learning-rate", 3e-3, "--gradient-accumulation-steps", 2)
FEW = ("--max-steps", 4, "--logging-steps", 1, "--learning-rate", 3e-3)


@pytest.fixture(scope="module")
def models(convert):
    """models(base, *options): the base with heads of Medusa and a draft of EAGLE-3."""

    def make(base, *options):
        medusa = convert(REFERENCE / base / "base", "--mode", "medusa", "--set", "medusa_num_heads=2")
        return convert(medusa, "--mode", "eagle", "--preset", "eagle3", *options)

    return make


@pytest.fixture(scope="module")
def model(models):
    return models("base_llama")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", lengths=LENGTHS)


@pytest.fixture(scope="module")
def command(program, model, data):
    """command(run, batch, *options): the argument list of one process."""

    def make(run, batch, *options, data=data, model=model):
        return [str(part) for part in (program, "train", model, "--data", data, "--out", run,
                                       "--per-device-train-batch-size", batch, *options)]

    return make


def by_itself(arguments):
    subprocess.run(arguments, check=True, capture_output=True)


@pytest.fixture(scope="module")
def alone(command, data, tmp_path_factory):
    """One process with batches of two."""
    run = tmp_path_factory.mktemp("alone") / "run"
    by_itself(command(run, 2, *STEPS, "--eval-data", data, "--eval-steps", 6))
    return run


def test_two_processes_share_sequences_under_torchrun(command, alone, data, tmp_path):
    run = tmp_path / "run"
    under_torchrun(command(run, 2, *STEPS, "--eval-data", data, "--eval-steps", 6,
                           "--sequence-parallel", 2), 2)
    check_same_numbers(run, alone)
    record = json.loads((run / "run.json").read_text())
    assert [(entry["processes"], entry["sequence_parallel"]) for entry in record["starts"]] == [(2, 2)]


# Four have more heads than the base has keys; two groups of two share the batch as well.
@pytest.mark.parametrize(("shared", "batch"), ((4, 2), (2, 1)))
def test_four_processes_train_as_one(command, alone, data, tmp_path, shared, batch):
    together(command, tmp_path / "run", 4, batch, *STEPS, "--eval-data", data, "--eval-steps", 6,
             "--sequence-parallel", shared)
    check_same_numbers(tmp_path / "run", alone)


def test_more_groups_than_a_batch_has_conversations(command, data, tmp_path):
    by_itself(command(tmp_path / "one", 2, *FEW))
    together(command, tmp_path / "four", 4, 1, *FEW, "--sequence-parallel", 2)
    check_same_numbers(tmp_path / "four", tmp_path / "one")


def test_a_base_that_processes_hold_together_too(command, tmp_path):
    by_itself(command(tmp_path / "one", 2, *FEW))
    together(command, tmp_path / "four", 4, 1, *FEW, "--sequence-parallel", 2, "--shard-base", "--save", "draft")
    check_same_numbers(tmp_path / "four", tmp_path / "one")


@pytest.mark.parametrize("processes", (2, 4))
def test_a_sliding_window_and_more_steps(command, models, tmp_path, processes):
    model = models("base_mistral_swa", "--set", "eagle_ttt_steps=5")
    by_itself(command(tmp_path / "one", 2, *FEW, model=model))
    together(command, tmp_path / "run", processes, 2, *FEW, "--sequence-parallel", processes, model=model)
    check_same_numbers(tmp_path / "run", tmp_path / "one")


def test_sequences_with_fewer_tokens_than_processes(command, tmp_path):
    data = write_shards(tmp_path / "short", lengths=(3, 3, 3))
    by_itself(command(tmp_path / "one", 2, *FEW, data=data))
    together(command, tmp_path / "four", 4, 2, *FEW, "--sequence-parallel", 4, data=data)
    check_same_numbers(tmp_path / "four", tmp_path / "one")


def test_a_run_goes_on_with_other_numbers(command, alone, data, tmp_path):
    evaluated = ("--eval-data", data, "--eval-steps", 6, "--resume")
    run = first_steps_of(alone, tmp_path / "shared")
    together(command, run, 2, 2, *STEPS, *evaluated, "--sequence-parallel", 2)
    check_same_numbers(run, alone)
    run = first_steps_of(run, tmp_path / "not_shared")
    together(command, run, 2, 1, *STEPS, *evaluated)
    check_same_numbers(run, alone)


def test_another_global_batch_is_refused(command, alone, tmp_path):
    run = first_steps_of(alone, tmp_path / "run")
    for status, text in finish(start([command(run, 1, *STEPS, "--resume", "--sequence-parallel", 2)] * 2)):
        assert status == 2
        assert "per_device_train_batch_size is 1, was 2" in text


def check_refused(commands, status, *parts):
    for found, text in finish(start(commands)):
        assert found == status, text
        for part in parts:
            assert part in text


def test_numbers_of_processes_that_do_not_fit_are_refused(outrider, command, tmp_path):
    shared = command(tmp_path / "run", 2, *FEW, "--sequence-parallel", 2)
    assert "divides the one process" in outrider(*shared[1:], status=2).stderr
    check_refused([shared] * 3, 2, "sequence_parallel is 2, accepted is a number that divides the 3 processes")
    three = command(tmp_path / "run", 2, *FEW, "--sequence-parallel", 3)
    check_refused([three] * 3, 4, "the base has 4 attention heads, which 3 processes cannot divide",
                  "draft 'eagle' has 4 attention heads", "(accepted for this model: 1, 2, 4)")
    check_refused([shared, command(tmp_path / "run", 2, *FEW)], 2, "sequence_parallel (process 1)")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_shared_is_refused_before_training(command, convert, tmp_path):
    medusa = convert(REFERENCE / "base_llama/base", "--mode", "medusa", "--set", "medusa_freeze_base_model=false")
    model = convert(medusa, "--mode", "eagle", "--preset", "eagle3", "--set", "eagle_mix_hidden_states=true",
                    "--set", "eagle_freeze_base_model=false")
    shared = command(tmp_path / "run", 2, *FEW, "--sequence-parallel", 2, model=model)
    check_refused([shared] * 2, 4, "the base itself is trained", "draft 'eagle', as it is configured")
    assert not (tmp_path / "run").exists()


def test_hidden_states_in_the_data_are_refused(outrider, command, model, data, tmp_path):
    outrider("data", "hidden-states", REFERENCE / "base_llama/base", "--for", model, "--data", data,
             "--out", tmp_path / "states")
    shared = command(tmp_path / "run", 2, *FEW, "--sequence-parallel", 2, data=tmp_path / "states")
    check_refused([shared] * 2, 4, "the data holds the base's hidden states")


def test_a_plugin_that_does_not_know_of_it_is_refused(program, outrider, data, tmp_path):
    (tmp_path / "plugins").mkdir()
    shutil.copy(TEST_PLUGINS / "tiny.outrider.so", tmp_path / "plugins")
    plugins = ("--plugin-dir", tmp_path / "plugins", "--allow-unlocked-plugins")
    outrider(*plugins, "convert", REFERENCE / "base_llama/base", "--mode", "tiny", "--out", tmp_path / "tiny")
    arguments = [program, *plugins, "train", tmp_path / "tiny", "--data", data, "--out", tmp_path / "run",
                 "--sequence-parallel", 2]
    check_refused([list(map(str, arguments))] * 2, 4, "draft 'tiny', as it is configured")
