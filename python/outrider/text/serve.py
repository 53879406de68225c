"""Prompts as tokens and tokens as text, for verbs that decode.

Protocol: one JSON object a line on stdin, one answer a line on stdout as in tool.py; ends with stdin.
  {"encode": {"text": …}}            the user's turn, in the chat template where the tokenizer has one
  {"encode": {"text": …, "raw": 1}}  the text as it is
  {"encode": {"turns": […]}}         the first turn; {"messages": […]} and the like: up to the last answer
  {"questions": {…}}                 what a conversation asks: {"questions": [[message, …], …], "beside": {…}}, the
                                     messages before each of its answers and what is beside them
  {"piece": {"stream": 0, "ids": […]}}  the text that these tokens add to a stream
  {"text": […]}                      the whole text of tokens, without special ones"""

import argparse
import json
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

from .chat import Chat, load_tokenizer
from .conversations import Conversation, Dialect, parse
from .problem import Problem
from .template import Context
from .tool import Code, ToolError, offline, printable, without_torch


class Stream:
    """Text that grows with its tokens; a character waits for all of its bytes."""

    def __init__(self, decode):
        self._decode, self._ids = decode, []
        self._begin = self._shown = 0  # the last piece shown, which decides what follows it

    def add(self, ids):
        self._ids += ids
        known = self._decode(self._ids[self._begin:self._shown])
        text = self._decode(self._ids[self._begin:])
        if len(text) <= len(known) or text.endswith("\ufffd"):
            return ""
        self._begin, self._shown = self._shown, len(self._ids)
        return text[len(known):]


class Text:
    def __init__(self, folder):
        self._folder = folder
        self._tokenizer = load_tokenizer(folder)
        self._chat = Chat(folder) if self._tokenizer.chat_template else None
        self._streams = {}

    def answer(self, question):
        (kind, content), = question.items()
        return {"encode": self._encode, "questions": self._questions, "piece": self._piece,
                "text": self._decode}[kind](content)

    def _encode(self, prompt):
        if prompt.get("raw") or ("text" in prompt and not self._chat):
            return self._tokenizer(prompt["text"])["input_ids"]
        if "text" in prompt:
            prompt = {"turns": [prompt["text"]]}
        try:
            return self._rendered(*self._messages(prompt))
        except Problem as problem:
            raise ToolError(Code.INVALID_DATA, f"prompt: {printable(problem, 400)}") from problem

    def _messages(self, prompt):
        turns = prompt.get("turns")
        if turns is not None:
            if not isinstance(turns, list) or not turns or not isinstance(turns[0], str):
                raise Problem("'turns' must be a list of texts")
            return [{"role": "user", "content": turns[0]}], Context()
        conversation = parse(json.dumps(prompt).encode())
        messages = conversation.messages
        while messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        return messages, Context(conversation.tools, conversation.variables)

    def _questions(self, record):
        try:
            conversation = self._asked(record)
            if any(message["role"] == "tool" for message in conversation.messages):
                raise Problem("holds messages of tools, whose calls an answer written anew need not make")
        except Problem as problem:
            raise ToolError(Code.INVALID_DATA, printable(problem, 400)) from problem
        beside = {"tools": conversation.tools, "chat_template_kwargs": conversation.variables}
        return {"questions": _between_answers(conversation.messages),
                "beside": {key: value for key, value in beside.items() if value}}

    def _asked(self, record):
        if "input_ids" in record:
            raise Problem("holds 'input_ids': questions are texts, since answers are written as text")
        turns = record.get("turns")
        if turns is None:
            dialect = self._chat.template.dialect if self._chat else Dialect()
            return parse(json.dumps(record).encode(), dialect, answered=False)
        if not isinstance(turns, list) or not turns or not all(
                isinstance(turn, str) and turn.strip() for turn in turns):
            raise Problem("'turns' must be a list of texts")
        return Conversation([message for turn in turns
                             for message in ({"role": "user", "content": turn}, _ANSWER)])

    def _rendered(self, messages, context):
        if not self._chat:
            raise ToolError(Code.INVALID_DATA, f"{self._folder}: the tokenizer has no chat template",
                            "give texts with --prompt, or tokens as input_ids")
        text = self._chat.template.text_of(messages, context, ask=True)
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _piece(self, content):
        stream = self._streams.setdefault(content["stream"], Stream(self._decode))
        return stream.add(content["ids"])

    def _decode(self, ids):
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


_ANSWER = {"role": "assistant", "content": None}


def _between_answers(messages):
    """[[message, …], …]: those before each answer, and those behind the last one."""
    questions = [[]]
    for message in messages:
        if message["role"] != "assistant":
            questions[-1].append(message)
        elif questions[-1]:
            questions.append([])
    return [question for question in questions if question]


def answered(work):
    """The answer that `work` gives, as tool.py describes it."""
    try:
        with redirect_stdout(sys.stderr):
            return {"result": work()}
    except ToolError as e:
        return {"error": {"code": e.code, "message": str(e), "hint": e.hint}}
    except ImportError as e:
        return {"error": {"code": Code.TOOL_MISSING, "message": printable(e), "hint":
                          "scripts/setup.sh installs what the text tools need; OUTRIDER_PYTHON "
                          "names an interpreter"}}


def serve(folder):
    """The first answer tells whether there is a tokenizer; then one for each line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the program decides when this ends
    offline()
    without_torch()
    text = None

    def start():
        nonlocal text
        text = Text(folder)

    print(json.dumps(answered(start)), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(answered(lambda: text.answer(question))), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m outrider.text.serve")
    parser.add_argument("--model", type=Path, required=True)
    serve(parser.parse_args().model)
