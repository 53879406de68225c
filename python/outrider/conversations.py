"""Conversations in JSON Lines: `messages` with role and content, or `conversations` with from and
value. One conversation a line; docs/data.md describes what a line may hold."""

import json
from dataclasses import dataclass, field

from .tool import printable

LINE_LIMIT = 16 << 20  # bytes

_ROLES = {name: name for name in ("user", "assistant", "system", "tool")}
_SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "system": "system"}
_ACCEPTED = ("accepted are 'messages' [{role, content}, …] and 'conversations' "
             "[{from, value}, …]")


class Problem(ValueError):
    """What is wrong with one line."""


@dataclass
class Conversation:
    messages: list  # of {"role", "content"} and, where given, the keys that _EXTRAS reads
    finished: bool = True  # False: the last answer was cut, no end of turn follows it
    tools: list = field(default_factory=list)  # function schemas

    def texts(self):
        """Every text of it that a template may render."""
        for message in self.messages:
            yield message["content"]
            extras = {k: v for k, v in message.items() if k not in ("role", "content")}
            if extras:
                yield json.dumps(extras, ensure_ascii=False)
        if self.tools:
            yield json.dumps(self.tools, ensure_ascii=False)


def parse(line):
    """The conversation in one line of bytes; raises Problem."""
    if len(line) > LINE_LIMIT:
        raise Problem(f"longer than {LINE_LIMIT >> 20} MiB")
    record = _parse_json(line)
    if not isinstance(record, dict):
        raise Problem(f"expected an object, got {_kind(record)}")
    finished = record.get("finished", True)
    if not isinstance(finished, bool):
        raise Problem(f"'finished' must be true or false, got {_kind(finished)}")
    messages = _messages(record)
    _check_order(messages)
    return Conversation(messages, finished, _tools(record.get("tools")))


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


def _messages(record):
    key = next((k for k in ("messages", "conversations") if k in record), None)
    if key is None:
        other = [k for k in ("prompt", "completion", "text") if k in record]
        has = f"holds {_quoted(other)} but " if other else "has "
        raise Problem(f"{has}neither 'messages' nor 'conversations'; {_ACCEPTED}")
    items = record[key]
    if not isinstance(items, list) or not items:
        raise Problem(f"'{key}' must be a list of at least one message, got "
                      + ("an empty list" if items == [] else _kind(items)))
    return [_message(item, f"{key}[{i}]", key) for i, item in enumerate(items)]


def _message(item, where, key):
    if not isinstance(item, dict):
        raise Problem(f"{where}: expected an object, got {_kind(item)}")
    by_role = key == "messages" or ("role" in item and "from" not in item)
    role_key, text_key, roles = (
        ("role", "content", _ROLES) if by_role else ("from", "value", _SHAREGPT_ROLES))
    role = _role(item, where, role_key, roles)
    extras = _extras(item, where, role) if by_role else {}
    text = _text(item, where, text_key, may_be_null="tool_calls" in extras)
    if role == "assistant" and not text.strip() and "tool_calls" not in extras:
        raise Problem(f"{where}.{text_key}: the answer is empty")
    return {"role": role, "content": text, **extras}


def _role(item, where, key, roles):
    if key not in item:
        raise Problem(f"{where}: has no '{key}'; accepted are {', '.join(roles)}")
    role = item[key]
    if not isinstance(role, str) or role not in roles:
        shown = printable(json.dumps(role, ensure_ascii=False), 40)
        raise Problem(f"{where}.{key}: {shown} is none of {', '.join(roles)}")
    return roles[role]


def _text(item, where, key, may_be_null):
    if key not in item and not may_be_null:
        raise Problem(f"{where}: has no '{key}'")
    value = item.get(key)
    if value is None and may_be_null:
        return ""
    if isinstance(value, list):
        parts = [_part(part, f"{where}.{key}[{i}]") for i, part in enumerate(value)]
        return "".join(parts)
    return _string(value, f"{where}.{key}")


def _part(part, where):
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise Problem(f"{where}: expected an object with a 'type', got {_kind(part)}")
    if part["type"] != "text":
        kind = printable(json.dumps(part["type"], ensure_ascii=False), 40)
        raise Problem(f"{where}: a part of type {kind}, accepted is \"text\"")
    return _string(part.get("text"), f"{where}.text")


def _string(value, where):
    if not isinstance(value, str):
        raise Problem(f"{where}: expected a string, got {_kind(value)}")
    _check_encodable(value, where)
    return value


def _check_encodable(text, where):
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise Problem(f"{where}: half a surrogate pair at character {e.start + 1}") from e


def _extras(item, where, role):
    """The keys beyond role and content that templates know, checked."""
    extras = {}
    for key, owner in (("reasoning_content", "assistant"), ("name", "tool"),
                       ("tool_call_id", "tool")):
        if role == owner and item.get(key) is not None:
            extras[key] = _string(item[key], f"{where}.{key}")
    calls = item.get("tool_calls")
    if calls in (None, []):
        return extras
    if role != "assistant":
        raise Problem(f"{where}.tool_calls: only an assistant calls tools")
    if not isinstance(calls, list):
        raise Problem(f"{where}.tool_calls: expected a list, got {_kind(calls)}")
    extras["tool_calls"] = [
        _tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    return extras


def _tool_call(call, where):
    """Arguments that are JSON in a string become the object that templates expect."""
    function = _function(call, where)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as e:
            raise Problem(f"{where}.function.arguments: the string holds no JSON") from e
    if not isinstance(arguments, dict):
        raise Problem(
            f"{where}.function.arguments: expected an object, got {_kind(arguments)}")
    call = {**call, "type": "function", "function": {**function, "arguments": arguments}}
    _check_encodable(json.dumps(call, ensure_ascii=False), where)
    return call


def _function(item, where):
    if not isinstance(item, dict):
        raise Problem(f"{where}: expected an object, got {_kind(item)}")
    function = item.get("function")
    if not isinstance(function, dict):
        raise Problem(f"{where}.function: expected an object, got {_kind(function)}")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise Problem(f"{where}.function.name: expected a name, got {_kind(function.get('name'))}")
    return function


def _tools(tools):
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise Problem(f"tools: expected a list of function schemas, got {_kind(tools)}")
    for i, tool in enumerate(tools):
        _function(tool, f"tools[{i}]")
    _check_encodable(json.dumps(tools, ensure_ascii=False), "tools")
    return tools


def _check_order(messages):
    roles = [message["role"] for message in messages]
    first = next((role for role in roles if role != "system"), "user")
    if first != "user":
        raise Problem(f"begins with a message of the {first}; the first one that is not the "
                      "system's must be the user's")
    for i, (role, following) in enumerate(zip(roles, roles[1:])):
        if role == following == "assistant":
            raise Problem(f"messages {i + 1} and {i + 2} are both the assistant's; join them, or "
                          "put what came between")


def _quoted(names):
    return " and ".join(f"'{name}'" for name in names)


def _kind(value):
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean",
             type(None): "null"}
    return names.get(type(value), "a number")
