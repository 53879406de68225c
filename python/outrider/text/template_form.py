"""How calls are written for a template: some take arguments as an object, some as text."""

from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Form:
    null_content: bool  # of a call without text; else ""
    text_arguments: bool

    def arguments(self, arguments):
        return arguments.as_text() if self.text_arguments else arguments

    def of(self, message):
        """The message in this form."""
        content = message["content"]
        if content is None and not self.null_content:
            content = ""
        calls = [{**call, "function": {
            **call["function"], "arguments": self.arguments(call["function"]["arguments"])}}
            for call in message.get("tool_calls", ())]
        return {**message, "content": content, **({"tool_calls": calls} if calls else {})}


def forms(messages):
    """The forms that make a difference, the usual one first."""
    has_null = any(message["content"] is None for message in messages)
    has_calls = any("tool_calls" in message for message in messages)
    return [Form(null, text) for null, text in product(
        (True, False) if has_null else (True,), (False, True) if has_calls else (False,))]
