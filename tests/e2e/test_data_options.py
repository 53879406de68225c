"""Options that decide how conversations are rendered: what they do, and that shards tell it."""

import hashlib
import json
import shutil

import chat_templates as templates
import pytest
from conversation_data import chat, conversations, trained_runs

from outrider.text.chat import Chat, ChatOptions
from outrider.text.pipeline import template_arguments
from outrider.text.tool import ToolError

# A prompt that closes an empty block of reasoning, unless the switch says otherwise.
SWITCH = templates.QWEN3 + (
    "{%- if add_generation_prompt and not thinks %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}")


@pytest.fixture(scope="module")
def folder_of(model, tmp_path_factory):
    """folder_of(template): a folder with the model's tokenizer; without any template for None."""

    def make(template):
        folder = tmp_path_factory.mktemp("model")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(model / name, folder)
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return make


TURNS = chat("Hi", "Hello!", "Bye", "See you")


def test_shards_tell_how_they_were_rendered(outrider, folder_of, jsonl, tokenizer, tmp_path):
    options = ["--turns", "each", "--template-arg", "thinks=false", "--reasoning", "drop"]
    chats = jsonl(TURNS, {**TURNS, "id": 1, "source": "x"})
    done = outrider("data", "prepare", chats, "--model", folder_of(SWITCH), "--out",
                    tmp_path / "out", *options, "--json")
    found = done.json()
    assert found["turns"] == "each" and found["reasoning"] == "drop"
    assert found["template_args"] == {"thinks": False}
    assert found["noted"] == {"unread_keys": {"id": 1, "source": 1}}
    assert "note: keys that are not read: id (1), source (1)\n" in done.stderr
    inspected = outrider("data", "inspect", tmp_path / "out")
    assert "\nnoted: unread key id (1), unread key source (1)\n" in inspected.stdout
    samples = conversations(tmp_path / "out")
    assert found["conversations"] == len(samples) == 4
    tokenizer.chat_template, before = SWITCH, tokenizer.chat_template
    for i, (ids, mask) in enumerate(samples):
        turns = TURNS["messages"][:1 + 2 * (i % 2)]
        prompt = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=False, thinks=False)
        assert tokenizer.decode(ids[:mask.argmax()]) == prompt
        assert trained_runs(ids, mask, tokenizer) == [["Hello!", "See you"][i % 2] + "<|im_end|>"]
    tokenizer.chat_template = before


def test_what_is_noted_is_counted_by_inspect(outrider, model, folder_of, jsonl):
    thoughtful = {"role": "assistant", "content": "Hello!", "reasoning": "Who?", "weight": 0,
                  "mood": "gay"}
    chats = jsonl({"messages": [TURNS["messages"][0], thoughtful, *TURNS["messages"][2:]]},
                  chat("Run <filename>", "Done"))
    done = outrider("data", "inspect", chats, "--model", folder_of(templates.QWEN3), "--json")
    assert done.json()["noted"] == {
        "unread_keys": {"messages[].mood": 1}, "reasoning_left_out": 1,
        "conversations_with_special_token_text": 1, "answers_with_added_text": 2}
    for note in ("the chat template leaves out the reasoning of 1 answer that is not trained on",
                 "1 conversation with names of special tokens, which are taken as plain text",
                 "keys that are not read: messages[].mood (1)"):
        assert f"note: {note}\n" in done.stderr
    text = outrider("data", "inspect", jsonl(TURNS), "--model", model).stderr
    assert "note:" not in text


def test_a_way_out_is_named_where_reasoning_is_lost(outrider, folder_of, jsonl):
    lost = chat("Hi", "<think>Who?</think>Hello!", "Bye", "See you")
    text = outrider("data", "inspect", jsonl(lost), "--model", folder_of(templates.QWEN3),
                    status=4).stderr
    assert "chats.jsonl:1: the chat template leaves out the reasoning of message 2" in text
    assert "hint: --turns each renders every answer as it is served" in text


def test_an_interrupted_run_goes_on_with_the_same_options_only(
        outrider, folder_of, jsonl, tmp_path):
    folder, out = folder_of(SWITCH), tmp_path / "out"
    command = ["data", "prepare", jsonl(TURNS), "--model", folder, "--out", out]
    outrider(*command)
    whole = json.loads((out / "shards.json").read_text())
    shutil.rmtree(out)
    (tmp_path / "other.jinja").write_text(SWITCH + " ")
    keys = ("turns", "reasoning", "template_args", "chat_template_sha256")
    out.mkdir()
    (out / "unfinished.json").write_text(json.dumps({
        "identity": {key: whole[key] for key in (*keys, "vocab_size")}, "shards": []}))
    text = outrider(
        *command, "--resume", "--turns", "last", "--reasoning", "drop", "--template-arg",
        "thinks=true", "--chat-template", tmp_path / "other.jinja", status=2).stderr
    for key in keys:
        assert f"\n  {key}: was {json.dumps(whole[key])}, is " in text
    assert "vocab_size" not in text


def test_wrong_arguments_of_a_template_are_refused(outrider, folder_of, jsonl):
    text = outrider("data", "inspect", jsonl(TURNS), "--model", folder_of(SWITCH),
                    "--template-arg", "thinks=1", "--template-arg", "no such", status=2).stderr
    assert "--template-arg no such: expected NAME=VALUE" in text
    assert "hint: for example enable_thinking=false" in text


def test_arguments_are_json_or_text():
    found = template_arguments(["a=false", "b=3", 'c={"d": [1]}', "e=low", "f=", "g=x=y", 'h="1"'])
    assert found == {"a": False, "b": 3, "c": {"d": [1]}, "e": "low", "f": "", "g": "x=y", "h": "1"}
    with pytest.raises(ToolError, match="--template-arg a: is given twice"):
        template_arguments(["a=1", "a=2"])


def test_a_missing_template_can_be_named(outrider, folder_of, jsonl, tmp_path):
    folder, chats = folder_of(None), jsonl(TURNS)
    command = ["data", "prepare", chats, "--model", folder, "--out"]
    text = outrider(*command, tmp_path / "none", status=4).stderr
    assert f"{folder}: the tokenizer has no chat template" in text
    assert "hint: --chat-template FILE names one" in text
    plain, config = tmp_path / "template.jinja", tmp_path / "tokenizer_config.json"
    plain.write_text(templates.CHATML)
    config.write_text(json.dumps({"chat_template": templates.CHATML}))
    found = outrider(*command, tmp_path / "out", "--chat-template", plain, "--json").json()
    assert found["chat_template_sha256"] == hashlib.sha256(templates.CHATML.encode()).hexdigest()
    assert found == {**found, **Chat(folder, options=ChatOptions(config)).description()}
    config.write_text("{% for %}")
    for file, problem in ((config, "the chat template does not compile: "),
                          (tmp_path / "no", "no such file")):
        with pytest.raises(ToolError, match=f"{file}: {problem}"):
            Chat(folder, options=ChatOptions(file))
