"""`outrider data regenerate`: what it writes against `outrider generate`, and what interruptions leave."""

import json
import signal
import subprocess
import time

import pytest
from test_kill import kill_when

RECORDS = [
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is rain?"},
                  {"role": "assistant", "content": "of no interest"}, {"role": "user", "content": "And snow?"}]},
    {"prompt": "Name three colours."},
    {"turns": ["Count to five.", "And back."]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}], "system": "Be kind."},
    {"instruction": "Translate", "input": "Hund"}]
COUNT = 24
KEYS = {"finished", "messages"}


@pytest.fixture(scope="module")
def stopping(tiny, edited):
    """The tiny model with so many stop tokens that most of its answers end."""
    return edited(tiny(), "generation_config.json", lambda c: c.update(eos_token_id=list(range(0, 49152, 40))))


@pytest.fixture
def regenerate(outrider, jsonl, tmp_path):
    """regenerate(model, records, *options): the lines that are written."""

    def run(model, records, *options, name="out.jsonl"):
        out = tmp_path / name
        outrider("data", "regenerate", jsonl(*records, name="questions.jsonl"), "--model", model, "--out", out,
                 "--max-new-tokens", COUNT, *options)
        return [json.loads(line) for line in out.read_text().splitlines()]

    return run


@pytest.fixture
def answers(outrider, jsonl, tokenizer):
    """answers(model, conversations): what `generate` says to each: (text, whether it stopped)."""

    def text_of(said):
        ids = said["token_ids"][:-1] if said["stopped"] else said["token_ids"]
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text if said["stopped"] else text.removesuffix("\ufffd")

    def run(model, conversations):
        file = jsonl(*({"messages": messages} for messages in conversations), name="asked.jsonl")
        done = outrider("generate", model, "--prompts", file, "--json", "--max-new-tokens", COUNT)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return [(text_of(said), said["stopped"]) for said in found]

    return run


def test_each_question_is_answered_as_generate_answers_it(regenerate, answers, stopping):
    lines = regenerate(stopping, RECORDS, "--batch-size", 3)
    assert len(lines) == len(RECORDS) and all(set(line) == KEYS for line in lines)
    texts = [[m["content"] for m in line["messages"] if m["role"] != "assistant"] for line in lines]
    assert [t[0] for t in texts] == ["Be brief.", "Name three colours.", "Count to five.", "Be kind.", "Translate\nHund"]
    turns = [(line, i) for line in lines for i, m in enumerate(line["messages"]) if m["role"] == "assistant"]
    said = answers(stopping, [line["messages"][:i] for line, i in turns])
    for (line, i), (text, stopped) in zip(turns, said):
        assert line["messages"][i]["content"] == text
        assert stopped == (line["finished"] or i + 1 < len(line["messages"]))
    assert len(turns) > len(RECORDS) and {line["finished"] for line in lines} == {True, False}
    assert regenerate(stopping, RECORDS, "--batch-size", 1, name="single.jsonl") == lines


def test_a_draft_changes_nothing(regenerate, tiny, eagle):
    plain = regenerate(tiny(), RECORDS[:3], "--batch-size", 2)
    assert regenerate(eagle(), RECORDS[:3], name="drafted.jsonl") == plain
    assert regenerate(eagle(), RECORDS[:3], "--drafter", "prompt-lookup", name="lookup.jsonl") == plain
    assert not any(line["finished"] for line in plain)  # nothing stops it


def test_drawn_answers_depend_on_seed_and_number_alone(regenerate, stopping, tmp_path):
    records = RECORDS[1:] + RECORDS[1:]
    drawn = regenerate(stopping, records, "--temperatures", "1.5", "--seed", 3)
    assert regenerate(stopping, records, "--temperatures", "1.5", "--seed", 3, "--batch-size", 3, name="b") == drawn
    assert drawn[:4] != drawn[4:]  # the same questions
    assert regenerate(stopping, records, "--temperatures", "1.5", "--seed", 4, name="c") != drawn
    greedy = regenerate(stopping, records, name="d")
    mixed = regenerate(stopping, records, "--temperatures", "0,1.5", "--seed", 3, "--batch-size", 2, name="e")
    assert mixed == [drawn[i] if i % 2 else greedy[i] for i in range(len(records))]
    narrow = regenerate(stopping, records, "--temperatures", "1.5", "--seed", 3, "--top-p", 1e-6, name="f")
    assert narrow == greedy


def test_a_draft_draws_for_each_conversation_apart(regenerate, eagle):
    options = "--temperatures", "1", "--seed", 5
    for shape in ("chain", "dynamic-tree"):
        alone = regenerate(eagle(), RECORDS[:3], *options, "--batch-size", 1, "--draft-shape", shape, name=f"{shape}-1")
        together = regenerate(eagle(), RECORDS[:3], *options, "--batch-size", 3, "--draft-shape", shape, name=f"{shape}-3")
        assert together == alone


def many(count):
    return [{"prompt": f"What is {i} times {i}?"} for i in range(count)]


@pytest.mark.parametrize("torn", [b"", b'{"finished":tr'], ids=["between lines", "within a line"])
def test_a_killed_run_is_continued(program, outrider, regenerate, tiny, model, tmp_path, torn):
    options = "--temperatures", "0,1", "--batch-size", 2
    whole = regenerate(tiny(), many(24), *options, name="whole.jsonl")
    out = tmp_path / "out.jsonl"
    command = ("data", "regenerate", tmp_path / "questions.jsonl", "--model", tiny(), "--out", out,
               "--max-new-tokens", COUNT, *options)
    assert kill_when(lambda: out.exists() and out.read_bytes().count(b"\n") > 8, program, *command)
    with out.open("ab") as file:
        file.write(torn)
    kept = out.read_bytes().count(b"\n")
    for status, *refusing in ((4, "data", "prepare", out, "--model", model, "--out", tmp_path / "shards"),
                              (4, "data", "inspect", out, "--model", model),
                              (3, "generate", tiny(), "--prompts", out)):
        assert "is unfinished" in outrider(*refusing, status=status).stderr
    assert "interrupted run" in outrider(*command, status=3).stderr
    changed = outrider(*command, "--resume", "--seed", 1, status=2).stderr
    assert "differs from this one:\n  --seed: was 0, is 1" in changed
    assert out.read_bytes().count(b"\n") == kept
    said = outrider(*command, "--resume", "--json")
    assert "continuing behind" in said.stderr
    assert said.json()["conversations"] == 24 > said.json()["this_run"]["conversations"]
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes() and len(whole) == 24
    assert "exists" in outrider(*command, "--resume", status=3).stderr


def test_an_interrupted_run_says_how_to_go_on(program, regenerate, tiny, tmp_path, jsonl):
    out = tmp_path / "out.jsonl"
    command = [program, "data", "regenerate", jsonl(*many(400)), "--model", tiny(), "--out", out,
               "--max-new-tokens", "24", "--batch-size", "1"]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        while not out.exists() or out.read_bytes().count(b"\n") < 3:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
    assert process.returncode == 130
    assert "of 400 conversations" in errors and "--resume" in errors


def test_answers_become_training_data(outrider, regenerate, stopping, convert, draft_vocabulary, tmp_path):
    lines = regenerate(stopping, many(12), "--temperatures", "0,1")
    shards = tmp_path / "shards"
    prepared = outrider("data", "prepare", tmp_path / "out.jsonl", "--model", stopping, "--out", shards, "--json").json()
    assert prepared["conversations"] == len(lines) == 12
    model = convert(stopping, "--mode", "eagle", "--preset", "eagle3", "--draft-vocab", draft_vocabulary)
    run = outrider("train", model, "--data", shards, "--out", tmp_path / "run", "--max-steps", 2, "--json").json()
    assert run["steps"] == 2


def test_what_has_no_answer_is_left_out(outrider, jsonl, tiny, edited, tmp_path):
    silent = edited(tiny(), "generation_config.json", lambda c: c.update(eos_token_id=list(range(49152))))
    special = edited(silent, "config.json", lambda c: c.update(max_position_embeddings=100))
    file = jsonl({"prompt": "Hi"}, {"prompt": "word " * 200})
    said = outrider("data", "regenerate", file, "--model", special, "--out", tmp_path / "out", "--max-new-tokens", 20,
                    "--json").json()
    assert said["left_out"]["too_long"] == 1
    assert said["conversations"] + said["left_out"]["empty"] == 1


WRONG = {
    "tokens": ({"input_ids": [1, 2]}, "conversation 2: holds 'input_ids'"),
    "no question": ({"text": "x"}, "conversation 2: holds 'text' but neither"),
    "turns": ({"turns": [1]}, "conversation 2: 'turns' must be a list of texts"),
    "tools": ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"},
                            {"role": "tool", "content": "z"}]}, "conversation 2: holds messages of tools"),
    "assistant first": ({"messages": [{"role": "assistant", "content": "x"}]}, "conversation 2: begins with"),
    "no object": ([1], "line 2: expected an object")}


@pytest.mark.parametrize("record, said", WRONG.values(), ids=WRONG)
def test_a_wrong_line_is_named_before_anything_runs(outrider, jsonl, tiny, tmp_path, record, said):
    file = jsonl({"prompt": "Hi"}, record)
    failed = outrider("data", "regenerate", file, "--model", tiny(), "--out", tmp_path / "out",
                      "--max-new-tokens", COUNT, status=3 if record == [1] else 4)
    assert said in failed.stderr and failed.stderr.count("error:") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options, status, said", [
    ((512,), 2, "leaves no room"), ((24, "--temperatures", "0,-1"), 2, "temperature -1"),
    ((24, "--top-p", 2), 2, "top-p 2"), ((24, "--drafter", "model"), 4, "has no draft")])
def test_wrong_options(outrider, jsonl, tiny, tmp_path, options, status, said):
    failed = outrider("data", "regenerate", jsonl({"prompt": "Hi"}, {"prompt": "Ho"}), "--model", tiny(), "--out",
                      tmp_path / "out", "--max-new-tokens", *options, status=status)
    assert said in failed.stderr and not (tmp_path / "out").exists()


def test_nothing_is_replaced(outrider, jsonl, tiny, tmp_path):
    (tmp_path / "out").write_text("mine")
    failed = outrider("data", "regenerate", jsonl({"prompt": "Hi"}), "--model", tiny(), "--out", tmp_path / "out",
                      "--max-new-tokens", COUNT, status=3)
    assert "exists" in failed.stderr and (tmp_path / "out").read_text() == "mine"
