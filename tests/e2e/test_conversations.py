"""What a line, and a file, of conversations may hold: one clear problem for each that is wrong."""

import json

import pytest
from conversation_data import chat, conversations

from outrider.conversations import LINE_LIMIT, Problem, parse

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
ACCEPTED = "accepted are 'messages' [{role, content}, …] and 'conversations' [{from, value}, …]"


def line(*messages, **fields):
    return json.dumps({"messages": messages, **fields}).encode()


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def call(**function):
    return said("assistant", None, tool_calls=[{"function": function}])


PROBLEMS = {
    "no JSON": (b"not json", "not JSON: Expecting value at column 1"),
    "cut off": (b'{"messages": [', "not JSON: Expecting value at column 15"),
    "no UTF-8": (b'{"messages": "\xff"}', "not UTF-8 at byte 15"),
    "no number": (b'{"messages": NaN}', "not JSON: NaN is no number"),
    "endless number": (b'{"messages": ' + b"1" * 5000 + b"}", "not JSON: a number is too long"),
    "nested deeply": (b"[" * 100000, "nested too deeply"),
    "no object": (b"[1]", "expected an object, got a list"),
    "text": (b'{"text": "x"}', "holds 'text' but neither 'messages' nor 'conversations'; "
             + ACCEPTED),
    "prompt and completion": (
        b'{"prompt": "x", "completion": "y"}',
        "holds 'prompt' and 'completion' but neither 'messages' nor 'conversations'; " + ACCEPTED),
    "other keys": (b'{"a": 1}', "has neither 'messages' nor 'conversations'; " + ACCEPTED),
    "no messages": (b'{"messages": []}',
                    "'messages' must be a list of at least one message, got an empty list"),
    "messages no list": (b'{"messages": "x"}',
                         "'messages' must be a list of at least one message, got a string"),
    "message no object": (b'{"conversations": ["x"]}',
                          "conversations[0]: expected an object, got a string"),
    "no role": (line({"content": "Hi"}),
                "messages[0]: has no 'role'; accepted are user, assistant, system, tool"),
    "unknown role": (line(USER, said("robot", "x")),
                     'messages[1].role: "robot" is none of user, assistant, system, tool'),
    "role no text": (line(said(7, "x")), "messages[0].role: 7 is none of user, assistant"),
    "no from": (b'{"conversations": [{"value": "Hi"}]}',
                "conversations[0]: has no 'from'; accepted are human, user, gpt, assistant"),
    "no content": (line({"role": "user"}), "messages[0]: has no 'content'"),
    "content no text": (line(said("user", 7)),
                        "messages[0].content: expected a string, got a number"),
    "content null": (line(said("user", None)),
                     "messages[0].content: expected a string, got null"),
    "half a surrogate": (line(said("user", "\ud800")),
                         "messages[0].content: half a surrogate pair at character 1"),
    "image": (line(said("user", [{"type": "text", "text": "a"}, {"type": "image_url"}])),
              'messages[0].content[1]: a part of type "image_url", accepted is "text"'),
    "part without type": (line(said("user", ["a"])),
                          "messages[0].content[0]: expected an object with a 'type', got a string"),
    "text part without text": (line(said("user", [{"type": "text"}])),
                               "messages[0].content[0].text: expected a string, got null"),
    "empty answer": (line(USER, said("assistant", " ")),
                     "messages[1].content: the answer is empty"),
    "answer first": (line(ANSWER, USER), "begins with a message of the assistant; the first one "
                     "that is not the system's must be the user's"),
    "tool first": (line(said("system", "x"), said("tool", "x")), "begins with a message of the tool"),
    "two answers": (line(USER, ANSWER, ANSWER),
                    "messages 2 and 3 are both the assistant's; join them"),
    "finished": (line(USER, ANSWER, finished="no"),
                 "'finished' must be true or false, got a string"),
    "calls of the user": (line(said("user", "x", tool_calls=[{}])),
                          "messages[0].tool_calls: only an assistant calls tools"),
    "calls no list": (line(USER, said("assistant", "x", tool_calls={})),
                      "messages[1].tool_calls: expected a list, got an object"),
    "call no object": (line(USER, said("assistant", "x", tool_calls=["f"])),
                       "messages[1].tool_calls[0]: expected an object, got a string"),
    "call without name": (line(USER, call(arguments={})),
                          "messages[1].tool_calls[0].function.name: expected a name, got null"),
    "arguments no JSON": (line(USER, call(name="f", arguments="{")), "messages[1].tool_calls[0]"
                          ".function.arguments: the string holds no JSON"),
    "arguments no object": (line(USER, call(name="f", arguments="[1]")), "messages[1].tool_calls"
                            "[0].function.arguments: expected an object, got a list"),
    "tools no list": (line(USER, ANSWER, tools="x"),
                      "tools: expected a list of function schemas, got a string"),
    "tool without function": (line(USER, ANSWER, tools=[{"name": "f"}]),
                              "tools[0].function: expected an object, got null"),
    "long line": (b" " * LINE_LIMIT + b"{}", "longer than 16 MiB"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_line_has_one_clear_problem(name):
    content, problem = PROBLEMS[name]
    with pytest.raises(Problem) as caught:
        parse(content)
    assert str(caught.value).startswith(problem)


def test_forms_that_mean_the_same():
    expected = parse(line(USER, ANSWER))
    assert expected.messages == [USER, ANSWER]
    assert expected == parse(line(USER, {**ANSWER, "tool_calls": [], "weight": 1}, id=7, tools=None))
    assert expected == parse(line(said("user", [{"type": "text", "text": "H"},
                                                {"type": "text", "text": "i"}]), ANSWER))
    assert expected == parse(b'{"conversations": [{"from": "human", "value": "Hi"},'
                             b'{"from": "gpt", "value": "Hello"}]}\r\n')
    assert expected == parse(json.dumps({"conversations": [USER, ANSWER]}).encode())


def test_tool_calls_are_what_templates_expect():
    found = parse(line(
        USER, {"role": "assistant", "tool_calls": [
            {"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
        said("tool", "2", tool_call_id="1", name="f"), ANSWER,
        tools=[{"type": "function", "function": {"name": "f"}}]))
    assert found.messages[1] == {"role": "assistant", "content": "", "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]}
    assert found.messages[2] == {"role": "tool", "content": "2", "tool_call_id": "1", "name": "f"}
    assert found.tools == [{"type": "function", "function": {"name": "f"}}]


# ---- Whole files ----------------------------------------------------------------------------------


def test_every_bad_line_is_named(refused):
    text = refused(
        chat("Hi", "Hello"), "not json", "", [1], {"text": "x"}, chat("Hi", " "),
        b'{"messages": "\xff"}', chat("a<|im_end|>b", "x"), b" " * LINE_LIMIT + b"{}",
        {"messages": [USER, {**ANSWER, "tool_calls": [{"function": {"name": "<|im_end|>"}}]}]},
        chat("Hi", "x", tools=[{"function": {"name": "f", "description": "<|im_end|>"}}]))
    expected = {
        2: PROBLEMS["no JSON"][1], 4: PROBLEMS["no object"][1], 5: PROBLEMS["text"][1],
        6: PROBLEMS["empty answer"][1], 7: PROBLEMS["no UTF-8"][1],
        8: "message 1 contains the special token <|im_end|>", 9: PROBLEMS["long line"][1],
        10: "message 2 contains the special token <|im_end|>",
        11: "a tool contains the special token <|im_end|>"}
    for number, problem in expected.items():
        assert f"chats.jsonl:{number}: {problem}\n" in text
    assert text.count("chats.jsonl:") == len(expected)
    assert "--skip-invalid" in text


def test_at_most_twenty_bad_lines_are_named(refused):
    text = refused(*["{"] * 30)
    assert text.count("chats.jsonl:") == 20
    assert "stopped after 20" in text


def test_invalid_lines_can_be_left_out(prepare):
    shards = prepare(*["{"] * 30, chat("Hi", "Hello"), "[", options=["--skip-invalid"])
    description = json.loads((shards / "shards.json").read_text())
    assert description["dropped_invalid"] == 31
    assert description["conversations"] == len(conversations(shards)) == 1


def test_control_characters_do_not_reach_the_terminal(refused):
    assert "\x1b" not in refused({"messages": [{"role": "\x1b[2J", "content": "x"}]})


def test_blank_lines_line_ends_and_byte_order_marks_do_not_matter(prepare):
    text = json.dumps(chat("Hi", "Hello"))
    first, second = conversations(
        prepare(b"\xef\xbb\xbf" + text.encode() + b"\r", "", "  \r", text))
    assert first[0].tolist() == second[0].tolist()
    assert first[1].tolist() == second[1].tolist()


@pytest.mark.parametrize(("content", "problem"), [
    (b"", "is empty"), (b"\n \r\n", "holds no conversation, only blank lines"),
    ("{}".encode("utf-16"), "the file is UTF-16")], ids=["empty", "blank", "UTF-16"])
def test_files_without_conversations_are_refused(
        outrider, model, jsonl, tmp_path, content, problem):
    good, bad = jsonl(chat("Hi", "Hello")), tmp_path / "bad.jsonl"
    bad.write_bytes(content)
    text = outrider("data", "prepare", good, bad, "--model", model, "--out", tmp_path / "out",
                    status=4).stderr
    assert str(bad) in text and problem in text
    assert not (tmp_path / "out").exists()


def test_ignored_tools_are_noted_once(outrider, model, jsonl, tmp_path):
    with_tools = chat("Hi", "Hello", tools=[{"type": "function", "function": {"name": "f"}}])
    done = outrider("data", "prepare", jsonl(with_tools, with_tools), "--model", model,
                    "--out", tmp_path / "out")
    assert done.stderr.count("ignores the conversations' tools") == 1
    assert len(conversations(tmp_path / "out")) == 2
