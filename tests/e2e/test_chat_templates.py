"""What of a conversation is trained on, for chat templates of many kinds.

Expectations are written by hand: the rendered text with the trained part between ⟦ and ⟧."""

import json
from datetime import date

import chat_templates as templates
import pytest
from transformers import AddedToken

from outrider.chat import Chat
from outrider.conversations import Problem, parse

TOOL = {"type": "function", "function": {
    "name": "weather", "description": "", "parameters": {"type": "object", "properties": {}}}}
TOOL_TEXT = ('{"type": "function", "function": {"name": "weather", "description": "", '
             '"parameters": {"type": "object", "properties": {}}}}')
CALL = {"id": "abcdefghi", "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}


def user(text):
    return {"role": "user", "content": text}


def answer(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def result(text):
    return {"role": "tool", "content": text, "tool_call_id": "abcdefghi"}


TURNS = [user("Hi"), answer("Hello!"), user("Bye"), answer("See you")]
SYSTEM_TURNS = [system("Be brief."), *TURNS]
CALLS = [user("Rome?"), answer(None, tool_calls=[CALL]), result("sunny"), answer("It is sunny."),
         user("Thanks"), answer("Welcome")]
THOUGHTS = [user("Hi"), answer("<think>\nWho?\n</think>\n\nHello!"), user("Bye"),
            answer("<think>\nSad.\n</think>\n\nSee you")]


@pytest.fixture(scope="module")
def chat_of(tokenizer, tmp_path_factory):
    """chat_of(template): a Chat with SmolLM2's tokenizer and the families' special tokens."""
    import copy

    with_tokens = copy.deepcopy(tokenizer)
    with_tokens.add_tokens([AddedToken(t, special=True) for t in templates.SPECIAL_TOKENS])
    made = {}

    def make(template):
        folder = tmp_path_factory.mktemp("chat")
        with_tokens.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(template)
        return Chat(folder, date(2024, 7, 26))

    return lambda template: made.get(template) or made.setdefault(template, make(template))


def marked(chat, messages, tools=None, **fields):
    """The text of the tokens with ⟦⟧ around those that are trained on."""
    record = {"messages": messages, **({"tools": tools} if tools else {}), **fields}
    ids, mask = chat.tokenize(parse(json.dumps(record).encode()), 10000)
    text, before = "", 0
    for token, trained in zip(ids, mask):
        if trained != before:
            text += "⟦" if trained else "⟧"
        text += chat.tokenizer.decode([token])
        before = trained
    return text + ("⟧" if before else "")


CASES = {
    "chatml": (templates.CHATML, TURNS, None,
               "<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
               "<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n"
               "<|im_start|>assistant\n⟦See you<|im_end|>⟧\n"),
    "chatml with system": (
        templates.CHATML, SYSTEM_TURNS, None,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n⟦See you<|im_end|>⟧\n"),
    "chatml with echoes": (
        templates.CHATML, [user("assistant\nHi"), answer("Hi"), user("Hi"), answer("user\nHi")],
        None,
        "<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\nassistant\nHi<|im_end|>\n"
        "<|im_start|>assistant\n⟦Hi<|im_end|>⟧\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n⟦user\nHi<|im_end|>⟧\n"),
    "chatml unanswered": (
        templates.CHATML, TURNS[:3], None,
        "<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n"),
    "marked": (templates.MARKED, TURNS, None,
               "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n"
               "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n⟦See you<|im_end|>⟧\n"),
    "llama": (templates.LLAMA3, [system(" Be brief.\n"), user(" Hi "), answer(" Hello! "),
                                 user("Bye"), answer("See you\n")], None,
              "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n"
              "Be brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello!<|eot_id|>⟧"
              "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
              "<|start_header_id|>assistant<|end_header_id|>\n\n⟦See you<|eot_id|>⟧"),
    "llama with tools": (
        templates.LLAMA3, CALLS, [TOOL],
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n\n"
        + TOOL_TEXT + "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nRome?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '⟦{"name": "weather", "parameters": {"city": "Rome"}}<|eot_id|>⟧'
        '<|start_header_id|>ipython<|end_header_id|>\n\n"sunny"<|eot_id|>'
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦It is sunny.<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nThanks<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Welcome<|eot_id|>⟧"),
    "mistral": (templates.MISTRAL, SYSTEM_TURNS, None,
                "<s>[INST] Hi[/INST]⟦ Hello!</s>⟧[INST] Be brief.\n\nBye[/INST]⟦ See you</s>⟧"),
    "mistral with tools": (
        templates.MISTRAL, [system("Be brief."), *CALLS], [TOOL],
        '<s>[INST] Rome?[/INST]⟦[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome"}, '
        '"id": "abcdefghi"}]</s>⟧[TOOL_RESULTS]{"content": "sunny"}[/TOOL_RESULTS]'
        f"⟦ It is sunny.</s>⟧[AVAILABLE_TOOLS][{TOOL_TEXT}][/AVAILABLE_TOOLS]"
        "[INST] Be brief.\n\nThanks[/INST]⟦ Welcome</s>⟧"),
    "qwen with reasoning": (
        templates.QWEN3, THOUGHTS, None,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n"
        "<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n⟦<think>\nSad.\n</think>\n\nSee you<|im_end|>⟧\n"),
    "qwen without reasoning": (
        templates.QWEN3, SYSTEM_TURNS, None,
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n"
        "<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n⟦<think>\n\n</think>\n\nSee you<|im_end|>⟧\n"),
    "qwen with tools and reasoning": (
        templates.QWEN3,
        [user("Rome?"), answer("Wait.", tool_calls=[CALL, CALL], reasoning_content="Look."),
         result("sunny"), result("warm"), answer("Fine.", reasoning_content="Good.")], [TOOL],
        f"<|im_start|>system\n<tools>\n{TOOL_TEXT}\n</tools><|im_end|>\n"
        "<|im_start|>user\nRome?<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\nLook.\n</think>\n\nWait."
        + '\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>' * 2
        + "<|im_end|>⟧\n<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n"
        "<tool_response>\nwarm\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\nGood.\n</think>\n\nFine.<|im_end|>⟧\n"),
    "reasoning that the prompt opens": (
        templates.OPENED_THINKING, THOUGHTS, None,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n⟦See you<|im_end|>⟧\n"),
    "an answer like the prompt's reasoning": (
        templates.OPENED_THINKING, [user("Hi"), answer("<thing>")], None,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦<thing><|im_end|>⟧\n"),
    "gemma": (templates.GEMMA, SYSTEM_TURNS, None,
              "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
              "<start_of_turn>model\n⟦Hello!<end_of_turn>⟧\n<start_of_turn>user\nBye<end_of_turn>\n"
              "<start_of_turn>model\n⟦See you<end_of_turn>⟧\n"),
    "last turn special": (
        templates.LAST_IS_SPECIAL, TURNS, None,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n"
        "<|im_start|>user\nBye<|im_end|>\n(last)<|im_start|>assistant\n⟦See you⟧"),
    "vicuna": (templates.VICUNA, [user("USER: Hi"), answer("ASSISTANT: me"), user("Bye"),
                                  answer("See you")], None,
               "USER: USER: Hi ASSISTANT:⟦ ASSISTANT: me</s>⟧USER: Bye ASSISTANT:⟦ See you</s>⟧"),
}


@pytest.mark.parametrize("name", CASES)
def test_exactly_the_answers_are_trained_on(chat_of, name):
    template, messages, tools, expected = CASES[name]
    assert marked(chat_of(template), messages, tools) == expected


@pytest.mark.parametrize("template", [templates.CHATML, templates.MARKED, templates.QWEN3])
def test_a_cut_answer_has_no_end_of_turn(chat_of, template):
    text = marked(chat_of(template), TURNS, finished=False)
    assert text.endswith("See you⟧<|im_end|>\n")
    assert "⟦Hello!<|im_end|>⟧" in text


@pytest.mark.parametrize(("template", "expected"), [
    ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '\\n' }}{% endfor %}"
     "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
     "<|im_start|>user\nHi\n<|im_start|>assistant\n⟦Hello!⟧\n<|im_start|>user\nBye\n"
     "<|im_start|>assistant\n⟦See you⟧\n"),
    ("{% for m in messages %}{{ '[INST]' + m.content + '[/INST]' if m.role == 'user' else "
     "m.content }}{% endfor %}", "[INST]Hi[/INST]⟦Hello!⟧[INST]Bye[/INST]⟦See you⟧")],
    ids=["with prompt", "without prompt"])
def test_the_token_that_opens_the_next_turn_is_no_end_of_turn(chat_of, template, expected):
    assert marked(chat_of(template), TURNS) == expected


def test_marked_templates_agree_with_transformers(chat_of):
    chat = chat_of(templates.MARKED)
    ids, mask = chat.tokenize(parse(json.dumps({"messages": TURNS}).encode()), 10000)
    theirs = chat.tokenizer.apply_chat_template(
        TURNS, return_dict=True, return_assistant_tokens_mask=True)
    assert ids == theirs["input_ids"]
    assert list(mask) == theirs["assistant_masks"]


def test_the_end_of_turn_behind_a_generation_block_is_trained_on(chat_of):
    template = templates.MARKED.replace("+ '<|im_end|>' }}{% endgeneration %}",
                                        "}}{% endgeneration %}{{ '<|im_end|>' }}")
    assert template != templates.MARKED
    assert marked(chat_of(template), TURNS) == CASES["marked"][3]


def test_a_generation_block_of_blanks_reaches_no_further_than_itself(chat_of):
    template = templates.MARKED.replace("m.content +", "' ' + m.content + ' \\n' +")
    assert "⟦ Hello! \n<|im_end|>⟧\n<|im_start|>user" in marked(chat_of(template), TURNS)


def test_a_date_is_what_it_was_when_the_run_began(chat_of):
    assert chat_of(templates.LLAMA3).template.asks_for_the_date()
    assert not chat_of(templates.QWEN3).template.asks_for_the_date()


def test_templates_that_ignore_tools_are_known(chat_of):
    assert chat_of(templates.CHATML).template.ignores_tools()
    for template in (templates.LLAMA3, templates.MISTRAL, templates.QWEN3):
        assert not chat_of(template).template.ignores_tools()


MESSAGES = "{% for m in messages %}<|im_start|>{{ m.role }}\n"


@pytest.mark.parametrize(("template", "messages", "problem"), [
    ("{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}", TURNS,
     "changes or leaves out text of message 2"),
    ("{{ raise_exception('only one turn') }}", TURNS, "refuses it: only one turn"),
    (MESSAGES + "{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}", TURNS,
     "repeats the text of message 2"),
    ("{% for m in messages if m.role == 'user' %}{{ m.content }}<|im_end|>{% endfor %}", TURNS,
     "leaves out message 2"),
    (MESSAGES + "{{ m.content }}{{ m.content | length }}<|im_end|>{% endfor %}",
     [user("Hi"), answer("A long answer")], "around message 2 differently"),
    (templates.CHATML.replace("'<|im_start|>assistant\\n' }}", "'### Answer:' }}"), TURNS,
     "does not render its generation prompt before message 2"),
    ("{% for m in messages | reverse %}{{ m.content }}<|im_end|>{% endfor %}", TURNS,
     "does not render message 4 behind the ones before it"),
    (templates.CHATML, CALLS[:2], "renders nothing of message 2"),
    (templates.LLAMA3, [user("Rome?"), answer("Let me see", tool_calls=[CALL])],
     "changes or leaves out text of message 2"),
], ids=["changed text", "raises", "repeats", "no answers", "length", "other prompt", "reversed",
        "calls ignored", "text beside a call"])
def test_masks_that_cannot_be_told_are_problems(chat_of, template, messages, problem):
    with pytest.raises(Problem, match=problem):
        marked(chat_of(template), messages)
