"""outrider train --base-precision fp8: what it costs is measured and said, and the draft learns."""

import json
import shutil

import pytest
from conftest import REFERENCE
from runs import metrics, write_shards

LENGTHS = (24, 17, 20, 24, 9, 30)
STEPS = ("--max-steps", 30, "--logging-steps", 1, "--learning-rate", 1e-2, "--save", "draft",
         "--lr-scheduler-type", "constant")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("data") / "shards", lengths=LENGTHS)


def test_the_cost_of_fewer_bits_is_measured_and_the_draft_learns(outrider, small_eagle3, data, tmp_path):
    runs = {}
    for precision in ("full", "fp8"):
        run = tmp_path / precision
        said = outrider("train", small_eagle3, "--data", data, "--eval-data", data, "--out", run, *STEPS,
                        "--base-precision", precision).stderr
        assert ("in eight-bit floats the base differs" in said) == (precision == "fp8")
        runs[precision] = (json.loads((run / "run.json").read_text())["summary"], metrics(run))
    assert runs["full"][0]["teacher_cost"] is None
    cost = runs["fp8"][0]["teacher_cost"]
    assert cost["conversations"] == len(LENGTHS)
    assert cost["tokens"] == sum(LENGTHS)
    assert 1e-6 < cost["divergence"] < 0.05
    assert 0.8 < cost["agreement"] <= 1
    losses = [line["loss"] for line in runs["fp8"][1] if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    full = [line["loss"] for line in runs["full"][1] if "loss" in line]
    assert losses[0] != full[0]
    assert losses == pytest.approx(full, rel=0.05)


def test_a_run_in_fewer_bits_goes_on_and_is_no_run_in_more(outrider, small_eagle3, data, tmp_path):
    run = tmp_path / "run"
    options = ("train", small_eagle3, "--data", data, "--out", run, "--save", "draft", "--max-steps", 8,
               "--logging-steps", 1, "--save-steps", 4, "--base-precision")
    outrider(*options, "fp8")
    before = metrics(run)
    shutil.rmtree(run / "final")
    said = outrider(*options, "full", "--resume", status=2).stderr
    assert "base_precision" in said
    outrider(*options, "fp8", "--resume")
    assert [line["loss"] for line in metrics(run)] == [line["loss"] for line in before]


def test_what_cannot_be_done_in_fewer_bits_is_refused(outrider, convert, small_eagle3, data, tmp_path):
    start = ("train", small_eagle3, "--data", data, "--out", tmp_path / "run", "--base-precision")
    assert "base_precision fp8 needs save draft" in outrider(*start, "fp8", status=2).stderr
    assert "base_precision 'int3' is unknown" in outrider(*start, "int3", status=2).stderr
    trained = convert(REFERENCE / "base_llama/base", "--mode", "eagle", "--preset", "eagle3", "--set",
                      "eagle_freeze_base_model=false")
    said = outrider("train", trained, "--data", data, "--out", tmp_path / "run", "--base-precision", "fp8",
                    "--save", "draft", status=4).stderr
    assert "needs a base that runs and is not trained itself" in said
    assert not (tmp_path / "run").exists()
