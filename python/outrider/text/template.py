"""Renders conversations with a chat template and finds what the assistant wrote in the result.

docs/data.md says how. Positions are characters of the rendered text."""

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time

from .answers import Answer, AnswerFinder
from .literals import Literals, strings
from .messages import REASONING_KEYS, Dialect
from .notes import Note, changed_messages
from .problem import Problem
from .reasoning import is_lost, lost
from .template_form import Form, forms
from .tool import Code, ToolError, printable

_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_PROBE_TOOL = {"type": "function", "function": {
    "name": "probe", "description": "", "parameters": {"type": "object", "properties": {}}}}
_KEY = re.compile(r"\.\s*([A-Za-z_]\w*)|\[\s*['\"](\w+)['\"]\s*\]|get\(\s*['\"](\w+)['\"]"
                  r"|['\"](\w+)['\"]\s+(?:not\s+)?in\b")
_GIVEN = {"messages", "tools", "add_generation_prompt"}


@dataclass
class Context:
    """What a template is given beside the messages."""

    tools: list = field(default_factory=list)
    variables: dict = field(default_factory=dict)


@dataclass
class Rendered:
    text: str
    answers: list
    literals: Literals | None  # what in it is text, though it is called like a special token
    notes: set  # of (Note, number of the message)


class Template:
    def __init__(self, tokenizer, specials, day=None, arguments=None, origin=""):
        """`specials`: the texts of the special tokens; `day`: what templates that ask for the date
        are told; `arguments`: variables of the template; `origin`: where it is from."""
        self._tokenizer = tokenizer
        self._special = re.compile("|".join(
            re.escape(s) for s in sorted(specials, key=len, reverse=True)) or r"(?!)")
        template = tokenizer.chat_template
        self._texts = [template] if isinstance(template, str) else list(template.values())
        self._text = "\n".join(self._texts)
        self._names, self._undeclared = self._parsed_names(origin)
        moment = datetime.combine(day or date.today(), time())
        self._own = {**tokenizer.special_tokens_map, "strftime_now": moment.strftime}
        self._arguments = arguments or {}
        self._check_arguments()
        self.dialect = _dialect(self._text)

    def asks_for_the_date(self):
        return "strftime_now" in self._text

    def ignores_tools(self):
        """Whether a tool leaves no trace in what is rendered."""
        messages = [{"role": "user", "content": "Hi"}]
        try:
            with_tool = self.text_of(messages, Context([_PROBE_TOOL]))
            return with_tool == self.text_of(messages, Context())
        except Problem:  # it has seen the tool, or takes no such short conversation
            return False

    def knows(self, name):
        """Whether the template may read a variable of this name."""
        return name in self._names

    def unread(self, variables):
        """What to call those that the template does not know."""
        return {f"chat_template_kwargs.{name}" for name in variables if not self.knows(name)}

    def render(self, messages, context, trained):
        """Rendered, with an Answer for each of the messages `trained`; raises Problem."""
        self._check_variables(context.variables)
        form, formed, text = self._formed(messages, context)
        formed, context, text, literals = self._with_literals(formed, context, text)
        if _GENERATION.search(self._source(context.tools)):
            text, answers, notes = self._marked_answers(formed, context, trained)
        else:
            taken = literals.names if literals else ()
            finder = AnswerFinder(self, formed, context, form, text, trained, taken)
            answers = finder.answers()
            text, notes = finder.text, finder.notes
        notes |= changed_messages(formed, trained, text)
        return Rendered(text, answers, literals, notes)

    def end_of_turn(self, text):
        """The white space and special token that `text` begins with, or ""."""
        blank = len(text) - len(text.lstrip())
        found = self._special.match(text, blank)
        return text[:found.end()] if found else ""

    def first_special_token(self, text):
        """Where the first special token begins, or -1."""
        found = self._special.search(text)
        return found.start() if found else -1

    # ---- What the template is given -------------------------------------------------------------

    def _parsed_names(self, origin):
        """(names that the template uses, those of them that it does not declare)."""
        from jinja2 import meta, nodes
        from jinja2.exceptions import TemplateSyntaxError

        names, undeclared = set(), set()
        for text in self._texts:
            try:
                environment = _compiled(text).environment
            except TemplateSyntaxError as e:
                raise ToolError(
                    Code.INVALID_FILE, f"{origin}: the chat template does not compile: "
                    f"{printable(e.message)} (its line {e.lineno})",
                    "--chat-template FILE takes another") from e
            tree = environment.parse(text)
            names |= {node.name for node in tree.find_all(nodes.Name)}
            undeclared |= meta.find_undeclared_variables(tree) - environment.globals.keys()
        return names, undeclared

    def _check_variables(self, variables):
        for name, value in variables.items():
            if self._is_given(name):
                raise Problem(f"chat_template_kwargs.{name}: is not for the data to say")
            if self._arguments.get(name, value) != value:
                raise Problem(f"chat_template_kwargs.{name}: differs from --template-arg {name}")

    def _is_given(self, name):
        return name in _GIVEN or name in self._own

    def _check_arguments(self):
        for name in self._arguments:
            if self._is_given(name):
                raise ToolError(
                    Code.INVALID_ARGUMENT, f"--template-arg {name}: is not the user's to give",
                    "it comes from the conversations or the tokenizer")
            if not self.knows(name):
                known = ", ".join(
                    sorted(n for n in self._undeclared if not self._is_given(n))) or "none"
                raise ToolError(
                    Code.INVALID_ARGUMENT, f"--template-arg {printable(name, 60)}: the chat "
                    f"template has no such variable; it has: {printable(known, 400)}")

    def _formed(self, messages, context):
        """(form, messages, text) of the first form of the calls that the template takes."""
        problems = []
        for form in forms(messages):
            formed = [form.of(message) for message in messages]
            try:
                text = self.text_of(formed, context)
            except Problem as problem:
                problems.append(problem)
                continue
            if not self._prints_null(messages, form, text, context):
                return form, formed, text
        raise next((p for p in problems if _is_said_by_template(p)), problems[0])

    def _prints_null(self, messages, form, text, context):
        """Whether a content that is null appears as a word."""
        if not form.null_content or all(message["content"] is not None for message in messages):
            return False
        empty = Form(False, form.text_arguments)
        try:
            other = self.text_of([empty.of(message) for message in messages], context)
        except Problem:
            return False
        return text.count("None") > other.count("None")

    def _with_literals(self, messages, context, text):
        """(messages, context, text, Literals or None): the names of special tokens hidden."""
        texts = list(strings([messages, context.tools, context.variables]))
        names = {name for t in texts for name in self._special.findall(t)}
        # What the template itself looks for, as a tag of reasoning, is its own.
        for hidden in (names, {name for name in names if name not in self._text}):
            if not hidden:
                return messages, context, text, None
            literals = Literals(sorted(hidden), [*texts, self._text])
            formed = literals.hide(messages)
            hidden_context = Context(literals.hide(context.tools), literals.hide(context.variables))
            hidden_text = self._text_or_none(formed, hidden_context)
            if hidden_text is not None and literals.show(hidden_text) == text:
                return formed, hidden_context, hidden_text, literals
        raise Problem(f"the chat template treats {printable(min(names))} in a text in its own way, "
                      "so it cannot be told whose token it is")

    def _text_or_none(self, messages, context):
        try:
            return self.text_of(messages, context)
        except Problem:
            return None

    def _source(self, tools):
        try:
            return self._tokenizer.get_chat_template(None, tools or None)
        except ValueError as e:  # several templates, none of them the default
            raise Problem(f"no chat template to choose: {printable(e)}") from e

    def text_of(self, messages, context, ask=False):
        template = _compiled(self._source(context.tools))
        with _refusals():
            return template.render(**self._given(messages, context, ask))

    def _given(self, messages, context, ask):
        return {"documents": None, **self._own, **self._arguments, **context.variables,
                "messages": messages, "tools": context.tools or None, "add_generation_prompt": ask}

    # ---- Templates that mark answers ------------------------------------------------------------

    def _marked_answers(self, messages, context, trained):
        text, spans = self._render_spans(messages, context)
        assistants = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if len(spans) != len(assistants):
            if set(assistants) != set(trained):
                raise Problem("the chat template marks other parts than one for each answer, so an "
                              "answer that is not trained on cannot be told apart")
            assistants = [assistants[-1] if assistants else 0] * len(spans)
        answers = [self._marked(text, begin, end, i) for i, (begin, end) in zip(assistants, spans)
                   if begin < end and i in trained]
        notes = {(Note.REASONING_LEFT_OUT, i) for i, message in enumerate(messages)
                 if message["role"] == "assistant" and is_lost(message, text)}
        for _, i in sorted(notes):
            if i in trained:
                raise lost(i, len(messages))
        return text, answers, notes

    def _render_spans(self, messages, context):
        from transformers.utils.chat_template_utils import _render_with_assistant_indices

        template = _compiled(self._source(context.tools))
        with _refusals():
            return _render_with_assistant_indices(
                template, **self._given(messages, context, ask=False))

    def _marked(self, text, begin, end, i):
        """What a {% generation %} block produced, and the special token directly behind it."""
        closing = None
        for closing in self._special.finditer(text, begin, end):
            pass
        if closing and not text[closing.end():end].strip():
            return Answer(begin, begin, closing.start(), end, i)
        following = self._special.match(text, end)
        return Answer(begin, begin, end, following.end() if following else end, i)


def _compiled(source):
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template(source)


@contextmanager
def _refusals():
    try:
        yield
    except Exception as e:  # templates raise errors of their own
        raise Problem(f"the chat template refuses it: {printable(e)}") from e


def _is_said_by_template(problem):
    """Whether a template refused in its own words, and did not merely stumble."""
    from jinja2.exceptions import TemplateError, UndefinedError

    cause = problem.__cause__
    return isinstance(cause, TemplateError) and not isinstance(cause, UndefinedError)


def _dialect(text):
    keys = {key for found in _KEY.findall(text) for key in found if key}
    reasoning = tuple(key for key in REASONING_KEYS if key in keys) or REASONING_KEYS[:1]
    return Dialect(frozenset(keys), reasoning, re.search(r"['\"]developer['\"]", text) is not None)
