"""What of a conversation is trained on, for chat templates of many kinds.

Expectations are written by hand: the rendered text with the trained part between ⟦ and ⟧; or they
are what transformers renders."""

import copy
import json
from datetime import date

import chat_templates as templates
import pytest
from transformers import AddedToken

from outrider.text.chat import Chat, ChatOptions, load_tokenizer
from outrider.text.conversations import Problem, parse
from outrider.text.tool import ToolError

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
    """chat_of(template, options…): a Chat with SmolLM2's tokenizer and the families' special
    tokens, which are loaded once."""
    with_tokens = copy.deepcopy(tokenizer)
    with_tokens.add_tokens([AddedToken(t, special=True) for t in templates.SPECIAL_TOKENS])
    folder = tmp_path_factory.mktemp("chat")
    with_tokens.save_pretrained(folder)
    loaded = load_tokenizer(folder)
    made = {}

    def chat(template, **options):
        key = json.dumps([template, options])
        if key not in made:
            with_template = copy.copy(loaded)
            with_template.chat_template = template
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("outrider.text.chat.load_tokenizer", lambda folder: with_template)
                made[key] = Chat(folder, date(2024, 7, 26), ChatOptions(**options))
        return made[key]

    return chat


def samples(chat, messages, tools=None, **fields):
    """[(ids, mask)] and the names of what was noted."""
    record = {"messages": messages, **({"tools": tools} if tools else {}), **fields}
    found, notes = chat.samples(
        parse(json.dumps(record).encode(), chat.template.dialect), 10000)
    return found, sorted(note.value for note, _ in notes)


def as_text(chat, ids, mask):
    """The text of the tokens with ⟦⟧ around those that are trained on."""
    text, before = "", 0
    for token, trained in zip(ids, mask):
        if trained != before:
            text += "⟦" if trained else "⟧"
        text += chat.tokenizer.decode([token])
        before = trained
    return text + ("⟧" if before else "")


def marked(chat, messages, tools=None, **fields):
    [sample], _ = samples(chat, messages, tools, **fields)
    return as_text(chat, *sample)


def marked_each(chat, messages, tools=None, **fields):
    found, notes = samples(chat, messages, tools, **fields)
    return [as_text(chat, *sample) for sample in found], notes


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
    [(ids, mask)], _ = samples(chat, TURNS)
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
    (templates.CHATML, CALLS[:2], "ignores the tool calls of message 2"),
    (templates.LLAMA3, [user("Rome?"), answer("Let me see", tool_calls=[CALL])],
     "changes or leaves out text of message 2"),
], ids=["changed text", "raises", "repeats", "no answers", "length", "other prompt", "reversed",
        "calls ignored", "text beside a call"])
def test_masks_that_cannot_be_told_are_problems(chat_of, template, messages, problem):
    with pytest.raises(Problem, match=problem):
        marked(chat_of(template), messages)


# ---- Reasoning and other text that templates drop, and conversations as they are served ----------


def served(chat, messages, **variables):
    """What a server renders before it answers the last of the messages, by transformers."""
    return chat.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **variables)


THINK = "<think>\n{}\n</think>\n\n{}"
APART = [user("Hi"), answer("Hello!", reasoning="Who?"), user("Bye"),
         answer("See you", thinking="Sad.")]


@pytest.mark.parametrize("messages", [THOUGHTS, APART], ids=["in the text", "apart"])
@pytest.mark.parametrize("template", [templates.QWEN3, templates.OPENED_THINKING],
                         ids=["kept in the last turn", "opened by the prompt"])
def test_each_answer_is_rendered_as_it_was_served(chat_of, template, messages):
    chat = chat_of(template, turns="each")
    found, notes = marked_each(chat, messages)
    opened = "" if template == templates.QWEN3 else "<think>\n"
    first = THINK.format("Who?", "Hello!").removeprefix(opened)
    second = THINK.format("Sad.", "See you").removeprefix(opened)
    assert found == [f"{served(chat, messages[:1])}⟦{first}<|im_end|>⟧\n",
                     f"{served(chat, messages[:3])}⟦{second}<|im_end|>⟧\n"]
    assert notes == ["reasoning_left_out"] + ["reasoning_put_back"] * 2 * bool(opened)
    last, _ = marked_each(chat_of(template, turns="last"), messages)
    assert last == found[1:]


def test_a_prompt_that_begins_like_what_is_rendered_is_no_part_of_it(chat_of):
    template = templates.CHATML.replace(
        "m.content +",
        "('</think>' if m.role == 'assistant' else '') + m.content.split('</think>')[-1] +")
    template = template.replace("assistant\\n' }}", "assistant\\n<think>' }}")
    chat = chat_of(template, turns="last")
    messages = [user("Hi"), answer("<think>Who?</think>Hello!")]
    assert marked(chat, messages) == served(
        chat, messages[:1]) + "⟦Who?</think>Hello!<|im_end|>⟧\n"


@pytest.mark.parametrize("messages", [THOUGHTS, APART], ids=["in the text", "apart"])
def test_an_answer_that_loses_its_reasoning_is_refused(chat_of, messages):
    for template in (templates.QWEN3, templates.OPENED_THINKING):
        with pytest.raises(Problem, match="leaves out the reasoning of message 2") as caught:
            samples(chat_of(template), messages)
        assert "--turns each" in caught.value.hint and "--reasoning drop" in caught.value.hint
    forgetful = templates.CHATML.replace("m.content", "m.content.split('</think>')[-1]")
    for turns in ("all", "last"):
        with pytest.raises(Problem, match="leaves out the reasoning of message [24]") as caught:
            samples(chat_of(forgetful, turns=turns), messages)
        assert "--chat-template FILE" in caught.value.hint


def test_reasoning_that_is_dropped_on_demand_is_counted(chat_of):
    for messages in (THOUGHTS, APART):
        found, notes = marked_each(chat_of(templates.CHATML, reasoning="drop"), messages)
        assert found == [CASES["chatml"][3]]
        assert notes == ["reasoning_dropped"] * 2


def test_answers_that_are_not_trained_on_may_lose_their_reasoning(chat_of):
    messages = [APART[0], {**APART[1], "weight": 0}, *APART[2:]]
    text, notes = marked_each(chat_of(templates.QWEN3), messages)
    assert text[0].count("⟦") == 1 and text[0].endswith(
        "⟦<think>\nSad.\n</think>\n\nSee you<|im_end|>⟧\n")
    assert notes == ["reasoning_left_out"]


# As QWEN3, with a switch that makes the prompt close an empty block.
SWITCH = templates.QWEN3 + (
    "{%- if add_generation_prompt and thinks is defined and thinks is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}")
# The same where no rendered answer has the block.
BARE_SWITCH = templates.CHATML.replace(
    "{{- '<|im_start|>assistant\\n' }}",
    "{{- '<|im_start|>assistant\\n' + ('' if thinks else '<think></think>') }}")


@pytest.mark.parametrize("template", [SWITCH, BARE_SWITCH], ids=["rendered", "only in the prompt"])
def test_what_a_switch_puts_before_answers_is_not_trained_on(chat_of, template):
    off = {"arguments": {"thinks": False}}
    chat = chat_of(template, turns="each", **off)
    assert marked_each(chat, TURNS) == (
        [served(chat, TURNS[:i], thinks=False) + f"⟦{TURNS[i]['content']}<|im_end|>⟧\n"
         for i in (1, 3)], [])
    [text], notes = marked_each(chat_of(template, **off), TURNS)
    assert "⟦Hello!<|im_end|>⟧" in text and "think>⟦" not in text.split("Bye")[0]
    assert text.endswith("⟦See you<|im_end|>⟧\n") and "</think>" in text
    assert notes == ["answers_not_as_served"]


def test_text_that_a_template_adds_to_answers_is_noted(chat_of):
    _, notes = marked_each(chat_of(SWITCH), TURNS)
    assert notes == ["answers_with_added_text"]


def test_a_switch_may_come_with_the_conversation(chat_of):
    chat = chat_of(SWITCH, turns="last")
    text = marked(chat, TURNS, chat_template_kwargs={"thinks": False})
    assert text == served(chat, TURNS[:3], thinks=False) + "⟦See you<|im_end|>⟧\n"
    with pytest.raises(Problem, match="chat_template_kwargs.thinks: differs from --template-arg"):
        samples(chat_of(SWITCH, arguments={"thinks": True}), TURNS,
                chat_template_kwargs={"thinks": False})
    with pytest.raises(Problem, match="chat_template_kwargs.messages: is not for the data to say"):
        samples(chat, TURNS, chat_template_kwargs={"messages": []})


@pytest.mark.parametrize(("arguments", "problem"), [
    ({"think": 1}, "--template-arg think: the chat template has no such variable; .*thinks"),
    ({"messages": []}, "--template-arg messages: is not the user's to give")])
def test_arguments_that_the_template_does_not_take_are_refused(chat_of, arguments, problem):
    with pytest.raises(ToolError, match=problem):
        chat_of(SWITCH, arguments=arguments)


def test_a_template_that_does_not_compile_is_refused(chat_of):
    with pytest.raises(ToolError, match="chat template does not compile: .*line 2"):
        chat_of("{{ messages }}\n{% for m in %}")


def test_messages_that_a_template_leaves_out_are_noted(chat_of):
    template = templates.CHATML.replace(
        "for m in messages", "for m in messages if m.role != 'tool'")
    messages = [user("Rome?"), answer("Let me see."), result("It is sunny."), answer("Sunny.")]
    _, notes = marked_each(chat_of(template), messages)
    assert notes == ["messages_changed"]
    assert marked_each(chat_of(templates.LLAMA3), [user('a "b"'), answer("c"), result('d\n"e"'),
                                                  answer("f")])[1] == []


# ---- Which answers are trained on ---------------------------------------------------------------


@pytest.mark.parametrize("template", [templates.CHATML, templates.MARKED])
@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"masked": True}])
def test_answers_that_their_author_excludes_are_context(chat_of, template, mark):
    messages = [*TURNS[:1], {**TURNS[1], **mark}, *TURNS[2:]]
    text = marked(chat_of(template), messages)
    assert "assistant\nHello!<|im_end|>\n" in text and text.count("⟦") == 1
    assert text.endswith("⟦See you<|im_end|>⟧\n")
    for turns in ("last", "each"):
        found, _ = marked_each(chat_of(template, turns=turns), messages)
        assert found == [text]
    excluded = [*messages[:3], {**TURNS[3], **mark}]
    [text], _ = marked_each(chat_of(template, turns="each"), excluded)
    assert "⟦" not in text


@pytest.mark.parametrize("template", [templates.CHATML, templates.MARKED])
def test_the_last_answer_ends_what_is_rendered(chat_of, template):
    found, _ = marked_each(chat_of(template, turns="last"), [*TURNS, user("Wait")])
    assert [text.split("user\nHi<|im_end|>\n")[1] for text in found] == [
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n⟦See you<|im_end|>⟧\n"]


def test_each_cut_answer_is_the_last_one_alone(chat_of):
    found, _ = marked_each(chat_of(templates.CHATML, turns="each"), TURNS, finished=False)
    assert found[0].endswith("⟦Hello!<|im_end|>⟧\n") and found[1].endswith("⟦See you⟧<|im_end|>\n")


def test_a_template_that_takes_two_answers_in_a_row_decides(chat_of):
    messages = [*TURNS[:2], answer("And welcome."), *TURNS[2:]]
    assert marked(chat_of(templates.MARKED), messages) == marked(
        chat_of(templates.CHATML), [system("x"), *messages]).split("x<|im_end|>\n")[1]
    assert ("<|im_start|>assistant\n⟦Hello!<|im_end|>⟧\n<|im_start|>assistant\n"
            "⟦And welcome.<|im_end|>⟧\n") in marked(chat_of(templates.CHATML), messages)
    with pytest.raises(Problem, match="refuses it: roles must alternate"):
        samples(chat_of(templates.MISTRAL), messages)


def test_a_developer_is_the_system_where_the_template_does_not_know_one(chat_of):
    messages = [{"role": "developer", "content": "Be brief."}, *TURNS]
    assert marked(chat_of(templates.CHATML), messages) == CASES["chatml with system"][3]
    knows = templates.CHATML + "{# #}{% if messages[0].role == 'developer' %}{% endif %}"
    assert "<|im_start|>developer\nBe brief.<|im_end|>" in marked(chat_of(knows), messages)


# ---- Calls as the template wants them -----------------------------------------------------------

JOINED = """\
{%- for m in messages %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- for c in m.tool_calls or [] %}{{ 'CALL ' + c.function.name + ARGUMENTS }}{% endfor %}
    {{- '' if m.content is none else m.content }}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""


@pytest.mark.parametrize("arguments", [
    " + c.function.arguments", " ~ c.function.arguments", " + c.function.arguments | string"])
@pytest.mark.parametrize("written", ['{"city":"Rome"}', {"city": "Rome"}])
def test_templates_that_join_arguments_get_text(chat_of, arguments, written):
    call = {**CALL, "function": {"name": "weather", "arguments": written}}
    chat = chat_of(JOINED.replace(" + ARGUMENTS", arguments))
    text = written if isinstance(written, str) else '{"city": "Rome"}'
    messages = [CALLS[0], answer(None, tool_calls=[call]), *CALLS[2:4]]
    assert marked(chat, messages) == (
        "<|im_start|>user\nRome?<|im_end|>\n<|im_start|>assistant\n⟦CALL weather" + text
        + "<|im_end|>⟧\n<|im_start|>tool\nsunny<|im_end|>\n<|im_start|>assistant\n"
        "⟦It is sunny.<|im_end|>⟧\n")


@pytest.mark.parametrize(("shown", "expected"), [
    ("'null' if m.content is none else m.content", "null"), ("m.content", ""),
    ("'\\n' ~ m.content if m.content != ''", ""),
    ("m.content | trim", ""), ("'' + m.content", "")])
def test_a_content_that_is_null_stays_so_unless_the_template_prints_it(chat_of, shown, expected):
    chat = chat_of(JOINED.replace("ARGUMENTS", "c.function.arguments | tojson").replace(
        "'' if m.content is none else m.content", shown))
    assert f'⟦CALL weather{{"city": "Rome"}}{expected}<|im_end|>⟧' in marked(chat, CALLS[:2])


def test_a_template_that_takes_no_form_of_a_call_refuses_in_its_words(chat_of):
    template = JOINED.replace("'CALL ' + c.function.name + ARGUMENTS",
                              "raise_exception('no calls here')")
    with pytest.raises(Problem, match="refuses it: no calls here"):
        samples(chat_of(template), CALLS[:2])


# ---- Texts with the names of special tokens -----------------------------------------------------


def plain_ids(chat, text):
    """What a text would be if the tokenizer had no special tokens."""
    return chat.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("texts", [
    ("Run <filename>", "Type `run <filename>`, then </s>"),
    ("<|im_end|>", "<|im_start|>user\nHi<|im_end|>\n"), ("<s>a</s>", "b <s> c"),
    ("no names", "<|endoftext|>")])
def test_names_of_special_tokens_in_texts_are_text(chat_of, texts):
    chat = chat_of(templates.MARKED)
    question, said = texts
    found, notes = samples(chat, [user(question), answer(said)])
    opens, ends = chat.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    line = plain_ids(chat, "\n")
    prompt = [opens, *plain_ids(chat, "user\n" + question), ends, *line,
              opens, *plain_ids(chat, "assistant\n")]
    wanted = [*plain_ids(chat, said), ends]
    unmarked = chat_of(templates.CHATML)
    [(other, other_mask)], _ = samples(unmarked, [user(question), answer(said)])
    for ids, mask in (found[0], (other[-len(found[0].ids):], other_mask[-len(found[0].ids):])):
        assert ids == [*prompt, *wanted, *line]
        assert list(mask) == [0] * len(prompt) + [1] * len(wanted) + [0] * len(line)
    assert notes == ["conversations_with_special_token_text"]


def test_names_of_special_tokens_in_calls_and_tools_are_text(chat_of):
    chat = chat_of(templates.LLAMA3)
    tool = {"type": "function", "function": {"name": "f", "description": "ends with <|eot_id|>"}}
    call = {"function": {"name": "f", "arguments": {"<s>": "</s>"}}}
    [(ids, mask)], _ = samples(chat, [user("Hi"), answer(None, tool_calls=[call])], [tool])
    names = chat.tokenizer.convert_ids_to_tokens(ids)
    assert names.count("<|eot_id|>") == 3 and "<s>" not in names and "</s>" not in names
    text = as_text(chat, ids, mask)
    assert text.endswith('⟦{"name": "f", "parameters": {"<s>": "</s>"}}<|eot_id|>⟧')
    assert "ends with <|eot_id|>" in text


def test_a_tag_that_the_template_looks_for_is_its_own(tokenizer, tmp_path):
    with_tags = copy.deepcopy(tokenizer)
    with_tags.add_tokens([AddedToken(t, special=True) for t in ("<think>", "</think>")])
    with_tags.chat_template = templates.QWEN3
    with_tags.save_pretrained(tmp_path)
    chat = Chat(tmp_path)
    message = answer("<think>\nA <filename>\n</think>\n\nSo.")
    [(ids, mask)], _ = samples(chat, [user("Hi"), message])
    names = chat.tokenizer.convert_ids_to_tokens(ids)
    assert names.count("<think>") == names.count("</think>") == 1 and "<filename>" not in names
    assert as_text(chat, ids, mask).endswith(
        "⟦<think>\nA <filename>\n</think>\n\nSo.<|im_end|>⟧\n")


SMALL_TOKENIZERS = ["first word marked", "every word marked", "unigram", "lower case"]


@pytest.fixture(scope="module", params=SMALL_TOKENIZERS)
def small_chat(request, tmp_path_factory):
    """A tokenizer of another kind than byte-level BPE, with a template."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<|bot|>"]
    kind = request.param
    options = {"vocab_size": 200, "special_tokens": special, "show_progress": False}
    if kind == "unigram":
        made = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **options)
    elif kind == "lower case":
        made, trainer = Tokenizer(models.WordPiece(unk_token="<unk>")), None
        trainer = trainers.WordPieceTrainer(**options)
        made.normalizer, made.pre_tokenizer = (
            normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer())
    else:
        made, trainer = Tokenizer(models.BPE(unk_token="<unk>")), trainers.BpeTrainer(**options)
    if kind != "lower case":
        scheme = "first" if kind == "first word marked" else "always"
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.train_from_iterator(["the cat sat on <s> the </s> mat <|bot|> \n | / > <"] * 3, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<|bot|>"])
    wrapped.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ '<|bot|>' if m.role == 'assistant' }}"
        "{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}")
    folder = tmp_path_factory.mktemp("small")
    wrapped.save_pretrained(folder)
    return Chat(folder)


def test_tokenizers_of_other_kinds_take_names_as_text(small_chat):
    tokenizer = small_chat.tokenizer
    plain, _ = samples(small_chat, [user("the cat"), answer("sat on the mat")])
    rendered = "<s>the cat</s><|bot|>sat on the mat</s>"
    assert plain[0].ids == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    # A name that is spelled otherwise is text anyway, and as long.
    found, _ = samples(small_chat, [user("the <s> cat"), answer("sat </s> on <|bot|> mat")])
    other, _ = samples(small_chat, [user("the <t> cat"), answer("sat </t> on <|cat|> mat")])
    special = tokenizer.convert_tokens_to_ids(["<s>", "</s>", "<|bot|>", "</s>"])
    for ids, mask in (*found, *other):
        assert [i for i in ids if i in special] == [special[0], special[1], special[2], special[1]]
        assert list(mask) == [0] * (ids.index(special[2]) + 1) + [1] * (
            len(ids) - ids.index(special[2]) - 1)
    bare = [[i for i in ids if i not in special] for ids, _ in (*found, *other)]
    texts = [tokenizer.decode(ids).lower().replace(" ", "") for ids in bare]
    assert texts[0].replace("▁", "") == "the<s>catsat</s>on<|bot|>mat"
    assert texts[1].replace("▁", "").replace("<unk>", "t") == "the<t>catsat</t>on<|cat|>mat"
