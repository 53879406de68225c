"""outrider data prepare and data calibrate, with the real SmolLM2 tokenizer."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chat(*turns, **fields):
    """user, assistant, user, …"""
    roles = ["user", "assistant"]
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)],
            **fields}


def conversations(shards):
    """(ids, mask) of each conversation in a folder of shards."""
    found = []
    for shard in json.loads((shards / "shards.json").read_text())["shards"]:
        content = load_file(shards / shard["file"])
        assert content["input_ids"].dtype == np.int32
        assert content["loss_mask"].dtype == np.uint8
        assert content["offsets"].dtype == np.int64
        for begin, end in zip(content["offsets"], content["offsets"][1:]):
            found.append((content["input_ids"][begin:end], content["loss_mask"][begin:end]))
    return found


def trained_runs(ids, mask, tokenizer):
    """The text of each run of tokens that are trained on."""
    runs = np.split(np.arange(len(ids)), np.flatnonzero(np.diff(mask.astype(int))) + 1)
    return [tokenizer.decode(ids[run]) for run in runs if mask[run[0]]]


@pytest.fixture
def prepare(outrider, model, jsonl, tmp_path):
    """prepare(records…, options=[…]): the folder of shards."""

    def run(*records, options=(), name="shards"):
        out = tmp_path / name
        outrider("data", "prepare", jsonl(*records), "--model", model, "--out", out, *options)
        return out

    return run


@pytest.fixture
def refused(outrider, model, jsonl, tmp_path):
    """refused(records…): the error text; nothing is left behind."""

    def run(*records, options=(), status=4):
        out = tmp_path / "shards"
        done = outrider("data", "prepare", jsonl(*records), "--model", model, "--out", out, *options,
                        status=status)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["chats.jsonl"]
        return done.stderr

    return run


@pytest.mark.parametrize(("record", "answers"), [
    (chat("Hi", "Hello there!"), ["Hello there!"]),
    (chat("1+1?", "2", "And 12 + 30?", "It is 42.\n\n- really"), ["2", "It is 42.\n\n- really"]),
    ({"messages": [{"role": "system", "content": "Be brief."}, *chat("Hi", "Yo")["messages"]]},
     ["Yo"]),
    (chat("Write it in Japanese", "日本 🎉"), ["日本 🎉"]),
    (chat("Code", "return  x\n"), ["return  x\n"]),
    (chat("the answer is 4", "the answer is 4", "4?", "4"), ["the answer is 4", "4"]),
    (chat("Hi", "Hello", "unanswered"), ["Hello"]),
], ids=["single", "multi", "system", "split characters", "white space", "echo", "unanswered"])
def test_the_mask_covers_answers_and_their_end_of_turn(prepare, tokenizer, record, answers):
    [(ids, mask)] = conversations(prepare(record))
    assert trained_runs(ids, mask, tokenizer) == [answer + "<|im_end|>" for answer in answers]
    rendered = tokenizer.apply_chat_template(record["messages"], tokenize=False)
    assert tokenizer.decode(ids) == rendered
    assert ids.tolist() == tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_a_token_that_begins_in_the_prompt_is_no_target(prepare, tokenizer):
    [(ids, mask)] = conversations(prepare(chat("Indent", "    return x")))
    assert tokenizer.decode(ids[: mask.argmax()]).endswith("assistant\n   ")
    assert trained_runs(ids, mask, tokenizer) == [" return x<|im_end|>"]


def test_a_cut_answer_has_no_end_of_turn(prepare, tokenizer):
    [(ids, mask)] = conversations(
        prepare(chat("Hi", "Hello.", "Go on", "Once upon", finished=False)))
    assert trained_runs(ids, mask, tokenizer) == ["Hello.<|im_end|>", "Once upon"]


def test_the_template_adds_its_default_system_turn(prepare, tokenizer):
    [(ids, _)] = conversations(prepare(chat("Hi", "Hello")))
    assert tokenizer.decode(ids) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n")


def test_sharegpt_lines_equal_messages(prepare):
    messages = chat("Hi", "Hello", "Bye", "See you")["messages"]
    names = {"user": "human", "assistant": "gpt"}
    sharegpt = [{"from": names[m["role"]], "value": m["content"]} for m in messages]
    sharegpt.insert(0, {"from": "system", "value": "Be kind."})
    messages.insert(0, {"role": "system", "content": "Be kind."})
    (ids, mask), (other_ids, other_mask) = conversations(
        prepare({"messages": messages}, {"conversations": sharegpt}))
    assert ids.tolist() == other_ids.tolist()
    assert mask.tolist() == other_mask.tolist()


def test_every_bad_line_is_named(refused):
    text = refused(
        chat("Hi", "Hello"), "not json", "", [1], {"text": "x"}, {"messages": []},
        {"messages": [{"role": "robot", "content": "x"}]},
        {"messages": [{"role": "user", "content": 7}]}, {"conversations": ["x"]},
        chat("Hi", " "), chat("Hi", "x", finished="no"), b'{"messages": "\xff"}',
        chat("a<|im_end|>b", "x"), {"messages": [{"role": "user", "content": "\ud800"}]})
    expected = {
        2: "not JSON: Expecting value at column 1", 4: "expected an object, got a list",
        5: "has neither 'messages' nor 'conversations'",
        6: "'messages' must be a list of at least one message",
        7: 'messages[0].role: "robot" is none of user, assistant, system',
        8: "messages[0].content: expected a string, got a number",
        9: "conversations[0]: expected an object, got a string",
        10: "messages[1].content: the answer is empty",
        11: "'finished' must be true or false, got a string", 12: "not UTF-8 at byte 15",
        13: "message 1 contains the special token <|im_end|>",
        14: "messages[0].content: half a surrogate pair at character 1"}
    for line, problem in expected.items():
        assert f"chats.jsonl:{line}: {problem}\n" in text
    assert text.count("chats.jsonl:") == len(expected)
    assert "--skip-invalid" in text


def test_at_most_twenty_bad_lines_are_named(refused):
    text = refused(*["{"] * 30)
    assert text.count("chats.jsonl:") == 20
    assert "stopped after 20" in text


def test_invalid_lines_can_be_left_out(prepare):
    shards = prepare("{", chat("Hi", "Hello"), "[", options=["--skip-invalid"])
    description = json.loads((shards / "shards.json").read_text())
    assert description["dropped_invalid"] == 2
    assert description["conversations"] == len(conversations(shards)) == 1


def test_control_characters_do_not_reach_the_terminal(refused):
    assert "\x1b" not in refused({"messages": [{"role": "\x1b[2J", "content": "x"}]})


def test_long_conversations_are_cut_and_those_without_target_dropped(prepare, tokenizer):
    record = chat("Hi", "one two three four")
    prompt = tokenizer.apply_chat_template(
        record["messages"][:1], add_generation_prompt=True, return_dict=False)
    length = len(prompt) + 2
    shards = prepare(record, chat("Hi " * 40, "never reached"),
                     {"messages": [{"role": "user", "content": "no answer"}]},
                     options=["--max-length", length])
    [(ids, mask)] = conversations(shards)
    assert tokenizer.decode(ids) == tokenizer.decode(prompt) + "one two"
    assert mask.tolist() == [0] * len(prompt) + [1, 1]
    description = json.loads((shards / "shards.json").read_text())
    assert description["dropped_without_trained_token"] == 2
    assert description["max_length"] == length


def test_nothing_to_train_on_is_an_error(refused):
    text = refused({"messages": [{"role": "user", "content": "Hi"}]})
    assert "no conversation with a token to train on is left (1 without one, 0 invalid)" in text


def test_shards_do_not_depend_on_the_number_of_workers(outrider, model, examples, tmp_path):
    for workers in (1, 2):
        outrider("data", "prepare", examples / "smollm2_self_validation.jsonl", "--model", model,
                 "--out", tmp_path / str(workers), "--workers", workers)
    names = sorted(p.name for p in (tmp_path / "1").iterdir())
    assert names == ["shard-00000.safetensors", "shards.json"]
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_the_examples_are_disjoint_and_the_description_counts_them(
        outrider, model, examples, tmp_path):
    files = [examples / "smollm2_self.jsonl", examples / "smollm2_self_validation.jsonl"]
    prompts = [{json.loads(line)["messages"][0]["content"] for line in file.open()}
               for file in files]
    assert not prompts[0] & prompts[1]
    done = outrider("data", "prepare", files[1], "--model", model, "--out", tmp_path / "s",
                    "--json")
    found = conversations(tmp_path / "s")
    description = done.json()
    assert description == json.loads((tmp_path / "s/shards.json").read_text())
    assert description["conversations"] == len(found) == len(prompts[1])
    assert description["tokens"] == sum(len(ids) for ids, _ in found)
    assert description["trained_tokens"] == sum(int(mask.sum()) for _, mask in found)
    assert description["vocab_size"] == 49152
    assert description["sources"][0]["name"] == "smollm2_self_validation.jsonl"


def test_missing_inputs_are_named(outrider, model, jsonl, tmp_path):
    chats = jsonl(chat("Hi", "Hello"))
    out = tmp_path / "shards"
    text = outrider("data", "prepare", tmp_path / "no.jsonl", "--model", model, "--out", out,
                    status=3).stderr
    assert f"{tmp_path}/no.jsonl: no such file" in text
    text = outrider("data", "prepare", chats, "--model", tmp_path / "no", "--out", out,
                    status=3).stderr
    assert f"{tmp_path}/no: no such folder" in text
    text = outrider("data", "prepare", chats, "--model", tmp_path, "--out", out, status=3).stderr
    assert "no usable tokenizer" in text
    text = outrider("data", "prepare", chats, "--model", model, "--out", out, status=6,
                    OUTRIDER_PYTHON="/no/python").stderr
    assert "'/no/python -m outrider.prepare' ended with status 127" in text
    assert "OUTRIDER_PYTHON" in text


def test_an_existing_folder_is_not_overwritten(outrider, model, jsonl, prepare):
    shards = prepare(chat("Hi", "Hello"))
    before = (shards / "shards.json").read_bytes()
    text = outrider("data", "prepare", jsonl(chat("a", "b")), "--model", model, "--out", shards,
                    status=3).stderr
    assert "exists and is not an empty folder" in text
    assert (shards / "shards.json").read_bytes() == before


def template_model(model, folder, template):
    """The model's tokenizer with another chat template."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copy(model / name, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize(("template", "problem"), [
    ("{{ messages | length }}: {% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
     "renders the turns before message 2 differently"),
    ("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}",
     "changes the text of message 2"),
    ("{{ raise_exception('only one turn') }}", "the chat template refuses it: only one turn"),
], ids=["no prefix", "changed text", "raises"])
def test_templates_that_hide_the_answer_are_refused(
        outrider, model, jsonl, tmp_path, template, problem):
    folder = template_model(model, tmp_path / "model", template)
    text = outrider("data", "prepare", jsonl(chat("Hi", "Hello")), "--model", folder,
                    "--out", tmp_path / "out", status=4).stderr
    assert "chats.jsonl:1: " in text and problem in text


def test_templates_with_spaces_around_answers(outrider, model, tokenizer, jsonl, tmp_path):
    folder = template_model(
        model, tmp_path / "model",
        "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]"
        "{% else %} {{ m.content | trim }} <|endoftext|>{% endif %}{% endfor %}")
    outrider("data", "prepare", jsonl(chat("Hi", " Hello you\n", "Bye", "Ok")), "--model", folder,
             "--out", tmp_path / "out")
    [(ids, mask)] = conversations(tmp_path / "out")
    assert tokenizer.decode(ids) == "[Hi] Hello you <|endoftext|>[Bye] Ok <|endoftext|>"
    text = "".join(trained_runs(ids, mask, tokenizer))
    assert text.replace(" <", "<") == " Hello you<|endoftext|> Ok<|endoftext|>"


def test_an_interrupted_run_leaves_nothing(program, model, examples, tmp_path):
    process = subprocess.Popen(
        [program, "data", "prepare", *[examples / "smollm2_self.jsonl"] * 20, "--model", model,
         "--out", tmp_path / "out"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [p.name for p in tmp_path.iterdir()] != ["out"]
    os.killpg(process.pid, signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in text
    assert not list(tmp_path.iterdir())


def draft_vocabulary(path):
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
    ids, metadata = draft_vocabulary(tmp_path / "d2t")
    assert ids.tolist() == expected.tolist()
    coverage = counts[expected].sum() / counts.sum()
    assert done.json()["coverage"] == pytest.approx(coverage)
    assert metadata == {"kind": "draft_vocabulary", "vocab_size": "49152",
                        "coverage": f"{coverage:.6f}"}
    assert "note" not in done.stderr


def test_calibrate_always_takes_special_tokens_that_occur(outrider, prepare, tmp_path):
    shards = prepare(chat("Hi", "no " * 10 + "no"))
    outrider("data", "calibrate", shards, "--size", 1, "--out", tmp_path / "d2t")
    ids, _ = draft_vocabulary(tmp_path / "d2t")
    assert ids.tolist() == [2]  # <|im_end|>, though others are more frequent


def test_calibrate_fills_up_with_unused_tokens(outrider, prepare, tokenizer, tmp_path):
    shards = prepare(chat("Hi", "yes"))
    done = outrider("data", "calibrate", shards, "--size", 5, "--out", tmp_path / "d2t")
    ids, metadata = draft_vocabulary(tmp_path / "d2t")
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
