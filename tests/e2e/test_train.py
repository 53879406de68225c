"""outrider train: the loss falls, and what a run says and leaves behind."""

import json

import numpy as np
import pytest
from conftest import REFERENCE
from runs import SHORT, TIMES, metrics, write_shards
from safetensors.torch import load_file

# --- learning ----------------------------------------------------------------------------------


def check_falling(run, at_least):
    losses = [line["loss"] for line in metrics(run) if "loss" in line]
    assert len(losses) == 6
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] - at_least
    for step in range(len(metrics(run)[0]["drafts"][0]["steps"])):
        first, last = (line["drafts"][0]["steps"][step]["loss"] for line in
                       (metrics(run)[0], metrics(run)[5]))
        assert last < first


def test_conversations_too_short_for_some_steps_train_beside_others(outrider, convert, tmp_path):
    model = convert(REFERENCE / "base_llama/base", "--mode", "eagle", "--preset", "eagle3", "--set",
                    "eagle_ttt_steps=5")
    data = write_shards(tmp_path / "shards", lengths=(3, 24, 2, 6))
    outrider("train", model, "--data", data, "--eval-data", data, "--out", tmp_path / "run",
             "--max-steps", 8, "--logging-steps", 4, "--per-device-train-batch-size", 1)
    for line in metrics(tmp_path / "run"):
        steps = (line.get("eval") or line)["drafts"][0]["steps"]
        assert [step["name"] for step in steps] == [f"parallel_0_step_{k}" for k in range(5)]
        assert all(0 <= step["accuracy"] <= 1 for step in steps)


def test_the_loss_of_eagle_falls(train, eagle, tmp_path):
    train(eagle(), tmp_path / "run", "--max-steps", 30, "--logging-steps", 5)
    check_falling(tmp_path / "run", at_least=1.0)


def test_the_loss_of_eagle_falls_in_bfloat16(train, eagle, tmp_path):
    train(eagle("bfloat16"), tmp_path / "run", "--max-steps", 30, "--logging-steps", 5)
    check_falling(tmp_path / "run", at_least=1.0)
    tensors = load_file(tmp_path / "run/final/model.safetensors")
    assert {str(t.dtype) for t in tensors.values()} == {"torch.bfloat16", "torch.int64"}


@pytest.mark.parametrize("loss", ["reverse_kl", "jsd", "total_variation", "lk"])
def test_every_loss_of_eagle_falls_and_more_is_accepted(train, convert, tiny, draft_vocabulary, tmp_path,
                                                        loss):
    model = convert(tiny(), "--mode", "eagle", "--preset", "eagle3", "--draft-vocab", draft_vocabulary,
                    "--set", f"eagle_loss={loss}")
    train(model, tmp_path / "run", "--max-steps", 30, "--logging-steps", 5)
    check_falling(tmp_path / "run", at_least=0.0)
    first, last = (metrics(tmp_path / "run")[line]["drafts"][0]["steps"][0] for line in (0, 5))
    assert last["overlap"] > first["overlap"]


def test_the_loss_of_medusa_falls(train, convert, tiny, tmp_path):
    model = convert(tiny(), "--mode", "medusa", "--set", "medusa_num_heads=2")
    train(model, tmp_path / "run", "--max-steps", 30, "--logging-steps", 5,
          "--per-device-train-batch-size", 2)
    check_falling(tmp_path / "run", at_least=0.05)


def test_two_drafts_train_side_by_side(train, convert, eagle, tmp_path):
    model = convert(eagle(), "--mode", "medusa", "--set", "medusa_num_heads=1")
    train(model, tmp_path / "run", "--max-steps", 2, "--logging-steps", 1)
    for line in metrics(tmp_path / "run"):
        assert [draft["mode"] for draft in line["drafts"]] == ["eagle", "medusa"]
        # One batch a line: the sum is exact, up to the weights of padded batches.
        total = sum(draft["loss"] for draft in line["drafts"])
        assert line["loss"] == pytest.approx(total, rel=1e-5)
    before, after = (load_file(folder / "model.safetensors")
                     for folder in (model, tmp_path / "run/final"))
    for name in ("eagle_module.fc.weight", "medusa_heads.0.1.weight"):
        assert not before[name].equal(after[name])


def test_held_out_loss_falls_too(long_run):
    run, summary = long_run
    evals = [line for line in metrics(run) if "eval" in line]
    assert [line["step"] for line in evals] == [10, 20, 30]
    losses = [line["eval"]["drafts"][0]["loss"] for line in evals]
    assert losses[2] < losses[0]
    assert summary["eval"] == evals[-1]["eval"]
    assert summary["eval"]["conversations"] == 151


def test_the_best_checkpoint_is_kept_with_its_numbers(outrider, long_run):
    run, summary = long_run
    evals = [line for line in metrics(run) if "eval" in line]
    best = min(evals, key=lambda line: line["eval"]["drafts"][0]["loss"])
    loss = best["eval"]["drafts"][0]["loss"]
    assert summary["best"] == {"folder": str(run / "best"), "step": best["step"], "loss": loss}
    record = json.loads((run / "best/best.json").read_text())
    assert (record["step"], record["loss"], record["eval"]) == (best["step"], loss, best["eval"])
    assert outrider("inspect", run / "best", "--json").json()["modes"][0]["mode"] == "eagle"


def test_the_base_is_not_touched(eagle, long_run, tiny):
    before, after = (load_file(folder / "model.safetensors")
                     for folder in (eagle(), long_run[0] / "final"))
    base = load_file(tiny() / "model.safetensors")
    assert sorted(before) == sorted(after)
    assert all(after[name].equal(base[name]) for name in base)
    assert after["eagle_module.d2t"].equal(before["eagle_module.d2t"])
    trained = [n for n in after if n not in base and n != "eagle_module.d2t"]
    assert len(trained) == 13 and not any(after[n].equal(before[n]) for n in trained)


# --- what a run says ---------------------------------------------------------------------------


def test_each_line_of_metrics_has_the_promised_fields(long_run):
    lines = [line for line in metrics(long_run[0]) if "eval" not in line]
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 25, 30]
    for line in lines:
        assert set(line) == {"step", "epoch", "loss", "drafts", "learning_rate", "grad_norm",
                             *TIMES}
        assert all(line[key] > 0 for key in TIMES | {"grad_norm", "learning_rate", "loss"})
        [draft] = line["drafts"]
        assert set(draft) == {"mode", "loss", "steps", "expected_acceptance_length",
                              "expected_acceptance_length_sampling"}
        assert draft["mode"] == "eagle"
        assert [step["name"] for step in draft["steps"]] == [
            f"parallel_0_step_{k}" for k in range(3)]
        hits = np.cumprod([step["accuracy"] for step in draft["steps"]])
        assert draft["expected_acceptance_length"] == pytest.approx(1 + hits.sum(), rel=1e-6)
        shared = np.cumprod([step["overlap"] for step in draft["steps"]])
        assert draft["expected_acceptance_length_sampling"] == pytest.approx(
            1 + shared.sum(), rel=1e-6)
        for step in draft["steps"]:
            assert set(step) == {"name", "loss", "accuracy", "overlap", "count"}
            assert 0 <= step["accuracy"] <= 1 and 0 <= step["overlap"] <= 1
            assert step["count"] > 0
    epochs = [line["epoch"] for line in lines]
    assert epochs == pytest.approx([line["step"] / 50 for line in lines])  # 200 in batches of 4


def test_the_learning_rate_follows_its_schedule(short_run):
    rates = {line["step"]: line["learning_rate"] for line in metrics(short_run)}
    expected = {step: 3e-3 * (step - 1) / 3 if step - 1 < 3 else
                3e-3 * 0.5 * (1 + np.cos(np.pi * (step - 1 - 3) / 9)) for step in rates}
    assert rates == pytest.approx(expected)


def test_the_summary_counts(long_run, eagle):
    run, summary = long_run
    tensors = load_file(eagle() / "model.safetensors")
    trained = sum(t.numel() for n, t in tensors.items()
                  if n.startswith("eagle_module.") and n != "eagle_module.d2t")
    assert summary["steps"] == 30 and summary["trained_parameters"] == trained
    assert summary["conversations"] == 200 and summary["skipped_conversations"] == 0
    assert summary["final"] == str(run / "final")
    assert sorted(path.name for path in run.iterdir()) == [
        "best", "final", "metrics.jsonl", "report.html", "run.json"]


def test_progress_goes_to_stderr(outrider, eagle, shards, tmp_path):
    done = outrider("train", eagle(), "--data", shards / "train", "--out", tmp_path / "run",
                    "--max-steps", 2, "--logging-steps", 1)
    for text in ("step 1/2", "step 2/2", "100%", "loss", "tokens/s", "ETA"):
        assert text in done.stderr
        assert text not in done.stdout or text == "loss"  # a column of the table
    assert f"written to {tmp_path}/run/final" in done.stdout


# --- what a run leaves -------------------------------------------------------------------------


def test_the_final_model_is_restored_and_exported(outrider, forward, eagle, long_run, tmp_path):
    final = long_run[0] / "final"
    [mode] = outrider("inspect", final, "--json").json()["modes"]
    assert mode["restored_by"]["is_the_writer"] is True
    batch = {"input_ids": [[1, 4093, 198, 504, 3575, 282, 253]]}
    before, after = (forward(folder, batch, "--train") for folder in (eagle(), final))
    assert np.array_equal(before["base.logits"], after["base.logits"])
    assert not np.array_equal(before["logits.step_0"], after["logits.step_0"])
    outrider("export", final, "--format", "hf", "--out", tmp_path / "export")
    trained, exported = (load_file(folder / "model.safetensors")
                         for folder in (final, tmp_path / "export"))
    for name, tensor in exported.items():
        assert tensor.equal(trained[f"eagle_module.{name}"]), name
    assert (final / "tokenizer.json").read_bytes() == (eagle() / "tokenizer.json").read_bytes()


def test_a_run_does_not_write_into_another(train, eagle, short_run):
    before = sorted(short_run.rglob("*"))
    text = train(eagle(), short_run, *SHORT, status=3)
    assert f"'{short_run}' exists and is not an empty folder" in text
    assert "continue the run in it with --resume" in text
    assert sorted(short_run.rglob("*")) == before


def test_old_checkpoints_make_room(train, eagle, tmp_path):
    train(eagle(), tmp_path / "run", "--max-steps", 5, "--save-steps", 1,
          "--save-total-limit", 2)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoint-3", "checkpoint-4", "final", "metrics.jsonl", "report.html", "run.json"]
