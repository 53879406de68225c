"""`outrider doctor DIR --prompts FILE` names what makes acceptance low, with a figure for each cause."""

import json
import shutil

import numpy as np
import pytest
from runs import write_shards, write_shards_of
from safetensors.numpy import save_file

PROMPTS = [[3, 9, 27, 14, 42, 5], [8, 1, 60], [50, 33, 21, 7]]


@pytest.fixture(scope="module")
def own_text(outrider, llama, tmp_path_factory):
    """The base's greedy answers behind the prompts, and the file of the prompts."""
    folder = tmp_path_factory.mktemp("own")
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in PROMPTS))
    said = outrider("generate", llama, "--prompts", file, "--max-new-tokens", 40, "--json").stdout
    answers = [json.loads(line)["token_ids"] for line in said.splitlines()]
    return file, answers


@pytest.fixture(scope="module")
def learned(outrider, convert, llama, own_text, tmp_path_factory):
    """learned(*options, steps=…): a draft that was trained on that text."""

    def run(*options, steps=60):
        folder = tmp_path_factory.mktemp("learned")
        texts = [prompt + answer for prompt, answer in zip(PROMPTS, own_text[1])]
        outrider("train", convert(llama, "--mode", "eagle", "--preset", "eagle3", *options), "--data",
                 write_shards_of(folder / "shards", 64, texts), "--out", folder / "run", "--max-steps", steps,
                 "--learning-rate", 1e-2, "--logging-steps", 1, "--lr-scheduler-type", "constant")
        return folder / "run/final"

    return run


@pytest.fixture(scope="module")
def trained(learned):
    return learned()


def diagnosed(outrider, folder, file, *options):
    report = outrider("doctor", folder, "--prompts", file, "--max-new-tokens", 40, "--json", *options).json()
    return report, {finding["name"]: finding for finding in report["findings"]}


def test_figures_are_those_of_decoding(outrider, trained, own_text):
    file, answers = own_text
    report, findings = diagnosed(outrider, trained, file)
    assert report["verify"]["ok"]
    drafted = outrider("generate", trained, "--prompts", file, "--max-new-tokens", 40, "--json", "--dtype", "float32")
    lines = [json.loads(line) for line in drafted.stdout.splitlines()]
    assert [line["token_ids"] for line in lines] == answers
    length = sum(len(line["token_ids"]) - 1 for line in lines) / sum(line["rounds"] for line in lines)
    assert report["acceptance_length"] == pytest.approx(length)
    assert findings["train-serve mismatch"]["figures"]["causes"] == []
    assert findings["draft vocabulary"]["figures"] == {"coverage": 1.0}
    assert "no answers to compare" in findings["off-policy data"]["meaning"]
    assert findings["too short training"]["figures"]["steps"] == 60


def test_a_small_vocabulary_is_told(outrider, learned, own_text, tmp_path):
    file, answers = own_text
    ids = [token for token in sorted({t for answer in answers for t in answer})][::6]
    save_file({"d2t": np.asarray(ids) - np.arange(len(ids))}, tmp_path / "d2t.safetensors")
    report, findings = diagnosed(outrider, learned("--draft-vocab", tmp_path / "d2t.safetensors"), file)
    said = [token for answer in answers for token in answer]
    found = findings["draft vocabulary"]
    assert found["figures"]["coverage"] == pytest.approx(sum(t in ids for t in said) / len(said))
    passes = 0
    for answer in answers:
        place = 0
        while place < len(answer):
            covered = 0
            while covered < 3 and place + covered < len(answer) and answer[place + covered] in ids:
                covered += 1
            place += covered + 1
            passes += 1
    assert found["figures"]["bound"] == pytest.approx(len(said) / passes)
    assert report["most_likely_cause"].startswith("draft vocabulary")


@pytest.fixture
def damaged(trained, tmp_path):
    """damaged(file, change): a copy of the trained folder, without its run, with a JSON file changed."""

    def copy(file, change):
        folder = tmp_path / "damaged"
        shutil.copytree(trained, folder)
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))
        return folder

    return copy


def test_a_mismatch_comes_first(outrider, damaged, own_text):
    folder = damaged("config.json", lambda config: config.update(rope_theta=5e5))
    report, findings = diagnosed(outrider, folder, own_text[0])
    assert report["most_likely_cause"].startswith("train-serve mismatch") and not report["verify"]["ok"]
    assert findings["train-serve mismatch"]["figures"]["causes"] == ["rope"]
    assert findings["too short training"]["loss"] is None


def test_a_model_that_cannot_be_loaded_is_told_why(outrider, damaged, own_text):
    def one_further(state):
        metadata = state["modes"][0]["metadata"]
        metadata["aux_layer_ids"] = [i + 1 for i in metadata["aux_layer_ids"]]

    done = outrider("doctor", damaged("outrider_state.json", one_further), "--prompts", own_text[0], "--json", status=4)
    assert not done.json()["verify"]["ok"] and "aux layers" in done.stderr


def test_a_short_training_is_told(outrider, learned, own_text):
    report, findings = diagnosed(outrider, learned(steps=16), own_text[0])
    assert findings["too short training"]["figures"]["gain_of_last_quarter"] > 0
    assert "16 steps" in findings["too short training"]["meaning"]


def test_given_text_is_measured_apart(outrider, convert, tiny, shards, examples, tmp_path):
    """A draft that has learned texts by heart that its base does not say."""
    lines = (examples / "smollm2_self.jsonl").read_text().splitlines()[:8]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines) + "\n")
    outrider("data", "prepare", tmp_path / "chats.jsonl", "--model", tiny(), "--out", tmp_path / "shards",
             "--max-length", 96)
    model = convert(tiny(), "--mode", "medusa", "--preset", "medusa")
    outrider("train", model, "--data", tmp_path / "shards", "--out", tmp_path / "run", "--max-steps", 60,
             "--learning-rate", 1e-2)
    report, findings = diagnosed(outrider, tmp_path / "run/final", tmp_path / "chats.jsonl")
    figures = findings["off-policy data"]["figures"]
    assert figures["given_accuracy"][0] > figures["own_accuracy"][0]
    assert report["most_likely_cause"].startswith("off-policy data")


def test_people_get_a_table_and_a_line(outrider, trained, own_text):
    done = outrider("doctor", trained, "--prompts", own_text[0], "--max-new-tokens", 20)
    assert "tokens per pass of the base" in done.stdout and done.stdout.splitlines()[-1].startswith("most likely: ")
    assert "--prompts" in outrider("doctor", trained, status=2).stderr
    assert "PLUGIN" in outrider("doctor").stdout
