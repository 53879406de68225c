"""outrider data prepare, with the real SmolLM2 tokenizer."""

import json
import shutil

import pytest
from conversation_data import chat, conversations, trained_runs

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


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
    assert ("no token would be trained on: no conversation with one is left (1 without one, "
            "0 invalid)") in text


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
    assert "'/no/python -m outrider.text.prepare' ended with status 127" in text
    assert "OUTRIDER_PYTHON" in text


def test_an_existing_folder_is_not_overwritten(outrider, model, jsonl, prepare, tmp_path):
    shards = prepare(chat("Hi", "Hello"))
    before = (shards / "shards.json").read_bytes()
    command = ["data", "prepare", jsonl(chat("a", "b")), "--model", model, "--out"]
    text = outrider(*command, shards, status=3).stderr
    assert f"{shards}: holds finished token shards" in text
    assert (shards / "shards.json").read_bytes() == before
    text = outrider(*command, tmp_path, "--resume", status=3).stderr
    assert f"{tmp_path}: exists and is not an empty folder" in text
    (tmp_path / "file").write_text("")
    text = outrider(*command, tmp_path / "file", status=3).stderr
    assert f"{tmp_path}/file: exists and is no folder" in text
    (tmp_path / "empty").mkdir()
    outrider(*command, tmp_path / "empty")
    assert len(conversations(tmp_path / "empty")) == 1


@pytest.mark.parametrize(("template", "tokens"), [
    ("{% for m in messages if m.role == 'assistant' %}{{ m.content }}<|im_end|>{% endfor %}", 2),
    ("{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
     "{% endfor %}", 4)], ids=["no prompt", "marked"])
@pytest.mark.parametrize("verb", ["prepare", "inspect"])
def test_a_mask_of_nothing_but_ones_is_refused(
        outrider, model, jsonl, tmp_path, template, tokens, verb):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, folder)
    (folder / "chat_template.jinja").write_text(template)
    chats = jsonl(chat("Hi", "Hello"), "", chat("Hi", "You"))
    done = outrider(
        "data", verb, chats, "--model", folder, "--skip-invalid",
        *(["--out", tmp_path / "out"] if verb == "prepare" else []), status=4)
    assert done.stdout == ""
    assert ("every token of 2 conversations would be trained on, the prompts too:\n"
            f"  {chats}:1 ({tokens} tokens)\n  {chats}:3 ({tokens} tokens)\n") in done.stderr
    assert "chat_template.jinja" in done.stderr
    assert not (tmp_path / "out").exists()
