"""`train --eval-prompts`: what decoding says during a run is what `eval` says, and the run does not notice."""

import json
import shutil
import signal
import subprocess
import time

import pytest
from processes import check_same_numbers, together
from runs import half_of, metrics, same_tensors, timeless

PROMPTS = [[1, 57, 90, 31, 8] * 4, [5, 6, 7, 8, 9, 10] * 3, [99, 98, 97] * 5, [4, 40, 44] * 4, [300, 301]]
STEPS = ("--max-steps", 12, "--logging-steps", 2, "--save-steps", 6, "--save-total-limit", 0)
DECODED = ("--eval-steps", 4, "--eval-new-tokens", 20, "--eval-draft-tokens", 2)


def without_decoding(lines):
    return [line for line in lines if "decoding" not in line]


def decoded_in(run):
    return {line["step"]: line["decoding"] for line in metrics(run) if "decoding" in line}


@pytest.fixture(scope="module")
def drafts(convert, eagle):
    """Two drafts."""
    return convert(eagle(), "--mode", "medusa", "--set", "medusa_num_heads=2")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in PROMPTS))
    return path


@pytest.fixture(scope="module")
def decoded(train, drafts, prompts, shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("decoded") / "run"
    return out, train(drafts, out, *STEPS, "--eval-data", shards / "held_out", "--eval-prompts", prompts, *DECODED)


def test_training_goes_on_as_without_it(train, drafts, shards, decoded, tmp_path):
    train(drafts, tmp_path / "run", *STEPS, "--eval-data", shards / "held_out", "--eval-steps", 4)
    assert without_decoding(timeless(decoded[0])) == timeless(tmp_path / "run")
    for folder in ("final", "best", "checkpoint-6"):
        assert same_tensors(decoded[0] / folder, tmp_path / "run" / folder)


@pytest.mark.parametrize("number", (0, 1))
def test_it_measures_what_eval_measures(outrider, convert, decoded, prompts, tmp_path, number):
    run, summary = decoded
    assert sorted(decoded_in(run)) == [4, 8, 12]
    assert summary["decoding"] == decoded_in(run)[12] and summary["decoding"]["prompts"] == len(PROMPTS)
    assert [draft["mode"] for draft in summary["decoding"]["drafts"]] == ["eagle", "medusa"]
    folder = run / "final"
    if number == 1:  # `eval` decodes with the first draft
        folder = tmp_path / "other"
        shutil.copytree(run / "final", folder)
        state = json.loads((folder / "outrider_state.json").read_text())
        state["modes"].reverse()
        (folder / "outrider_state.json").write_text(json.dumps(state))
    results = outrider("eval", folder, "--prompts", prompts, "--max-new-tokens", 20, "--num-draft-tokens", 2,
                   "--batch-size", 4, "--json").json()
    draft = summary["decoding"]["drafts"][number]
    [way] = [way for way in results["ways"] if way["drafter"] == draft["mode"]]
    for key in ("acceptance_length", "interval", "acceptance_by_position"):
        assert draft[key] == pytest.approx(way[key])
    assert 1 <= draft["acceptance_length"] <= 3
    assert len(draft["acceptance_by_position"]) == 2


def test_a_resumed_run_decodes_the_same(train, drafts, prompts, shards, decoded, tmp_path):
    run = half_of(decoded[0], tmp_path / "run")
    summary = train(drafts, run, *STEPS, "--eval-data", shards / "held_out", "--eval-prompts", prompts, *DECODED,
                    "--resume")
    assert timeless(run) == timeless(decoded[0])
    assert summary["decoding"] == decoded[1]["decoding"]
    assert same_tensors(run / "final", decoded[0] / "final")


def test_how_prompts_are_decoded_may_change_on_resuming(train, drafts, prompts, decoded, tmp_path):
    run = half_of(decoded[0], tmp_path / "run")
    summary = train(drafts, run, *STEPS, "--eval-prompts", prompts, "--eval-num-prompts", 2, "--eval-new-tokens", 5,
                    "--resume")
    assert summary["decoding"]["prompts"] == 2 and summary["eval"] is None
    assert same_tensors(run / "final", decoded[0] / "final")


@pytest.mark.parametrize("shared", [(1,), (2, "--sequence-parallel", 2)])
def test_several_processes_decode_a_part_each(program, drafts, prompts, shards, tmp_path, shared):
    def command(run, batch, *options):
        return [str(part) for part in (
            program, "train", drafts, "--data", shards / "train", "--out", run, "--per-device-train-batch-size", batch,
            "--max-steps", 2, "--learning-rate", 1e-3, "--eval-prompts", prompts, "--eval-new-tokens", 12, *options)]

    subprocess.run(command(tmp_path / "one", 2), check=True, capture_output=True)
    together(command, tmp_path / "two", 2, *shared)
    check_same_numbers(tmp_path / "two", tmp_path / "one")
    assert decoded_in(tmp_path / "two") == decoded_in(tmp_path / "one") != {}


def test_it_is_said_and_drawn(outrider, drafts, prompts, shards, tmp_path):
    said = outrider("train", drafts, "--data", shards / "train", "--out", tmp_path / "run", "--max-steps", 2,
                    "--eval-prompts", prompts, "--eval-steps", 1, "--eval-new-tokens", 8)
    [first, last] = decoded_in(tmp_path / "run").values()
    for step, draft in ((1, first["drafts"][0]), (2, last["drafts"][0])):
        low, high = draft["interval"]
        assert (f"decoding at step {step}: eagle {draft['acceptance_length']:.2f} tokens per pass of the base "
                f"(95 %: {low:.2f} - {high:.2f}), accepted at position 1, 2, …: ") in said.stderr
    assert said.stdout.count("decoded") == 2
    page = (tmp_path / "run/report.html").read_text()
    assert "<h2>Decoded prompts</h2>" in page and "Acceptance of medusa, decoded" in page
    assert f"eagle, decoded, step 1: {first['drafts'][0]['acceptance_length']:.4g} tokens per base pass" in page
    assert json.loads((tmp_path / "run/run.json").read_text())["eval_prompts"]["sha256"] in page


def test_prompts_may_be_text(train, drafts, jsonl, tmp_path):
    prompts = jsonl({"turns": ["Why is the sky blue?", "And at night?"]},
                    {"messages": [{"role": "user", "content": "Name a colour."}]}, name="prompts.jsonl")
    summary = train(drafts, tmp_path / "run", "--max-steps", 1, "--eval-prompts", prompts, "--eval-new-tokens", 4)
    assert summary["decoding"]["prompts"] == 2


def test_an_interrupted_decoding_is_made_anew(program, train, drafts, prompts, shards, tmp_path):
    options = ("--max-steps", 1, "--per-device-train-batch-size", 1, "--eval-prompts", prompts)
    command = [program, "train", drafts, "--data", shards / "train", "--out", tmp_path / "run", *options,
               "--learning-rate", 3e-3, "--eval-new-tokens", 500, "--logging-steps", 1]
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/final").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "interrupted after step 1" in text
    assert not decoded_in(tmp_path / "run")
    summary = train(drafts, tmp_path / "run", *options, "--eval-new-tokens", 8, "--resume")
    assert decoded_in(tmp_path / "run") == {1: summary["decoding"]}


def test_wrong_prompts_are_refused_before_the_first_step(train, drafts, convert, tiny, jsonl, shards, tmp_path):
    def refused(*options, status, model=drafts):
        text = train(model, tmp_path / "run", "--max-steps", 2, *options, status=status)
        assert not (tmp_path / "run/metrics.jsonl").exists()
        return text

    assert "nowhere.jsonl: no such file" in refused("--eval-prompts", tmp_path / "nowhere.jsonl", status=3)
    unknown = jsonl({"input_ids": [1, 2]}, {"input_ids": [49152]}, name="unknown.jsonl")
    assert "prompt 2 of those that are decoded is empty, or has tokens outside" in refused(
        "--eval-prompts", unknown, status=4)
    assert "prompt 1: 'input_ids' must be a list of integers" in refused(
        "--eval-prompts", jsonl({"input_ids": "a"}, name="wrong.jsonl"), status=3)
    assert "eval_steps needs eval_data or eval_prompts" in refused("--eval-steps", 1, status=2)
    assert "shard_base and eval_prompts do not go together" in refused("--shard-base", "--eval-prompts", unknown, status=2)
    assert "eval_new_tokens is 0, accepted is 1 or more" in refused("--eval-new-tokens", 0, status=2)
    offline = convert(tiny(), "--mode", "eagle", "--preset", "eagle3", "--set", "eagle_offline=true")
    assert "no decoder layers" in refused("--eval-prompts", unknown, status=4, model=offline)
