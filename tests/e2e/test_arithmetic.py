"""Where the CPU is slow in bfloat16, models stored in it compute in float32 and stay bfloat16 in files."""

import platform

import pytest
import torch
from runs import SHORT, half_of, metrics, same_tensors, timeless
from safetensors.torch import load_file

SLOW, FAST = {"OUTRIDER_CPU_BFLOAT16": "slow"}, {"OUTRIDER_CPU_BFLOAT16": "fast"}
BATCH = {"input_ids": [[5, 17, 300, 42, 7, 900, 11, 2], [80, 3, 3, 512, 1000, 6, 2, 2]]}


@pytest.fixture(scope="module")
def run(outrider, shards):
    """run(model, out, *options, **environment): trains; the finished program."""

    def train(model, out, *options, **environment):
        return outrider("train", model, "--data", shards / "train", "--out", out, "--learning-rate", 3e-3,
                        *options, **environment)

    return train


@pytest.fixture(scope="module")
def widened(run, eagle, tmp_path_factory):
    """A run of a bfloat16 model on a CPU that is slow in it: its folder, and what it said."""
    out = tmp_path_factory.mktemp("widened") / "run"
    return out, run(eagle("bfloat16"), out, *SHORT, **SLOW).stderr


def test_one_line_says_so(widened, run, eagle, tmp_path):
    note = "note: this CPU is slow in bfloat16: computing in float32, saving in bfloat16"
    assert widened[1].count(note) == 1
    fast = run(eagle("bfloat16"), tmp_path / "fast", "--max-steps", 1, **FAST)
    wide = run(eagle("float32"), tmp_path / "wide", "--max-steps", 1, **SLOW)
    assert "slow in" not in fast.stderr + wide.stderr


def test_files_keep_the_stored_type_and_a_frozen_base_its_bits(widened, eagle):
    before, after = (load_file(folder / "model.safetensors") for folder in (eagle("bfloat16"), widened[0] / "final"))
    assert {name: t.dtype for name, t in after.items()} == {name: t.dtype for name, t in before.items()}
    assert '"bfloat16"' in (widened[0] / "final/config.json").read_text()
    for name in before:
        is_trained = name.startswith("eagle_module.") and before[name].is_floating_point()
        assert before[name].equal(after[name]) != is_trained, name


def test_it_computes_what_the_model_in_float32_computes(widened, run, eagle, tmp_path):
    """The same numbers as --dtype float32, which also decides the type of the files."""
    run(eagle("bfloat16"), tmp_path / "wide", *SHORT, "--dtype", "float32", **SLOW)
    assert timeless(tmp_path / "wide") == timeless(widened[0])
    wide, narrow = (load_file(folder / "final/model.safetensors") for folder in (tmp_path / "wide", widened[0]))
    assert wide["eagle_module.fc.weight"].dtype == torch.float32
    assert wide["eagle_module.fc.weight"].bfloat16().equal(narrow["eagle_module.fc.weight"])


def test_a_resumed_run_has_the_same_bits(widened, run, eagle, tmp_path):
    resumed = half_of(widened[0], tmp_path / "run")
    run(eagle("bfloat16"), resumed, *SHORT, "--resume", **SLOW)
    assert timeless(resumed) == timeless(widened[0])
    assert same_tensors(resumed / "final", widened[0] / "final")


def test_a_run_goes_on_with_the_other_arithmetic(widened, run, eagle, tmp_path):
    """A note says so; the masters are in the checkpoint either way, so that only rounding differs."""
    run(eagle("bfloat16"), tmp_path / "narrow", *SHORT, **FAST)
    for whole, then in ((widened[0], FAST), (tmp_path / "narrow", SLOW)):
        resumed = half_of(whole, tmp_path / then["OUTRIDER_CPU_BFLOAT16"])
        assert "computing_dtype is" in run(eagle("bfloat16"), resumed, *SHORT, "--resume", **then).stderr
        before, after = (metrics(folder) for folder in (whole, resumed))
        assert after[:3] == before[:3] and len(after) == len(before)
        before, after = ([line["loss"] for line in lines[3:]] for lines in (before, after))
        assert after == pytest.approx(before, rel=0.01) and after != before


def test_forward_widens_too(forward, eagle):
    slow = forward(eagle("bfloat16"), BATCH, "--train", **SLOW)
    wide = forward(eagle("bfloat16"), BATCH, "--train", "--dtype", "float32", **SLOW)
    narrow = forward(eagle("bfloat16"), BATCH, "--train", "--dtype", "bfloat16", **SLOW)
    assert all((slow[name] == wide[name]).all() for name in wide)
    assert (narrow["base.logits"] != wide["base.logits"]).any()


def test_hidden_states_are_stored_as_the_base_is(outrider, tiny, shards, tmp_path):
    options = ("--data", shards / "held_out", "--layers", "1", "--batch-size", 1)
    for name, environment, more in (("slow", SLOW, ()), ("wide", SLOW, ("--dtype", "float32"))):
        outrider("data", "hidden-states", tiny("bfloat16"), *options, *more, "--out", tmp_path / name, **environment)
    slow, wide = (load_file(tmp_path / name / "hidden-00000.safetensors") for name in ("slow", "wide"))
    assert slow["layer.1"].dtype == torch.bfloat16 and wide["layer.1"].dtype == torch.float32
    assert slow["layer.1"].equal(wide["layer.1"].bfloat16())


def test_doctor_names_the_arithmetic(outrider):
    assert outrider("doctor", "--json", **SLOW).json()["cpu_bfloat16"] == "slow"
    assert "bfloat16 models compute in float32" in outrider("doctor", **SLOW).stdout
    assert outrider("doctor", "--json", **FAST).json()["cpu_bfloat16"] == "fast"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of other instruction sets differ")
def test_onednn_is_asked(outrider):
    """Told to use AVX2 at most, it has no products of bfloat16, whatever the CPU is."""
    unset = {"OUTRIDER_CPU_BFLOAT16": None, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert outrider("doctor", "--json", **unset).json()["cpu_bfloat16"] == "slow"
