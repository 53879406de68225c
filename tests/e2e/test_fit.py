"""outrider train --fit-tokens: drafts start from regressions on what the base computes."""

import shutil

import pytest
from conftest import REFERENCE
from runs import metrics, same_tensors, timeless, write_shards

LENGTHS = (24, 17, 20, 24, 9, 30) * 8
STEPS = ("--max-steps", 8, "--logging-steps", 1, "--save-steps", 4, "--save-total-limit", 0, "--learning-rate", 1e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", lengths=LENGTHS)


def losses(run):
    return [line["loss"] for line in metrics(run) if "loss" in line]


def test_a_fitted_run_goes_on_where_it_was_stopped(outrider, small_eagle3, data, tmp_path):
    fitted = tmp_path / "fitted"
    options = ("train", small_eagle3, "--data", data, "--out", fitted, *STEPS, "--fit-tokens", 600)
    said = outrider(*options).stderr
    assert "fit: drafts start from regressions on" in said
    whole = tmp_path / "whole"
    shutil.copytree(fitted, whole)
    shutil.rmtree(fitted / "final")
    shutil.rmtree(fitted / "checkpoint-8", ignore_errors=True)
    assert "fit: " not in outrider(*options, "--resume").stderr
    assert timeless(fitted) == timeless(whole)
    assert same_tensors(fitted / "final", whole / "final")


def test_a_fit_in_bfloat16_reaches_the_masters(outrider, small_eagle3, data, tmp_path):
    def run(name, *options):
        outrider("train", small_eagle3, "--data", data, "--out", tmp_path / name, *STEPS, *options)
        return losses(tmp_path / name)

    plain, wide, half = run("plain"), run("wide", "--fit-tokens", 600), run(
        "half", "--fit-tokens", 600, "--dtype", "bfloat16")
    assert half == pytest.approx(wide, rel=5e-3)
    assert all(abs(fitted - unfitted) > 0.02 * unfitted for fitted, unfitted in zip(wide[:6], plain[:6], strict=True))


def test_a_fit_is_refused_where_it_would_replace_what_was_learned(outrider, convert, small_eagle3, data, tmp_path):
    run = tmp_path / "run"
    outrider("train", small_eagle3, "--data", data, "--out", run, *STEPS)
    again = ("--data", data, "--out", tmp_path / "again", *STEPS, "--fit-tokens", 600)
    said = outrider("train", run / "final", *again, status=2).stderr
    assert "was trained already" in said and "without --fit-tokens" in said
    medusa = convert(REFERENCE / "base_llama/base", "--mode", "medusa")
    said = outrider("train", medusa, *again, status=4).stderr
    assert "none of the model's drafts" in said
    said = outrider("train", small_eagle3, *again, "--base-precision", "fp8", "--save", "draft", status=2).stderr
    assert "fit_tokens and base_precision fp8" in said
