"""One conversation from its JSON, in the forms that people's data have; docs/data.md lists them."""

import json
from dataclasses import dataclass, field

from .messages import Dialect, MessageReader, said_trained
from .problem import Problem, check_encodable, checked_string, kind, quoted
from .tool_calls import tools_of

__all__ = ["Conversation", "Dialect", "LINE_LIMIT", "Problem", "parse"]

LINE_LIMIT = 16 << 20  # bytes

_LISTS = ("messages", "conversations", "conversation")
_QUESTIONS = ("prompt", "instruction", "question", "query")
_ANSWERS = ("completion", "response", "output", "answer")
_SYSTEM = ("system", "system_prompt", "system_message")
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_ROLE_KEYS = ("role", "from")
_ACCEPTED = ("accepted are 'messages' [{role, content}, …] and 'conversations' "
             "[{from, value}, …], or a question and its answer such as 'prompt' and 'completion'")


@dataclass
class Conversation:
    messages: list  # of {"role", "content"} and, where given, the keys that templates know
    finished: bool = True  # False: the last answer was cut, no end of turn follows it
    tools: list = field(default_factory=list)  # function schemas
    trained: list = field(default_factory=list)  # of each message, whether it is trained on
    variables: dict = field(default_factory=dict)  # for the template, beside the messages
    unread: frozenset = field(default=frozenset(), compare=False)  # keys without a meaning here


def parse(line, dialect=Dialect(), answered=True):
    """The conversation in the bytes of one JSON value; raises Problem.

    `answered`: a question alone is no conversation."""
    if len(line) > LINE_LIMIT:
        raise Problem(f"longer than {LINE_LIMIT >> 20} MiB")
    record = _parse_json(line)
    if isinstance(record, list) and record and all(
            isinstance(item, dict) and any(key in item for key in _ROLE_KEYS) for item in record):
        record = {"messages": record}
    if not isinstance(record, dict):
        raise Problem(f"expected an object, got {kind(record)}")
    return _RecordReader(record, dialect, answered).conversation()


def _refuse_constant(name):
    raise Problem(f"not JSON: {name} is no number")


def _parse_json(line):
    try:
        return json.loads(line.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as e:
        raise Problem(f"not UTF-8 at byte {e.start + 1}") from e
    except json.JSONDecodeError as e:
        raise Problem(f"not JSON: {e.msg} at column {e.colno}") from e
    except RecursionError as e:
        raise Problem("nested too deeply") from e
    except Problem:
        raise
    except ValueError as e:  # an integer of thousands of digits
        raise Problem("not JSON: a number is too long") from e


class _RecordReader:
    """Reads one record; a key that is null is as good as absent."""

    def __init__(self, record, dialect, answered):
        self._record = {key: value for key, value in record.items() if value is not None}
        self._dialect, self._answered = dialect, answered
        self._read = {"finished", "tools", "functions", "chat_template_kwargs", *_SYSTEM}
        self._unread = set()

    def conversation(self):
        self._refuse_media()
        finished = self._record.get("finished", True)
        if not isinstance(finished, bool):
            raise Problem(f"'finished' must be true or false, got {kind(finished)}")
        said = self._said_trained()
        pairs = self._with_system(self._messages())
        messages = [message for message, _ in pairs]
        _check_order(messages)
        self._unread.update(key for key, value in self._record.items()
                            if key not in self._read and value not in ("", [], {}))
        return Conversation(
            messages, finished, tools_of(self._record), [said and trained for _, trained in pairs],
            self._variables(), frozenset(self._unread))

    def _refuse_media(self):
        found = [key for key in _MEDIA if self._record.get(key)]
        if found:
            raise Problem(f"holds {quoted(found)}; only text is taken")

    def _said_trained(self):
        said = said_trained({k: v for k, v in self._record.items() if k != "loss"}, "")
        self._read.update(said)
        return next(iter(said.values()), True)

    def _variables(self):
        variables = self._record.get("chat_template_kwargs", {})
        if isinstance(variables, str):
            variables = _parsed_object(variables)
        if not isinstance(variables, dict):
            raise Problem(f"chat_template_kwargs: expected an object, got {kind(variables)}")
        check_encodable(json.dumps(variables, ensure_ascii=False), "chat_template_kwargs")
        return variables

    # ---- Messages -------------------------------------------------------------------------------

    def _messages(self):
        """[(message, whether it is trained on)] of the form that the record has."""
        lists = [key for key in _LISTS if key in self._record]
        if len(lists) > 1:
            raise Problem(f"holds both {quoted(lists)}")
        if not lists:
            return self._pair()
        found = self._read_list(lists[0])
        if found[-1][0]["role"] != "assistant" and (
                more := [key for key in (*_ANSWERS, "chosen") if key in self._record]):
            raise Problem(f"holds {quoted(more)} beside '{lists[0]}' that end without an answer")
        if self._record.get("history"):
            raise Problem(f"holds 'history' beside '{lists[0]}'")
        return found

    def _read_list(self, key, trained=True):
        self._read.add(key)
        items = _as_list(self._record[key])
        if not isinstance(items, list) or not items:
            raise Problem(f"'{key}' must be a list of at least one message, got "
                          + ("an empty list" if items == [] else kind(items)))
        reader = MessageReader(self._dialect, trained)
        found = [reader.read(item, f"{key}[{i}]") for i, item in enumerate(items)]
        self._unread |= reader.unread
        return found

    def _pair(self):
        """A question and its answer: texts, or lists of messages."""
        questions = [key for key in _QUESTIONS if key in self._record]
        answers = [key for key in _ANSWERS if key in self._record]
        if not questions and "input" in self._record and (answers or not self._answered):
            questions = ["input"]
        for found in (questions, answers):
            if len(found) > 1:
                raise Problem(f"holds {quoted(found)}, of which one is expected")
        if not questions or self._answered and not answers:
            raise self._no_conversation([*questions, *answers])
        question = self._side(questions[0], "user", trained=False)
        answer = self._side(answers[0], "assistant") if answers else []
        return [*self._history(), *question, *answer]

    def _no_conversation(self, halves):
        other = halves + [
            k for k in ("text", "chosen", "rejected") if k in self._record and k not in halves]
        has = f"holds {quoted(other)} but " if other else "has "
        return Problem(f"{has}neither 'messages' nor 'conversations'; {_ACCEPTED}")

    def _side(self, key, role, trained=True):
        self._read.add(key)
        value = self._record[key]
        if not isinstance(value, str):
            if isinstance(value, dict):
                self._record[key] = [value]
            return self._read_list(key, trained)
        text = checked_string(value, key)
        if key == "instruction" and self._record.get("input"):
            self._read.add("input")  # what the instruction is about
            text += "\n" + checked_string(self._record["input"], "input")
        if role == "assistant" and not text.strip():
            raise Problem(f"{key}: the answer is empty")
        return [({"role": role, "content": text}, role == "assistant")]

    def _history(self):
        """Earlier turns as [[question, answer], …]."""
        self._read.add("history")
        turns = _as_list(self._record.get("history", []))
        found = []
        for i, turn in enumerate(turns if isinstance(turns, list) else [turns]):
            if not isinstance(turn, list) or len(turn) != 2:
                raise Problem(f"history[{i}]: expected [question, answer], got {kind(turn)}")
            for j, role in enumerate(("user", "assistant")):
                text = checked_string(turn[j], f"history[{i}][{j}]")
                found.append(({"role": role, "content": text}, role == "assistant"))
        return found

    def _with_system(self, pairs):
        """A system prompt beside the messages is the first message."""
        texts = {key: checked_string(self._record[key], key)
                 for key in _SYSTEM if self._record.get(key)}
        if len(set(texts.values())) > 1:
            raise Problem(f"{quoted(texts)} differ; keep one of them")
        for key, text in texts.items():
            if pairs[0][0]["role"] not in ("system", "developer"):
                return [({"role": "system", "content": text}, False), *pairs]
            if pairs[0][0]["content"] != text:
                raise Problem(f"'{key}' differs from the system's message; keep one of them")
            break
        return pairs


def _as_list(value):
    """A list that is written as JSON text, or as columns {"role": […], "content": […]}."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        if len(set(map(len, value.values()))) == 1:
            return [dict(zip(value, row)) for row in zip(*value.values())]
    return value


def _parsed_object(text):
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text


def _check_order(messages):
    roles = [message["role"] for message in messages]
    first = next((role for role in roles if role not in ("system", "developer")), "user")
    if first != "user":
        raise Problem(f"begins with a message of the {first}; the first one that is not the "
                      "system's must be the user's")
