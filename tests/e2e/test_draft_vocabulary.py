"""outrider data calibrate and data coverage."""

import json

import numpy as np
import pytest
from conversation_data import chat, conversations
from safetensors import safe_open
from safetensors.numpy import save_file


def read_vocabulary(path):
    with safe_open(path, "np") as file:
        d2t, metadata = file.get_tensor("d2t"), file.metadata()
    assert d2t.dtype == np.int64
    return d2t + np.arange(len(d2t)), metadata


def test_calibrate_takes_the_most_frequent_targets(outrider, model, examples, tmp_path):
    shards = tmp_path / "shards"
    outrider("data", "prepare", examples / "smollm2_self_validation.jsonl", "--model", model,
             "--out", shards)
    counts = np.zeros(49152, int)
    for ids, mask in conversations(shards):
        np.add.at(counts, ids[mask == 1], 1)
    expected = np.sort(np.argsort(-counts, kind="stable")[:256])
    done = outrider("data", "calibrate", shards, "--size", 256, "--out", tmp_path / "d2t", "--json")
    ids, metadata = read_vocabulary(tmp_path / "d2t")
    assert ids.tolist() == expected.tolist()
    coverage = counts[expected].sum() / counts.sum()
    assert done.json()["coverage"] == pytest.approx(coverage)
    assert metadata == {"kind": "draft_vocabulary", "vocab_size": "49152",
                        "coverage": f"{coverage:.6f}"}
    assert "note" not in done.stderr


def test_calibrate_always_takes_special_tokens_that_occur(outrider, prepare, tmp_path):
    shards = prepare(chat("Hi", "no " * 10 + "no"))
    outrider("data", "calibrate", shards, "--size", 1, "--out", tmp_path / "d2t")
    ids, _ = read_vocabulary(tmp_path / "d2t")
    assert ids.tolist() == [2]  # <|im_end|>, though others are more frequent


def test_calibrate_fills_up_with_unused_tokens(outrider, prepare, tokenizer, tmp_path):
    shards = prepare(chat("Hi", "yes"))
    done = outrider("data", "calibrate", shards, "--size", 5, "--out", tmp_path / "d2t")
    ids, metadata = read_vocabulary(tmp_path / "d2t")
    assert ids.tolist() == [0, 1, 2, 3, tokenizer.convert_tokens_to_ids("yes")]
    assert metadata["coverage"] == "1.000000"
    assert "only 2 different tokens are trained on; the 3 smallest unused ids" in done.stderr


def test_calibrate_refuses_what_is_no_folder_of_shards(outrider, prepare, tmp_path):
    text = outrider("data", "calibrate", tmp_path, "--size", 5, "--out", tmp_path / "d2t",
                    status=3).stderr
    assert "shards.json: no such file" in text
    shards = prepare(chat("Hi", "yes"))
    text = outrider("data", "calibrate", shards, "--size", 50000, "--out", tmp_path / "d2t",
                    status=2).stderr
    assert "--size 50000 is more than the vocabulary's 49152 tokens" in text
    assert not (tmp_path / "d2t").exists()


# ---- Coverage -------------------------------------------------------------------------------------


def runs_of_targets(shards):
    """Each run of tokens that are trained on."""
    for ids, mask in conversations(shards):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
        for begin, end in zip(edges[::2], edges[1::2]):
            yield ids[begin:end].tolist()


def expected_bounds(shards, vocabulary, draft_tokens):
    """(decoding, per position), decoded token by token."""
    accepted, tokens, passes = 0, 0, 0
    for run in runs_of_targets(shards):
        def proposals(t):
            count = 0
            while count < draft_tokens and t + count < len(run) and run[t + count] in vocabulary:
                count += 1
            return count

        accepted += sum(proposals(t) for t in range(len(run)))
        tokens += len(run)
        t = 0
        while t < len(run):
            t += proposals(t) + 1
            passes += 1
    return tokens / passes, 1 + accepted / tokens


def test_coverage_is_what_decoding_token_by_token_finds(
        outrider, shards, draft_vocabulary, tokenizer, model):
    report = outrider("data", "coverage", draft_vocabulary, "--data", shards / "train",
                      "--eval-data", shards / "held_out", "--draft-tokens", 4, "--show", 3,
                      "--model", model, "--json").json()
    vocabulary = set(read_vocabulary(draft_vocabulary)[0].tolist())
    for name, folder in (("training", "train"), ("evaluation", "held_out")):
        targets = [token for run in runs_of_targets(shards / folder) for token in run]
        found, distinct = report[name], set(targets)
        assert found["trained_tokens"] == len(targets)
        assert found["covered_tokens"] == sum(token in vocabulary for token in targets)
        assert found["coverage"] == pytest.approx(found["covered_tokens"] / len(targets))
        assert found["different_tokens"] == len(distinct)
        assert found["different_covered_tokens"] == len(distinct & vocabulary)
        for k, bound in enumerate(found["bounds"], 1):
            decoding, per_position = expected_bounds(shards / folder, vocabulary, k)
            assert bound == {"draft_tokens": k, "decoding": pytest.approx(decoding),
                             "per_position": pytest.approx(per_position)}
        assert len(found["bounds"]) == 4
        ids, counts = np.unique([t for t in targets if t not in vocabulary], return_counts=True)
        most = np.argsort(-counts, kind="stable")[:3]
        assert found["uncovered"] == [
            {"id": int(ids[i]), "count": int(counts[i]), "text": tokenizer.decode([ids[i]])}
            for i in most]
    assert report["training"]["coverage"] > report["evaluation"]["coverage"]


def test_coverage_for_people(outrider, prepare, tokenizer, model, tmp_path):
    shards = prepare(chat("Hi", "yes yes no yes"))  # yes, _yes, _no, _yes, end of turn
    ids = sorted(tokenizer.convert_tokens_to_ids(["yes", "Ġyes", "<|im_end|>"]))
    save_file({"d2t": np.asarray(ids) - np.arange(3)}, tmp_path / "d2t")
    done = outrider("data", "coverage", tmp_path / "d2t", "--data", shards, "--draft-tokens", 2,
                    "--model", model)
    no = tokenizer.convert_tokens_to_ids("Ġno")
    # Passes of two proposals: yes _yes + _no; _yes and the end of turn. Of one: yes + _yes;
    # + _no; _yes + the end.
    assert done.stdout == f"""\
data      trained tokens  covered  different tokens  covered
training  5               80.00%   4                 75.00%

at most so many tokens per base pass, if the draft is otherwise perfect:
draft tokens  training: decoding  per position
1             1.667               1.800
2             2.500               2.200

most frequent uncovered tokens, training:
id   count  text
{no}  1      ' no'
"""


def test_calibrate_reports_on_other_data(outrider, shards, tmp_path):
    command = ["data", "calibrate", shards / "train", "--size", 512, "--out", tmp_path / "d2t"]
    other = ["--eval-data", shards / "held_out"]
    report = outrider(*command, *other, "--json").json()
    coverage = outrider("data", "coverage", tmp_path / "d2t", "--data", shards / "train", *other,
                        "--show", 0, "--json").json()
    assert {name: report[name] for name in ("training", "evaluation")} == coverage
    assert report["coverage"] == report["training"]["coverage"] > report["evaluation"]["coverage"]
    done = outrider(*command, *other)
    assert f"{tmp_path}/d2t: 512 of 49152 tokens\n\ndata        trained tokens" in done.stdout
    assert f"evaluation  {report['evaluation']['trained_tokens']} " in done.stdout
    assert "--eval-data" not in done.stderr
    assert "--eval-data shows the figures on other data" in outrider(*command).stderr


@pytest.mark.parametrize(("d2t", "problem"), [
    ([0, 0, -1], "i + d2t[i] must increase from 0 on, does not at 2"),
    ([-1, 0], "i + d2t[i] must increase from 0 on, does not at 0"),
    ([0, 2**63 - 1], "i + d2t[i] must increase from 0 on, does not at 1"),
    ([], "no int64 tensor 'd2t'")], ids=["repeated", "negative", "overflow", "empty"])
def test_draft_vocabularies_are_checked(outrider, shards, tmp_path, d2t, problem):
    save_file({"d2t": np.asarray(d2t, np.int64)}, tmp_path / "d2t")
    text = outrider("data", "coverage", tmp_path / "d2t", "--data", shards / "train",
                    status=3).stderr
    assert f"{tmp_path}/d2t: {problem}" in text


def test_the_draft_vocabulary_of_another_model_is_refused(outrider, shards, tmp_path):
    save_file({"d2t": np.asarray([0, 49151], np.int64)}, tmp_path / "d2t")
    text = outrider("data", "coverage", tmp_path / "d2t", "--data", shards / "train",
                    status=2).stderr
    assert "the draft vocabulary holds token 49152, the token shards have a vocabulary of 49152" in text
