"""Renders conversations with a chat template and finds what the assistant wrote in the result.

docs/data.md says how. Positions are characters of the rendered text."""

import re
from datetime import date, datetime, time

from .answers import Answer, AnswerFinder
from .conversations import Problem
from .tool import printable

_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_PROBE_TOOL = {"type": "function", "function": {
    "name": "probe", "description": "", "parameters": {"type": "object", "properties": {}}}}


class Template:
    def __init__(self, tokenizer, specials, day=None):
        """`specials`: the texts of the special tokens; `day`: what templates that ask for the date
        are told."""
        self._tokenizer = tokenizer
        self._special = re.compile("|".join(
            re.escape(s) for s in sorted(specials, key=len, reverse=True)) or r"(?!)")
        moment = datetime.combine(day or date.today(), time())
        self._variables = {**tokenizer.special_tokens_map, "strftime_now": moment.strftime}

    def asks_for_the_date(self):
        template = self._tokenizer.chat_template
        texts = [template] if isinstance(template, str) else template.values()
        return any("strftime_now" in text for text in texts)

    def ignores_tools(self):
        """Whether a tool leaves no trace in what is rendered."""
        messages = [{"role": "user", "content": "Hi"}]
        try:
            return self.text_of(messages, [_PROBE_TOOL]) == self.text_of(messages, [])
        except Problem:  # it has seen the tool, or takes no such short conversation
            return False

    def special_token_in(self, text):
        found = self._special.search(text)
        return found and found.group()

    def render(self, conversation):
        """(the rendered text, an Answer for each turn of the assistant); raises Problem."""
        tools = conversation.tools
        if _GENERATION.search(self._source(tools)):
            text, spans = self._render_spans(conversation.messages, tools)
            return text, [self._marked(text, begin, end) for begin, end in spans if begin < end]
        text = self.text_of(conversation.messages, tools)
        return text, AnswerFinder(self, conversation.messages, tools, text).answers()

    def end_of_turn(self, text):
        """The white space and special token that `text` begins with, or ""."""
        blank = len(text) - len(text.lstrip())
        found = self._special.match(text, blank)
        return text[:found.end()] if found else ""

    def first_special_token(self, text):
        """Where the first special token begins, or -1."""
        found = self._special.search(text)
        return found.start() if found else -1

    def _marked(self, text, begin, end):
        """What a {% generation %} block produced, and the special token directly behind it."""
        closing = None
        for closing in self._special.finditer(text, begin, end):
            pass
        if closing and not text[closing.end():end].strip():
            return Answer(begin, begin, closing.start(), end)
        following = self._special.match(text, end)
        return Answer(begin, begin, end, following.end() if following else end)

    def _source(self, tools):
        try:
            return self._tokenizer.get_chat_template(None, tools or None)
        except ValueError as e:  # several templates, none of them the default
            raise Problem(f"no chat template to choose: {printable(e)}") from e

    def text_of(self, messages, tools, ask=False):
        return self._call(messages, tools, add_generation_prompt=ask)[0][0]

    def _render_spans(self, messages, tools):
        [text], [spans] = self._call(messages, tools, return_assistant_tokens_mask=True)
        return text, spans

    def _call(self, messages, tools, **options):
        from transformers.utils.chat_template_utils import render_jinja_template

        source = self._source(tools)
        try:
            return render_jinja_template(
                [messages], tools=tools or None, chat_template=source,
                **options, **self._variables)
        except Exception as e:  # templates raise errors of their own
            raise Problem(f"the chat template refuses it: {printable(e)}") from e
