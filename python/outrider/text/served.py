"""What a model writes behind a generation prompt that a template does not render again."""

from .messages import reasoning_of
from .reasoning import CLOSING_TAG, ends_in_closing_tag, opened_tag, tag_name


def as_generated(message, rendered, missing):
    """The text of an answer behind `missing`, the end of the prompt; None where it is not known.

    `rendered`: what the template makes of the answer."""
    if ends_in_closing_tag(missing):
        return rendered
    opened = opened_tag(missing)
    if opened is None or "tool_calls" in message:
        return None
    if reasoning := reasoning_of(message):
        return _joined(reasoning, message["content"], opened, missing)
    return _continued(message["content"], opened, missing)


def _joined(reasoning, content, opened, missing):
    """Reasoning and answer with the line breaks that templates and models put between them."""
    if missing[opened.end():] != "\n":
        return None
    closing = opened.group()[0] + "/" + opened.group()[1:]
    lines = reasoning.strip("\n"), closing, "", content.lstrip("\n")
    return "\n".join(lines)


def _continued(content, opened, missing):
    """A text that holds its own reasoning, without the tag that the prompt has opened already."""
    closing = next((tag for tag in CLOSING_TAG.finditer(content)
                    if tag_name(tag) == tag_name(opened)), None)
    if closing is None:
        return None
    text, blanks = content.lstrip(), missing[opened.end():]
    if not text.startswith(opened.group()):
        return content
    text = text[len(opened.group()):]
    return text.removeprefix(blanks) if text.startswith(blanks) else text.lstrip()
