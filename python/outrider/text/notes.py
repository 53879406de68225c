"""What becomes of a conversation's text otherwise than one would think: counted and reported."""

import json
from enum import StrEnum

from .reasoning import tails


class Note(StrEnum):
    """The names are those in shards.json and of `data inspect --json`."""

    REASONING_LEFT_OUT = "reasoning_left_out"
    REASONING_DROPPED = "reasoning_dropped"
    NOT_AS_SERVED = "answers_not_as_served"
    REASONING_PUT_BACK = "reasoning_put_back"
    PROMPT_CUT = "answers_without_opened_reasoning"
    TEXT_ADDED = "answers_with_added_text"
    MESSAGE_CHANGED = "messages_changed"
    SPECIAL_TEXT = "conversations_with_special_token_text"


_SENTENCES = {
    Note.REASONING_LEFT_OUT: "the chat template leaves out the reasoning of {} that {} not trained "
                             "on",
    Note.REASONING_DROPPED: "the reasoning of {} is left out, as --reasoning drop says",
    Note.NOT_AS_SERVED: "the generation prompt before {} that {} trained on is not rendered as in "
                        "serving; --turns each renders every answer as when it was asked for",
    Note.REASONING_PUT_BACK: "the chat template leaves out the reasoning of {}; it is put back "
                             "behind the generation prompt, which opens it",
    Note.PROMPT_CUT: "the generation prompt opens reasoning that {} {} not hold; it is not "
                     "rendered in full",
    Note.TEXT_ADDED: "the chat template puts text into {} that the conversations do not hold, and "
                     "it is trained on; if serving puts it there, give the template's switch, as "
                     "in --template-arg enable_thinking=false",
    Note.MESSAGE_CHANGED: "the chat template changes or leaves out text of {} that {} not trained "
                          "on",
    Note.SPECIAL_TEXT: "{} with names of special tokens, which are taken as plain text"}
_NOUNS = {Note.MESSAGE_CHANGED: "message", Note.SPECIAL_TEXT: "conversation"}


def sentence(note, count):
    noun = _NOUNS.get(note, "answer")
    verbs = ("does", "do") if note == Note.PROMPT_CUT else ("is", "are")
    return _SENTENCES[note].format(
        f"{count} {noun}{'' if count == 1 else 's'}", verbs[count > 1])


def changed_messages(messages, trained, text):
    """{(Note, number)} of the messages whose text is not in the rendered one."""
    return {(Note.MESSAGE_CHANGED, i) for i, message in enumerate(messages)
            if i not in trained and not (_is_rendered(message["content"], text) and all(
                call["function"]["name"] in text for call in message.get("tool_calls", ())))}


def _is_rendered(content, text):
    content = (content or "").strip()
    return (content in text or json.dumps(content, ensure_ascii=False)[1:-1] in text
            or any(tail and tail in text for _, tail in tails(content)))
