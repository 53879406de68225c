"""A model's tokenizer and chat template, and which tokens of a conversation its assistant wrote."""

import hashlib
import json
from pathlib import Path

from .conversations import Problem
from .tool import Code, ToolError, printable

_HINT = "the folder needs tokenizer.json, tokenizer_config.json and a chat template"


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


class Chat:
    def __init__(self, folder):
        """Loads from local files alone and never runs code that comes with the model."""
        from transformers import AutoTokenizer

        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ToolError(Code.FILE_NOT_FOUND, f"{folder}: no such folder", _HINT)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False)
        except Exception as e:  # the library raises many types for a bad folder
            message = f"{folder}: no usable tokenizer: {printable(e, 400)}"
            raise ToolError(Code.INVALID_FILE, message, _HINT) from e
        if not self.tokenizer.is_fast:
            raise ToolError(
                Code.UNSUPPORTED, f"{folder}: the tokenizer reports no character offsets",
                "convert it to a tokenizer.json")
        if not self.tokenizer.chat_template:
            raise ToolError(
                Code.INVALID_DATA, f"{folder}: the tokenizer has no chat template", _HINT)
        self.vocab_size = self._vocab_size()
        self._special = {i: token.content for i, token in
                         sorted(self.tokenizer.added_tokens_decoder.items()) if token.special}

    def description(self):
        file = self.folder / "tokenizer.json"
        template = self.tokenizer.chat_template
        if not isinstance(template, str):  # several, by name
            template = json.dumps(template, sort_keys=True)
        return {
            "tokenizer_sha256": _sha256(file.read_bytes()) if file.is_file() else None,
            "chat_template_sha256": _sha256(template.encode()),
            "special_token_ids": list(self._special)}

    def _vocab_size(self):
        """The model's where it is there: its embedding may have more rows than there are tokens."""
        file = self.folder / "config.json"
        if not file.is_file():
            return len(self.tokenizer)
        try:
            config = json.loads(file.read_bytes())
            size = config.get("text_config", config)["vocab_size"]
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as e:
            raise ToolError(Code.INVALID_FILE, f"{file}: no usable vocab_size") from e
        if type(size) is not int or size < 1:
            raise ToolError(Code.INVALID_FILE, f"{file}: vocab_size is {printable(size)}")
        return size

    def tokenize(self, conversation, max_length):
        """(ids, mask): mask[t] = 1 where the assistant wrote token t, its end-of-turn token
        included. At most `max_length` tokens. Raises Problem."""
        messages = conversation.messages
        self._refuse_special_tokens(messages)
        text = self._render(messages)
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = tokens["input_ids"]
        spans = _spans(tokens["offset_mapping"])
        mask = bytearray(len(ids))
        for prompt_end, begin, end, is_last in self._answers(messages, text):
            for t, (first, last) in enumerate(spans):
                # A token that reaches back into the prompt is one the assistant can never emit.
                if prompt_end <= first < end and begin < last:
                    mask[t] = 1
            if conversation.finished or not is_last:
                self._mark_end_of_turn(mask, text, end, ids, spans)
        return ids[:max_length], bytes(mask[:max_length])

    def _refuse_special_tokens(self, messages):
        for i, message in enumerate(messages):
            for text in self._special.values():
                if text in message["content"]:
                    raise Problem(f"message {i + 1} contains the special token {printable(text)}")

    def _render(self, messages, ask=False):
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=ask)
        except Exception as e:  # templates raise errors of their own
            raise Problem(f"the chat template refuses it: {printable(e)}") from e

    def _answers(self, messages, text):
        """(end of the prompt, begin and end of the content, is it the last) of each answer, as
        positions in the rendered text."""
        at = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        for i in at:
            prompt = self._render(messages[:i], ask=True)
            if not text.startswith(prompt):
                raise Problem(
                    f"the chat template renders the turns before message {i + 1} differently once "
                    "it is there, so the answer cannot be located")
            content = messages[i]["content"]
            if content not in text[len(prompt):]:
                content = content.strip()
            begin = text.find(content, len(prompt))
            between = text[len(prompt):max(begin, 0)]
            if begin < 0 or any(special in between for special in self._special.values()):
                raise Problem(f"the chat template changes the text of message {i + 1}")
            yield len(prompt), begin, begin + len(content), i == at[-1]

    def _mark_end_of_turn(self, mask, text, end, ids, spans):
        """Marks the special token that closes an answer ending at `end`, if one does."""
        for t, (_, last) in enumerate(spans):
            if last > end and ids[t] in self._special:
                mask[t] = text[end:last].strip() == self._special[ids[t]]
                return


def _spans(offsets):
    """Half-open character ranges without gaps: byte-level tokenizers leave the space before a word
    out of its offsets, and give each token of a split character the whole character."""
    spans, position = [], 0
    for begin, end in offsets:
        spans.append((min(position, begin), end))
        position = max(position, end)
    return spans
