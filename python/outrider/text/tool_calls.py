"""Calls and schemas of tools, brought into the one form that chat templates expect."""

import json

from .problem import Problem, check_encodable, kind


class CallArguments(dict):
    """A call's arguments. Templates that print an object as Python does were written for text."""

    def __init__(self, arguments, source_text):
        super().__init__(arguments)
        self._source_text = source_text  # as the data has it, or None

    def as_text(self):
        if self._source_text is not None:
            return self._source_text
        return json.dumps(self, ensure_ascii=False)

    def mapped(self, change):
        """The same with every text changed."""
        text = self._source_text
        return CallArguments(change(dict(self)), None if text is None else change(text))

    def __str__(self):
        raise TypeError("the chat template prints a call's arguments as if they were text")

    __repr__ = __str__


def tool_calls(item, where, role):
    """The calls of a message, checked; None where it has none."""
    if item.get("tool_calls") and item.get("function_call"):
        raise Problem(f"{where}: holds both 'tool_calls' and 'function_call'")
    key = "function_call" if item.get("function_call") else "tool_calls"
    calls = item.get(key)
    if calls in (None, [], ""):
        return None
    where = f"{where}.{key}"
    if role != "assistant":
        raise Problem(f"{where}: only an assistant calls tools")
    if isinstance(calls, str):
        calls = _parsed(calls, where)
        calls = [calls] if isinstance(calls, dict) else calls
    if key == "function_call":
        calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not calls:
        raise Problem(f"{where}: expected a list, got {kind(calls)}")
    return [_tool_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def tools_of(record):
    """The function schemas beside the messages."""
    found = {key: record[key] for key in ("tools", "functions") if record.get(key)}
    if len(found) > 1:
        raise Problem("holds both 'tools' and 'functions'")
    for key, tools in found.items():
        return _schemas(tools, key)
    return []


def _schemas(tools, key):
    if isinstance(tools, str):
        try:
            parsed = json.loads(tools)
        except (ValueError, RecursionError) as e:
            raise Problem(f"{key}: expected a list of function schemas, got a string that holds no "
                          "JSON") from e
        if not parsed:
            return []
        tools = [parsed] if isinstance(parsed, dict) else parsed
    if not isinstance(tools, list):
        raise Problem(f"{key}: expected a list of function schemas, got {kind(tools)}")
    schemas = [_wrapped(_json_object(tool), f"{key}[{i}]") for i, tool in enumerate(tools)]
    check_encodable(json.dumps(schemas, ensure_ascii=False), key)
    return schemas


def _json_object(tool):
    """A schema that is JSON in a string, as its object."""
    try:
        return json.loads(tool) if isinstance(tool, str) else tool
    except (ValueError, RecursionError):
        return tool


def _wrapped(item, where):
    """{"type": "function", "function": …} around a bare {"name": …}."""
    if isinstance(item, dict) and "function" not in item and isinstance(item.get("name"), str):
        identity = {key: item[key] for key in ("id",) if key in item}
        function = {key: value for key, value in item.items() if key not in ("id", "type")}
        item = {**identity, "type": "function", "function": function}
    _function(item, where)
    return item


def _tool_call(call, where):
    """Arguments that are JSON in a string become an object that remembers the string."""
    call = _wrapped(call, where)
    function = call["function"]
    arguments = text = function.get("arguments")
    if arguments is None:
        arguments = {}
    if isinstance(arguments, str):
        arguments = _parsed(arguments or "{}", f"{where}.function.arguments")
    if not isinstance(arguments, dict):
        raise Problem(
            f"{where}.function.arguments: expected an object, got {kind(arguments)}")
    arguments = CallArguments(arguments, text if isinstance(text, str) and text else None)
    call = {**call, "type": "function", "function": {**function, "arguments": arguments}}
    check_encodable(json.dumps(call, ensure_ascii=False), where)
    return call


def _parsed(text, where):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise Problem(f"{where}: the string holds no JSON") from e


def _function(item, where):
    if not isinstance(item, dict):
        raise Problem(f"{where}: expected an object, got {kind(item)}")
    function = item.get("function")
    if not isinstance(function, dict):
        raise Problem(f"{where}.function: expected an object, got {kind(function)}")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise Problem(f"{where}.function.name: expected a name, got {kind(function.get('name'))}")
