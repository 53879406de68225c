"""Chains of thought: beside an answer, or in front of it between tags."""

import re

from .messages import REASONING_KEYS, reasoning_of
from .problem import Problem

CLOSING_TAG = re.compile(r"</([^<>\s]+)>|\[/([^\[\]\s]+)\]")
_OPENING_TAG = re.compile(r"<([^<>/\s]+)>|\[([^\[\]/\s]+)\]")
_NAMES = {"think", "thinking", "thought", "thoughts", "reasoning", "reason", "seed:think"}


def tag_name(found):
    return (found.group(1) or found.group(2)).lower()


def opened_tag(text):
    """The match of an opening tag that `text` ends with, blanks aside, or None."""
    last = None
    for last in _OPENING_TAG.finditer(text):
        pass
    return last if last and not text[last.end():].strip() else None


def ends_in_closing_tag(text):
    last = None
    for last in CLOSING_TAG.finditer(text):
        pass
    return last is not None and not text[last.end():].strip()


def tails(content):
    """(what is in front of a closing tag, what is behind it) for every one."""
    for tag in CLOSING_TAG.finditer(content):
        yield _without_opening(content[:tag.start()], tag_name(tag)), content[tag.end():].strip()


def _without_opening(text, name):
    found = _OPENING_TAG.match(text.lstrip())
    text = text.lstrip()
    return text[found.end():].strip() if found and tag_name(found) == name else text.strip()


def is_lost(message, rendered):
    """Whether what was rendered of an answer lacks its reasoning."""
    beside = reasoning_of(message).strip()
    if beside and beside not in rendered:
        return True
    content = (message["content"] or "").strip()
    if content in rendered:
        return False
    heads = [head for head, tail in tails(content) if tail in rendered]
    return bool(heads) and bool(heads[0]) and heads[0] not in rendered


def split(content):
    """(reasoning, answer) of a text that begins with reasoning between the usual tags."""
    for tag in CLOSING_TAG.finditer(content):
        if tag_name(tag) in _NAMES:
            head = content[:tag.start()]
            opening = _OPENING_TAG.search(head)
            if opening is None or not head[:opening.start()].strip():
                return _without_opening(head, tag_name(tag)), content[tag.end():].lstrip()
    return "", content


def without(message, number):
    """The message without its reasoning."""
    content = message["content"]
    if content is not None:
        _, content = split(content)
        if not content.strip() and "tool_calls" not in message:
            raise Problem(f"message {number}: the answer is empty without its reasoning")
    kept = {key: value for key, value in message.items() if key not in REASONING_KEYS}
    return {**kept, "content": content}


def lost(i, count):
    """The Problem of a trained answer, message i of `count`, that loses its reasoning."""
    ways = [] if i + 1 == count else ["--turns each renders every answer as it is served, --turns "
                                      "last trains on the last one alone"]
    ways.append("--reasoning drop trains on answers without reasoning, --chat-template FILE names "
                "a template that renders it")
    return Problem(f"the chat template leaves out the reasoning of message {i + 1}, which is to be "
                   "trained on", "; ".join(ways))
