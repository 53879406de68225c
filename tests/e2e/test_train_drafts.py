"""--save draft: checkpoints without the base, which find it again and know it from others."""

import json
import shutil

import pytest
from runs import metrics, same_tensors, timeless
from safetensors.torch import load_file, save_file

RUN = ("--max-steps", 6, "--logging-steps", 2, "--save-steps", 3, "--save-total-limit", 0)


@pytest.fixture(scope="module")
def drafts(train, eagle, shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("drafts") / "run"
    train(eagle(), run, *RUN, "--save", "draft", "--eval-data", shards / "held_out")
    return run


@pytest.fixture(scope="module")
def whole(train, eagle, shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("full") / "run"
    train(eagle(), run, *RUN, "--eval-data", shards / "held_out")
    return run


@pytest.fixture(scope="module")
def batch():
    return {"input_ids": [[1, 4093, 198, 504, 3575, 282, 253]]}


def size(folder):
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def test_no_base_weight_is_saved(drafts, whole):
    for name in ("checkpoint-3", "checkpoint-6", "best", "final"):
        if name == "checkpoint-6":  # the last step is saved as final
            continue
        tensors = load_file(drafts / name / "model.safetensors")
        assert tensors and all(key.startswith("eagle_module.") for key in tensors)
        full = load_file(whole / name / "model.safetensors")
        assert all(tensor.equal(full[key]) for key, tensor in tensors.items())
        assert set(full) - set(tensors) == {k for k in full if not k.startswith("eagle_module.")}
    assert size(drafts / "final") < size(whole / "final") / 10


def test_a_draft_finds_its_base(drafts, whole, forward, outrider, batch, eagle, tmp_path):
    state = json.loads((drafts / "final/outrider_state.json").read_text())
    reference = state["base_model"]["reference"]
    assert reference["path"] == reference["absolute"] == str(eagle())
    ours, theirs = (forward(run / "final", batch, "--train") for run in (drafts, whole))
    assert sorted(ours) == sorted(theirs)
    assert all((ours[name] == theirs[name]).all() for name in ours)
    for run, out in ((drafts, "a"), (whole, "b")):
        outrider("export", run / "final", "--format", "hf", "--out", tmp_path / out)
    assert same_tensors(tmp_path / "a", tmp_path / "b")
    text = outrider("inspect", drafts / "final").stdout
    assert f"drafts only; their base is {eagle()}" in text
    assert f"found, the same weights: {eagle()}" in text


def test_the_unconverted_base_serves_as_well(drafts, whole, outrider, forward, batch, tiny, tmp_path):
    ours = forward(drafts / "final", batch, "--base", tiny())
    theirs = forward(whole / "final", batch)
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    outrider("restore", tiny(), drafts / "final", "--out", tmp_path / "restored")
    assert same_tensors(tmp_path / "restored", whole / "final")
    outrider("save", drafts / "final", "--base", tiny(), "--out", tmp_path / "file")
    assert (tmp_path / "file").stat().st_size > size(drafts / "final") * 10


@pytest.mark.parametrize("bfloat16", ["fast", "slow"])
def test_the_base_serves_as_it_was_before_its_type_changed(train, convert, forward, tiny, batch,
                                                           tmp_path, monkeypatch, bfloat16):
    monkeypatch.setenv("OUTRIDER_CPU_BFLOAT16", bfloat16)
    model = convert(tiny(), "--mode", "medusa", "--set", "medusa_num_heads=1", "--dtype", "bfloat16")
    train(model, tmp_path / "run", "--max-steps", 1, "--save", "draft")
    a = forward(tmp_path / "run/final", batch)
    b = forward(tmp_path / "run/final", batch, "--base", tiny())
    assert sorted(a) == sorted(b) and all((a[name] == b[name]).all() for name in a)


def test_a_base_that_is_not_there_is_named(drafts, edited, outrider, tmp_path):
    def move(state):
        state["base_model"]["reference"].update(path="gone", absolute="/nowhere/gone")

    lost = edited(drafts / "final", "outrider_state.json", move)
    text = outrider("export", lost, "--format", "hf", "--out", tmp_path / "x", status=3).stderr
    assert "its base is neither at '/nowhere/gone' nor at 'gone'" in text
    assert "hint: name the base's folder with --base DIR" in text
    [problem] = [line for line in outrider("inspect", lost).stdout.splitlines() if "neither" in line]
    assert "/nowhere/gone" in problem


def test_another_base_is_refused(drafts, tiny, eagle, outrider, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny(), other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][3, 5] += 1e-3
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    recorded = json.loads((drafts / "final/outrider_state.json").read_text())[
        "base_model"]["reference"]["weights_sha256"]
    arguments = ("export", drafts / "final", "--format", "hf", "--out", tmp_path / "x")
    text = outrider(*arguments, "--base", other, status=4).stderr
    assert f"the base in '{other}' has other weights" in text
    assert f"'{eagle()}'" in text and f"recorded is {recorded}" in text
    text = outrider("restore", other, drafts / "final", "--out", tmp_path / "y", status=4).stderr
    assert "has other weights" in text
    text = outrider("export", eagle(), "--base", tiny(), "--out", tmp_path / "z", status=2).stderr
    assert "holds its base: no other can be named" in text


def test_a_run_goes_on_from_drafts(train, drafts, whole, eagle, shards, tmp_path):
    half = tmp_path / "run"
    half.mkdir()
    for name in ("checkpoint-3", "run.json", "metrics.jsonl"):
        source = drafts / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, half / name)
    train(eagle(), half, *RUN, "--save", "draft", "--resume", "--eval-data", shards / "held_out")
    assert timeless(half) == timeless(whole) == timeless(drafts)
    assert same_tensors(half / "final", drafts / "final")


def test_a_draft_is_trained_further_without_its_base_beside_it(train, drafts, tiny, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tiny(), moved)
    train(drafts / "final", tmp_path / "run", "--base", moved, "--max-steps", 2, "--save", "draft",
          "--logging-steps", 1)
    state = json.loads((tmp_path / "run/final/outrider_state.json").read_text())
    assert state["base_model"]["reference"]["path"] == str(moved)
    assert len(metrics(tmp_path / "run")) == 2
    train(drafts / "final", tmp_path / "full", "--max-steps", 1)
    assert "model.norm.weight" in load_file(tmp_path / "full/final/model.safetensors")
    assert not (tmp_path / "full/final/best.json").exists()


def test_a_trained_base_cannot_be_left_out(train, convert, tiny, tmp_path):
    model = convert(tiny(), "--mode", "medusa", "--set", "medusa_num_heads=1",
                    "--set", "medusa_freeze_base_model=false")
    text = train(model, tmp_path / "run", "--max-steps", 1, "--save", "draft", status=2)
    assert "--save draft: this run trains the base too" in text
    assert not (tmp_path / "run").exists()
    text = train(model, tmp_path / "run", "--save", "drafts", status=2)
    assert "save 'drafts' is unknown, accepted are full and draft" in text
