"""One message of a conversation, in the names that people's data have for its parts."""

import json
from dataclasses import dataclass

from .problem import Problem, check_encodable, checked_string, kind, quoted
from .tool import printable
from .tool_calls import tool_calls

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
CALL_KEYS = ("tool_calls", "function_call")

_ROLES = {
    "user": "user", "assistant": "assistant", "system": "system", "tool": "tool",
    "developer": "developer", "human": "user", "prompter": "user", "gpt": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "bot": "assistant",
    "model": "assistant", "ai": "assistant", "function": "tool", "ipython": "tool",
    "observation": "tool", "tool_response": "tool", "function_response": "tool",
    "function_call": "call", "tool_call": "call"}
_FROM_FIRST = ("human", "user", "gpt", "assistant", "system", "tool")
_TEXT_PARTS = ("text", "input_text", "output_text")

# Whether a message is trained on; the value that says so.
_MASKS = {"weight": True, "train": True, "trainable": True, "loss_mask": True, "loss": True,
          "loss_weight": True, "masked": False}
# Keys that mean something for what the model reads or learns, and that nothing here can honour.
_NOT_HONOURED = {
    **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"),
                    "only text is taken"),
    **dict.fromkeys(("train_detail", "training_detail", "mask"),
                    "a message is trained on as a whole or not: accepted are 'weight', 'train' "
                    "and the like with 0 or 1"),
    **dict.fromkeys(("tools", "functions"), "tools belong beside the messages"),
    "refusal": "put the text into the content",
    "prefix": "'finished': false beside the messages says that the last answer was cut"}


@dataclass(frozen=True)
class Dialect:
    """What a chat template reads of a message."""

    keys: frozenset = frozenset()
    reasoning: tuple = ("reasoning_content",)  # the keys under which it expects reasoning
    knows_developer: bool = False


class MessageReader:
    """Reads the messages of one conversation; `unread`: the keys that had no meaning."""

    def __init__(self, dialect, trained_by_default=True):
        self._dialect, self._default = dialect, trained_by_default
        self.unread = set()

    def read(self, item, where):
        """(the message as templates expect it, whether it is trained on)."""
        if not isinstance(item, dict):
            raise Problem(f"{where}: expected an object, got {kind(item)}")
        item = {key: value for key, value in item.items() if value is not None or key == "content"}
        role_key = "from" if "from" in item or "value" in item and "role" not in item else "role"
        text_key = "value" if "value" in item else "content"
        if "value" in item and item.get("content") is not None:
            raise Problem(f"{where}: holds both 'content' and 'value'")
        if "role" in item and "from" in item:
            raise Problem(f"{where}: holds both 'role' and 'from'")
        role = self._role(item, where, role_key)
        if role == "call":
            item, role = _call_message(item, f"{where}.{text_key}", text_key), "assistant"
        trained = _is_trained(item, where, role)
        message = self._message(item, where, role, text_key)
        self._note_unread(item, where, message)
        return message, self._default and role == "assistant" if trained is None else trained

    def _message(self, item, where, role, text_key):
        extras = self._extras(item, where, role)
        text = _text(item, where, text_key, may_be_null="tool_calls" in extras)
        if role == "assistant" and not (text or "").strip() and "tool_calls" not in extras:
            raise Problem(f"{where}.{text_key}: the answer is empty")
        if role == "developer" and not self._dialect.knows_developer:
            role = "system"
        return {"role": role, "content": text, **extras}

    def _role(self, item, where, key):
        names = list(_ROLES) if key == "role" else [
            *_FROM_FIRST, *(name for name in _ROLES if name not in _FROM_FIRST)]
        if key not in item:
            raise Problem(f"{where}: has no '{key}'; accepted are {', '.join(names)}")
        role = item[key]
        found = None
        if isinstance(role, str):
            found = _ROLES.get(role.strip().lower().replace("-", "_"))
        if found is None:
            shown = printable(json.dumps(role, ensure_ascii=False), 40)
            raise Problem(f"{where}.{key}: {shown} is none of {', '.join(names)}")
        return found

    def _extras(self, item, where, role):
        """The keys beyond role and content that templates know, checked."""
        extras = {}
        if reasoning := _reasoning(item, where, role):
            extras.update(dict.fromkeys(self._dialect.reasoning, reasoning))
        for key in ("name", "tool_call_id"):
            if role == "tool" and key in item:
                extras[key] = checked_string(item[key], f"{where}.{key}")
        if calls := tool_calls(item, where, role):
            extras["tool_calls"] = calls
        for key in sorted(self._dialect.keys & item.keys() - _KNOWN - extras.keys()):
            check_encodable(json.dumps(item[key], ensure_ascii=False), f"{where}.{key}")
            extras[key] = item[key]
        return extras

    def _note_unread(self, item, where, message):
        for key in item.keys() - _KNOWN - message.keys():
            if item[key] in ("", [], {}):
                continue
            if key in _NOT_HONOURED and item[key]:
                raise Problem(f"{where}.{key}: {_NOT_HONOURED[key]}")
            self.unread.add(f"{where.split('[')[0]}[].{key}")


_KNOWN = frozenset(
    ("role", "from", "content", "value", *REASONING_KEYS, *CALL_KEYS, *_MASKS))


def reasoning_of(message):
    """The reasoning that a message holds beside its content, or ""."""
    return next((message[key] for key in REASONING_KEYS if message.get(key)), "")


def _reasoning(item, where, role):
    said = {key: checked_string(item[key], f"{where}.{key}")
            for key in REASONING_KEYS if item.get(key) not in (None, "")}
    if said and role != "assistant":
        raise Problem(f"{where}.{next(iter(said))}: only an assistant's message has reasoning")
    if len(set(said.values())) > 1:
        raise Problem(f"{where}: {quoted(said)} differ; keep one of them")
    return next(iter(said.values()), "")


def said_trained(item, where):
    """What the keys of an object say about training on it, or None."""
    said = {key: _said(item[key], f"{where}.{key}".lstrip("."), meaning)
            for key, meaning in _MASKS.items() if item.get(key) is not None}
    if len(set(said.values())) > 1:
        raise Problem(f"{where}: {quoted(said)} contradict each other".lstrip(": "))
    return said


def _said(value, where, meaning):
    if not isinstance(value, (bool, int, float)) or value not in (0, 1):
        shown = printable(json.dumps(value, ensure_ascii=False), 40)
        raise Problem(f"{where}: {shown} cannot be honoured, since a message is trained on or not; "
                      "accepted are 0, 1, false and true")
    return bool(value) == meaning


def _is_trained(item, where, role):
    said = said_trained(item, where)
    for key, trained in said.items():
        if trained and role != "assistant":
            raise Problem(f"{where}.{key}: only messages of the assistant are trained on; accepted "
                          f"is {'0 or false' if _MASKS[key] else '1 or true'}")
        return trained
    return None


def _call_message(item, where, text_key):
    """A message whose text is a call: {"name", "arguments"} as JSON, or a list of them."""
    text = checked_string(item.get(text_key), where)
    return {**{key: value for key, value in item.items() if key != text_key},
            "content": None, "tool_calls": text}


def _text(item, where, key, may_be_null):
    if key not in item and not may_be_null:
        raise Problem(f"{where}: has no '{key}'")
    value = item.get(key)
    if value is None and may_be_null:
        return None
    if isinstance(value, list):
        parts = [_part(part, f"{where}.{key}[{i}]") for i, part in enumerate(value)]
        return "".join(parts)
    return checked_string(value, f"{where}.{key}")


def _part(part, where):
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise Problem(f"{where}: expected an object with a 'type', got {kind(part)}")
    if part["type"] not in _TEXT_PARTS:
        shown = printable(json.dumps(part["type"], ensure_ascii=False), 40)
        raise Problem(f"{where}: a part of type {shown}, accepted is \"text\"")
    return checked_string(part.get("text"), f"{where}.text")
