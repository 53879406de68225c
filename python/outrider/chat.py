"""A model's tokenizer and chat template: conversations to tokens and their loss mask."""

import hashlib
import json
from bisect import bisect_left
from pathlib import Path

from .conversations import Problem
from .template import Template
from .tool import Code, ToolError, printable

_HINT = "the folder needs tokenizer.json, tokenizer_config.json and a chat template"


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


class Chat:
    def __init__(self, folder, day=None):
        """Loads from local files alone and never runs code that comes with the model.

        `day`: the date that templates are told."""
        self.folder = Path(folder)
        self.tokenizer = load_tokenizer(self.folder)
        if not self.tokenizer.chat_template:
            raise ToolError(
                Code.INVALID_DATA, f"{folder}: the tokenizer has no chat template", _HINT)
        self.vocab_size = self._vocab_size()
        self._special = {i: token.content for i, token in
                         sorted(self.tokenizer.added_tokens_decoder.items()) if token.special}
        self.template = Template(self.tokenizer, self._special.values(), day)

    def description(self):
        template = self.tokenizer.chat_template
        if not isinstance(template, str):  # several, by name
            template = json.dumps(template, sort_keys=True)
        return {
            "tokenizer_sha256": self._file_sha256("tokenizer.json"),
            "chat_template_sha256": _sha256(template.encode()),
            "special_token_ids": list(self._special)}

    def identity(self):
        """What decides the tokens of a conversation, for runs that are continued."""
        import tokenizers
        import transformers

        return {
            **self.description(), "vocab_size": self.vocab_size,
            "tokenizer_config_sha256": self._file_sha256("tokenizer_config.json"),
            "transformers": transformers.__version__, "tokenizers": tokenizers.__version__}

    def tokenize(self, conversation, max_length):
        """(ids, mask): mask[t] = 1 where the assistant wrote token t, its end-of-turn token
        included. At most `max_length` tokens. Raises Problem."""
        self._refuse_special_tokens(conversation)
        text, answers = self.template.render(conversation)
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = tokens["input_ids"]
        mask = bytearray(len(ids))
        spans = _spans(tokens["offset_mapping"])
        for answer in answers:
            finished = conversation.finished or answer is not answers[-1]
            self._mark(mask, ids, spans, answer, finished)
        ids, mask = ids[:max_length], bytes(mask[:max_length])
        if ids and max(ids) >= self.vocab_size:
            raise Problem(f"token id {max(ids)} is outside the model's vocabulary of "
                          f"{self.vocab_size}")
        return ids, mask

    def _mark(self, mask, ids, spans, answer, finished):
        stop = answer.stop if finished else answer.end
        # A token that reaches back into the prompt is one the assistant can never emit.
        start = bisect_left(spans, (answer.floor,))
        for t in range(start, bisect_left(spans, (stop,))):
            # White space at the end of an answer may belong to the special token behind it.
            if answer.begin < spans[t][1] and (
                    finished or spans[t][1] <= stop or ids[t] not in self._special):
                mask[t] = 1

    def _refuse_special_tokens(self, conversation):
        for text in conversation.texts():
            if special := self.template.special_token_in(text):
                i = next((i for i, message in enumerate(conversation.messages)
                          if special in json.dumps(message, ensure_ascii=False)), None)
                where = "a tool" if i is None else f"message {i + 1}"
                raise Problem(f"{where} contains the special token {printable(special)}")

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

    def _file_sha256(self, name):
        file = self.folder / name
        return _sha256(file.read_bytes()) if file.is_file() else None


def load_tokenizer(folder):
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise ToolError(Code.FILE_NOT_FOUND, f"{folder}: no such folder", _HINT)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False)
    except Exception as e:  # the library raises many types for a bad folder
        message = f"{folder}: no usable tokenizer: {printable(e, 400)}"
        raise ToolError(Code.INVALID_FILE, message, _HINT) from e
    if not tokenizer.is_fast:
        raise ToolError(
            Code.UNSUPPORTED, f"{folder}: the tokenizer reports no character offsets",
            "convert it to a tokenizer.json")
    return tokenizer


def _spans(offsets):
    """Half-open character ranges without gaps: byte-level tokenizers leave the space before a word
    out of its offsets, and give each token of a split character the whole character."""
    spans, position = [], 0
    for begin, end in offsets:
        spans.append((min(position, begin), end))
        position = max(position, end)
    return spans
