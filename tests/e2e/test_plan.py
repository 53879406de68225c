"""`outrider plan`: against what was measured on a GPU, and against runs of the program."""

import json
import shutil

import pytest
from conftest import TEST_PLUGINS
from safetensors.numpy import load_file

GIB = 2**30
# (GiB in use by the driver's word, tokens/s) of `outrider bench train` on one H100 80GB: docs/performance.md.
MEASURED = {
    ("8b-k3-2048x8",): (29.3, 28085), ("8b-k3-2048x8", "--base-precision", "fp8"): (23.6, 36842),
    ("8b-k3-2048x1",): (23.5, 25616), ("8b-k7-2048x8",): (31.8, 18797), ("8b-k7-4096x8",): (39.3, 18193),
    ("8b-k7-32768x1",): (39.5, 12815), ("1b-k3-2048x8",): (9.8, 117356), ("1b-k3-2048x1",): (6.5, 102281),
    ("1b-k7-2048x8",): (13.1, 67270), ("1b-k7-4096x8",): (20.4, 64519)}


@pytest.fixture
def plan(outrider):
    def run(*arguments, memory="79GiB", **more):
        return outrider("plan", *arguments, "--device-memory", memory, "--json", **more).json()

    return run


@pytest.mark.parametrize("workload", MEASURED, ids=" ".join)
def test_memory_and_speed_are_those_that_were_measured(plan, workload):
    gib, speed = MEASURED[workload]
    step = plan("--workload", *workload)["step"]
    memory = step["memory"]
    assert memory["total"] / GIB == pytest.approx(gib, rel=0.1)
    assert step["tokens_per_second"] == pytest.approx(speed, rel=0.2)
    parts = {key: value for key, value in memory.items() if key not in ("moment", "total")}
    assert sum(parts.values()) == pytest.approx(memory["total"])


def test_parameters_are_counted(plan):
    memory = plan("--workload", "8b-k3-2048x8")["step"]["memory"]
    h, i, kv, v, d = 4096, 14336, 1024, 128256, 32000
    layer = 2 * h * h + 2 * h * kv + 3 * h * i + 2 * h
    assert memory["base"] == 2 * (32 * layer + 2 * v * h + h)
    draft = 2 * h * h + 2 * (2 * h) * kv + h * h + 3 * h * i + 3 * h * h + d * h + 4 * h
    assert memory["draft"] == 2 * draft and memory["optimizer"] == 12 * draft
    eight = plan("--workload", "8b-k3-2048x8", "--base-precision", "fp8")["step"]["memory"]
    matrices, rows = layer - 2 * h, 2 * h + 2 * kv + 2 * i + h
    assert memory["base"] - eight["base"] == 32 * (matrices - 4 * rows)


def test_products_are_kept_for_as_many_steps_as_there_is_room_for(plan):
    def memory_of(*options, memory="80GiB"):
        return plan("--workload", "8b-k7-2048x8", *options, memory=memory)["step"]["memory"]

    step = 16384 * 2 * 14336 * 2  # gate and up of one step, in bfloat16
    none, all_of_them = memory_of("--recompute", "products"), memory_of("--recompute", "elementwise")
    assert all_of_them["kept"] - none["kept"] == 7 * step
    some = memory_of()
    assert some["kept"] - none["kept"] == step and some["total"] <= 32 * GIB < some["total"] + step
    assert memory_of(memory="140GiB") == some and memory_of(memory="24GiB") == none


def test_a_run_is_what_was_planned(plan, train, eagle, shards, tmp_path):
    options = ("--max-length", 64, "--num-train-epochs", 2)
    planned = plan(eagle(), "--data", shards / "train", *options, "--target-batch", 16,
                   "--per-device-train-batch-size", 8, "--dtype", "float32")
    assert planned["step"]["rows"] == 8 and planned["step"]["passes"] == 2 and planned["step"]["length"] == 64
    run = train(eagle(), tmp_path / "run", *options, "--per-device-train-batch-size", 8,
                "--gradient-accumulation-steps", 2, "--save-steps", 5)
    assert planned["run"]["updates"] == run["steps"]
    written = json.loads((tmp_path / "run/run.json").read_text())
    assert written["summary"]["steps"] == run["steps"]
    tensors = load_file(tmp_path / "run/final/model.safetensors")
    draft = sum(t.nbytes for name, t in tensors.items() if name.startswith("eagle_module.") and name.endswith("weight"))
    memory = planned["step"]["memory"]
    assert memory["draft"] == draft and memory["optimizer"] == 2 * draft  # float32 needs no masters

    def size(folder):
        return sum(path.stat().st_size for path in folder.iterdir())

    assert planned["disk"]["model"] == pytest.approx(size(tmp_path / "run/final"), rel=0.02)
    newest = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert planned["disk"]["checkpoint"] == pytest.approx(size(newest), rel=0.02)
    small = plan(eagle(), "--data", shards / "train", *options, "--save", "draft")["disk"]
    assert small["run"] < planned["disk"]["run"]


def test_rows_and_passes_fit_the_memory(plan, eagle, shards):
    arguments = (eagle(), "--data", shards / "train", "--max-length", 64, "--target-batch", 24)
    whole = plan(*arguments)["step"]
    assert (whole["rows"], whole["passes"]) == (24, 1)
    least = plan(*arguments, "--per-device-train-batch-size", 1)["step"]["memory"]["total"]
    assert least < whole["memory"]["total"]
    limit = int((0.5 * whole["memory"]["total"] + 0.5 * least) / 0.95)
    parts = plan(*arguments, memory=limit)["step"]
    assert parts["rows"] < 24 <= parts["rows"] * parts["passes"] < 24 + parts["passes"]
    assert parts["memory"]["total"] <= 0.95 * limit


def test_packed_rows_are_full(plan, eagle, shards):
    loose, packed = (plan(eagle(), "--data", shards / "train", "--max-length", 192, *options)["run"]
                     for options in ((), ("--packing",)))
    assert packed["tokens"] == loose["tokens"] and packed["updates"] < loose["updates"]
    assert packed["filled"] > 0.9


def test_other_drafts_are_planned(plan, convert, tiny, shards):
    for mode in (("--mode", "medusa"), ("--mode", "eagle", "--set", "eagle_offline=true")):
        step = plan(convert(tiny(), *mode), "--data", shards / "train", "--max-length", 64)["step"]
        assert step["memory"]["kept"] > 0 and step["operations"]["draft"] > 0


def test_a_draft_that_says_nothing_uses_each_matrix_once(outrider, tiny, shards, tmp_path):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    shutil.copy(TEST_PLUGINS / "tiny.outrider.so", plugins)
    options = ("--plugin-dir", plugins, "--allow-unlocked-plugins")
    outrider("convert", tiny(), "--mode", "tiny", "--set", "rows=5", "--out", tmp_path / "model", *options)
    step = outrider("plan", tmp_path / "model", "--data", shards / "train", "--device-memory", "8GiB", "--json",
                    "--target-batch", 2, *options).json()["step"]
    positions = step["rows"] * step["length"]
    assert step["memory"]["kept"] == positions * (5 + 64) * 4
    assert step["operations"]["draft"] == 6 * positions * 5 * 64


def test_text_says_the_same(outrider, eagle, shards):
    said = outrider("plan", eagle(), "--data", shards / "train", "--max-length", 64, "--device-memory", "24GiB").stdout
    for part in ("rows of 64 tokens a pass", "at its fullest in", "tokens/s", "the run: ", "disk: "):
        assert part in said


@pytest.mark.parametrize("arguments, status, said", [
    (("--workload", "8b-k3-2048x8", "--data", "x"), 2, "what is to be planned"), ((), 2, "what is to be planned"),
    (("--workload", "9b-k3-2048x8"), 2, "no workload '9b-k3-2048x8'")])
def test_wrong_arguments(outrider, arguments, status, said):
    assert said in outrider("plan", *arguments, "--device-memory", "80GiB", status=status).stderr


def test_what_cannot_be_planned(outrider, tiny, eagle, shards):
    data = ("--data", shards / "train", "--device-memory")
    assert "has no draft attached" in outrider("plan", tiny(), *data, "80GiB", status=4).stderr
    small = outrider("plan", eagle(), *data, "1GiB", status=2).stderr
    assert "one row of" in small and "may be taken" in small
