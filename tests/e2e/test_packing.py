"""outrider train --packing: several conversations in a row learn what they learn in rows of their own."""

import json
import shutil

import pytest
from conftest import REFERENCE
from runs import metrics, write_shards

LENGTHS = (24, 17, 20, 24, 9, 30, 2, 5)
ONE_STEP = ("--max-steps", 1, "--max-length", 64)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", lengths=LENGTHS)


def first_step(outrider, model, data, run, *options):
    said = outrider("train", model, "--data", data, "--out", run, *ONE_STEP, *options).stderr
    return next(line for line in metrics(run) if "loss" in line), said


@pytest.mark.parametrize("mode", [("eagle", "--preset", "eagle3"), ("eagle", "--preset", "EAGLE_MTP_DEFAULT_CFG"), ("medusa",)])
def test_a_packed_batch_has_the_loss_and_gradient_of_an_unpacked_one(outrider, convert, data, tmp_path, mode):
    model = convert(REFERENCE / "base_llama/base", "--mode", *mode)
    apart, _ = first_step(outrider, model, data, tmp_path / "apart", "--per-device-train-batch-size", len(LENGTHS))
    packed, said = first_step(outrider, model, data, tmp_path / "packed", "--packing",
                              "--per-device-train-batch-size", 3)
    # The conversation of two tokens has no row that predicts another.
    assert "conversations in 3 rows of 64 tokens" in said
    for key in ("loss", "grad_norm"):
        assert packed[key] == pytest.approx(apart[key], rel=1e-5), key
    for mine, other in zip(packed["drafts"], apart["drafts"], strict=True):
        for step, expected in zip(mine["steps"], other["steps"], strict=True):
            assert step == {key: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
                            for key, value in expected.items()}


def test_a_packed_run_that_was_stopped_has_the_bits_of_one_that_was_not(outrider, small_eagle3, data, tmp_path):
    run = tmp_path / "run"
    options = ("train", small_eagle3, "--data", data, "--out", run, "--max-steps", 6, "--logging-steps", 1, "--save-steps", 3,
               "--max-length", 32, "--per-device-train-batch-size", 2, "--packing")
    outrider(*options)
    before = [line["loss"] for line in metrics(run)]
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoint-6", ignore_errors=True)
    outrider(*options, "--resume")
    assert [line["loss"] for line in metrics(run)] == before
    assert json.loads((run / "run.json").read_text())["options"]["packing"] is True
    shutil.rmtree(run / "final")
    assert "packing" in outrider(*options[:-1], "--resume", status=2).stderr


def test_what_does_not_go_with_packing_is_refused(outrider, convert, data, tmp_path):
    model = convert(REFERENCE / "base_llama/base", "--mode", "eagle", "--preset", "eagle3", "--set",
                    "eagle_mix_hidden_states=true")
    said = outrider("train", model, "--data", data, "--out", tmp_path / "run", *ONE_STEP, "--packing", status=4).stderr
    assert "rows of several documents do not go with" in said
    assert "train without --packing" in said


def test_graphs_are_refused_where_there_is_no_gpu(outrider, small_eagle3, data, tmp_path):
    said = outrider("train", small_eagle3, "--data", data, "--out", tmp_path / "run", *ONE_STEP, "--cuda-graphs", "on",
                    status=2).stderr
    assert "--cuda-graphs on needs a GPU" in said
