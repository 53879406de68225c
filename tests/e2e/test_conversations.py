"""What a line, and a file, of conversations may hold: one clear problem for each that is wrong."""

import json

import pytest
from conversation_data import chat, conversations

from outrider.text.conversations import LINE_LIMIT, Dialect, Problem, parse

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}
ACCEPTED = ("accepted are 'messages' [{role, content}, …] and 'conversations' [{from, value}, …], "
            "or a question and its answer such as 'prompt' and 'completion'")


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
    "prompt without completion": (
        b'{"prompt": "x", "chosen": "y"}',
        "holds 'prompt' and 'chosen' but neither 'messages' nor 'conversations'; " + ACCEPTED),
    "two answers to a prompt": (b'{"prompt": "x", "completion": "y", "response": "z"}',
                                "holds 'completion' and 'response', of which one is expected"),
    "empty completion": (b'{"prompt": "x", "completion": " "}', "completion: the answer is empty"),
    "completion of two kinds": (b'{"prompt": "x", "completion": ["y"]}',
                                "completion[0]: expected an object, got a string"),
    "history no pairs": (b'{"instruction": "x", "output": "y", "history": [["a"]]}',
                         "history[0]: expected [question, answer], got a list"),
    "two lists": (b'{"messages": [], "conversations": []}',
                  "holds both 'messages' and 'conversations'"),
    "an answer beside": (line(USER, completion="x"),
                         "holds 'completion' beside 'messages' that end without an answer"),
    "two systems": (line(USER, ANSWER, system="a", system_prompt="b"),
                    "'system' and 'system_prompt' differ; keep one of them"),
    "system twice": (line(said("system", "a"), USER, ANSWER, system="b"),
                     "'system' differs from the system's message; keep one of them"),
    "images": (line(USER, ANSWER, images=["x.png"]), "holds 'images'; only text is taken"),
    "image of a message": (line({**USER, "image": "x.png"}, ANSWER),
                           "messages[0].image: only text is taken"),
    "share of a weight": (line(USER, {**ANSWER, "weight": 0.5}), "messages[1].weight: 0.5 cannot be "
                          "honoured, since a message is trained on or not; accepted are 0, 1, false "
                          "and true"),
    "weight in words": (line(USER, {**ANSWER, "loss_mask": "0"}),
                        'messages[1].loss_mask: "0" cannot be honoured'),
    "weight of a conversation": (line(USER, ANSWER, weight=2), "weight: 2 cannot be honoured"),
    "weights that differ": (line(USER, {**ANSWER, "weight": 0, "train": True}),
                            "messages[1]: 'weight' and 'train' contradict each other"),
    "trained user": (line({**USER, "train": True}, ANSWER), "messages[0].train: only messages of "
                     "the assistant are trained on; accepted is 0 or false"),
    "parts of a message": (line(USER, {**ANSWER, "train_detail": [{"begin_offset": 0}]}),
                           "messages[1].train_detail: a message is trained on as a whole or not"),
    "reasoning of the user": (line({**USER, "thinking": "x"}, ANSWER),
                              "messages[0].thinking: only an assistant's message has reasoning"),
    "two reasonings": (line(USER, {**ANSWER, "thinking": "x", "reasoning": "y"}),
                       "messages[1]: 'reasoning' and 'thinking' differ; keep one of them"),
    "reasoning no text": (line(USER, {**ANSWER, "reasoning": ["x"]}),
                          "messages[1].reasoning: expected a string, got a list"),
    "tools in a message": (line({**USER, "tools": ["x"]}, ANSWER),
                           "messages[0].tools: tools belong beside the messages"),
    "two keys of calls": (line(USER, {**ANSWER, "tool_calls": [1], "function_call": {"name": "f"}}),
                          "messages[1]: holds both 'tool_calls' and 'function_call'"),
    "call as plain text": (b'{"conversations": [{"from": "human", "value": "x"}, '
                           b'{"from": "function_call", "value": "f()"}]}',
                           "conversations[1].tool_calls: the string holds no JSON"),
    "two texts": (line({**USER, "value": "x"}), "messages[0]: holds both 'content' and 'value'"),
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
    "tool without function": (line(USER, ANSWER, tools=[{"title": "f"}]),
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
    assert expected == parse(json.dumps([USER, ANSWER]).encode())
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
    assert found.messages[1] == {"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]}
    assert found.messages[2] == {"role": "tool", "content": "2", "tool_call_id": "1", "name": "f"}
    assert found.tools == [{"type": "function", "function": {"name": "f"}}]


def sharegpt(*turns, **fields):
    return json.dumps({"conversations": [{"from": who, "value": text} for who, text in turns],
                       **fields}).encode()


@pytest.mark.parametrize(("name", "role"), [
    ("Human", "user"), ("USER", "user"), ("prompter", "user"), ("GPT", "assistant"),
    ("ChatGPT", "assistant"), ("bing", "assistant"), ("Bard", "assistant"), ("bot", "assistant"),
    ("model", "assistant"), ("Observation", "tool"), ("function", "tool"), ("ipython", "tool"),
    ("tool", "tool"), ("function-response", "tool"), ("System", "system"),
    ("developer", "system")])
@pytest.mark.parametrize("form", ["from", "role"])
def test_roles_have_many_names(name, role, form):
    turns = [("human", "Hi"), (name, "x")]
    content = sharegpt(*turns) if form == "from" else line(
        *(said("user" if who == "human" else who, text) for who, text in turns))
    found = parse(content)
    assert found.messages[1] == {"role": role, "content": "x"}
    assert found.trained == [False, role == "assistant"]


def test_templates_that_know_developers_get_them():
    content = line(said("developer", "x"), USER, ANSWER)
    assert parse(content).messages[0]["role"] == "system"
    assert parse(content, Dialect(knows_developer=True)).messages[0]["role"] == "developer"


CALLED = {"type": "function", "function": {"name": "f", "arguments": {"a": [1, None]}}}


@pytest.mark.parametrize("message", [
    {"role": "assistant", "content": None, "tool_calls": [CALLED]},
    {"role": "assistant", "tool_calls": json.dumps([CALLED])},
    {"role": "assistant", "content": None, "tool_calls": [CALLED["function"]]},
    {"role": "assistant", "content": None, "function_call": CALLED["function"]},
    {"role": "function_call", "content": json.dumps(CALLED["function"])},
    {"from": "gpt", "value": None, "tool_calls": [CALLED]},
    {"from": "function_call", "value": json.dumps([CALLED["function"]])}])
def test_forms_of_a_call(message):
    found = parse(json.dumps({"conversations": [USER, message, ANSWER]}).encode())
    assert found.messages[1] == {"role": "assistant", "content": None, "tool_calls": [CALLED]}
    assert found.trained == [False, True, True] and not found.unread


@pytest.mark.parametrize("fields", [
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    {"tools": [{"name": "f", "parameters": {}}]}, {"functions": [{"name": "f", "parameters": {}}]},
    {"tools": json.dumps([{"name": "f", "parameters": {}}])},
    {"tools": [json.dumps({"name": "f", "parameters": {}})], "functions": []}])
def test_forms_of_tools(fields):
    found = parse(line(USER, ANSWER, **fields))
    assert found.tools == [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert not parse(line(USER, ANSWER, tools="")).tools


PAIRS = {
    "texts": {"prompt": "Hi", "completion": "Hello"},
    "messages": {"prompt": [USER], "completion": [ANSWER]},
    "mixed": {"prompt": [{"from": "human", "value": "Hi"}], "completion": "Hello"},
    "one message": {"prompt": USER, "completion": ANSWER},
    "instruction": {"instruction": "Hi", "input": "", "output": "Hello"},
    "question": {"question": "Hi", "answer": "Hello"}, "query": {"query": "Hi", "response": "Hello"},
    "input": {"input": "Hi", "output": "Hello"}, "null": {"prompt": "Hi", "response": "Hello",
                                                          "messages": None}}


@pytest.mark.parametrize("name", PAIRS)
def test_a_question_and_its_answer(name):
    found = parse(json.dumps(PAIRS[name]).encode())
    assert found.messages == [USER, ANSWER] and found.trained == [False, True]
    assert not found.unread


def test_what_surrounds_a_question():
    found = parse(json.dumps({
        "system": "Be brief.", "history": [["1?", "one"]], "instruction": "Translate", "input": "x",
        "output": "y"}).encode())
    assert found.messages == [
        said("system", "Be brief."), said("user", "1?"), said("assistant", "one"),
        said("user", "Translate\nx"), said("assistant", "y")]
    assert found.trained == [False, False, True, False, True]
    prompt = parse(json.dumps({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]}).encode())
    assert prompt.trained == [False, False, False, True]


@pytest.mark.parametrize("key", ["system", "system_prompt"])
def test_a_system_prompt_beside_is_the_first_message(key):
    turns = [("human", "Hi"), ("gpt", "Hello")]
    for content in (sharegpt(*turns, **{key: "Be kind."}),
                    sharegpt(("system", "Be kind."), *turns, **{key: "Be kind."}),
                    sharegpt(("system", "Be kind."), *turns, **{key: ""})):
        assert parse(content).messages == [said("system", "Be kind."), USER, ANSWER]


def test_what_is_trained_on():
    assert parse(line(USER, ANSWER, USER, ANSWER)).trained == [False, True, False, True]
    for mark in ({"weight": 0}, {"weight": 0.0}, {"train": False}, {"trainable": 0},
                 {"loss_mask": 0}, {"loss": False}, {"masked": True}, {"masked": 1}):
        content = line({**USER, **mark}, {**ANSWER, **mark}, USER, {**ANSWER, "weight": 1.0})
        assert parse(content).trained == [False, False, False, True]
        if "loss" not in mark:
            assert parse(line(USER, ANSWER, **mark)).trained == [False, False]
    assert parse(line({**USER, "weight": None}, ANSWER, weight=1)).trained == [False, True]


def test_reasoning_has_the_keys_that_the_template_reads():
    for key in ("reasoning", "thinking", "reasoning_content"):
        content = line(USER, {**ANSWER, key: "x", "reasoning": "x"})
        assert parse(content).messages[1] == {**ANSWER, "reasoning_content": "x"}
        found = parse(content, Dialect(reasoning=("thinking", "reasoning")))
        assert found.messages[1] == {**ANSWER, "thinking": "x", "reasoning": "x"}


def test_keys_without_a_meaning_are_known_and_others_are_handed_on():
    content = line({**USER, "name": "Ann", "id": 1}, {**ANSWER, "eot": True, "none": None},
                   source="web", score=0.5, tools=[], images=[])
    found = parse(content)
    assert found.messages == [USER, ANSWER]
    assert found.unread == {"messages[].name", "messages[].id", "messages[].eot", "source", "score"}
    found = parse(content, Dialect(keys=frozenset({"eot", "name", "content"})))
    assert found.messages == [{**USER, "name": "Ann"}, {**ANSWER, "eot": True}]
    assert found.unread == {"messages[].id", "source", "score"}


# ---- Whole files ----------------------------------------------------------------------------------


def test_every_bad_line_is_named(refused):
    text = refused(
        chat("Hi", "Hello"), "not json", "", [1], {"text": "x"}, chat("Hi", " "),
        b'{"messages": "\xff"}', b" " * LINE_LIMIT + b"{}")
    expected = {
        2: PROBLEMS["no JSON"][1], 4: PROBLEMS["no object"][1], 5: PROBLEMS["text"][1],
        6: PROBLEMS["empty answer"][1], 7: PROBLEMS["no UTF-8"][1],
        8: PROBLEMS["long line"][1]}
    for number, problem in expected.items():
        assert f"chats.jsonl:{number}: {problem}\n" in text
    assert text.count("chats.jsonl:") == len(expected)
    assert "--skip-invalid" in text


def test_at_most_twenty_bad_lines_are_named(refused):
    text = refused(*["{"] * 30)
    assert text.count("chats.jsonl:") == 20
    assert "stopped after 20" in text


def test_invalid_lines_can_be_left_out(prepare):
    shards = prepare(*["{"] * 30, *[chat("Hi", "Hello")] * 31, "[", options=["--skip-invalid"])
    description = json.loads((shards / "shards.json").read_text())
    assert description["dropped_invalid"] == 31
    assert description["conversations"] == len(conversations(shards)) == 31


def test_a_file_of_something_else_is_no_small_data_set(refused):
    text = refused(chat("Hi", "Hello"), *[{"text": "x"}] * 2, options=["--skip-invalid"])
    assert "chats.jsonl: 2 of 3 conversations are invalid" in text
    assert "chats.jsonl:2: holds 'text' but neither" in text and "--skip-invalid" not in text


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
