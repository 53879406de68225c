"""A model's tokenizer and chat template: conversations to tokens and their loss mask."""

import hashlib
import json
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from .literals import LiteralTokenizer
from .messages import reasoning_of
from .notes import Note
from .problem import Problem
from .reasoning import split, without
from .template import Context, Template
from .tool import Code, ToolError, printable

_HINT = "the folder needs tokenizer.json, tokenizer_config.json and a chat template"
_TEMPLATE_HINT = ("--chat-template FILE names one; that of an instruction-tuned model of the same "
                  "family is its chat_template.jinja, or `chat_template` in tokenizer_config.json")
_TEMPLATE_LIMIT = 1 << 20  # bytes


@dataclass(frozen=True)
class ChatOptions:
    """How conversations are rendered, and what of them is trained on."""

    template_file: Path | None = None  # instead of the model's chat template
    arguments: dict = field(default_factory=dict)  # variables of the template
    turns: str = "all"  # or "last", or "each": one sample for every answer
    reasoning: str = "keep"  # or "drop"

    def description(self):
        """What of it a description of shards must say, the template aside."""
        return {"turns": self.turns, "reasoning": self.reasoning, "template_args": self.arguments}


class Sample(NamedTuple):
    """mask[t] = 1 where the assistant wrote token t, its end-of-turn token included."""

    ids: list
    mask: bytes


def _sha256(data):
    return hashlib.sha256(data).hexdigest()


class Chat:
    def __init__(self, folder, day=None, options=ChatOptions()):
        """Loads from local files alone and never runs code that comes with the model.

        `day`: the date that templates are told."""
        self.folder, self.options = Path(folder), options
        self.tokenizer = load_tokenizer(self.folder)
        if options.template_file:
            self.tokenizer.chat_template = _read_template(options.template_file)
        if not self.tokenizer.chat_template:
            raise ToolError(
                Code.INVALID_DATA, f"{folder}: the tokenizer has no chat template", _TEMPLATE_HINT)
        self.vocab_size = self._vocab_size()
        self._special = {i: token.content for i, token in
                         sorted(self.tokenizer.added_tokens_decoder.items()) if token.special}
        self._literal_tokenizer = None
        self.template = Template(
            self.tokenizer, self._special.values(), day, options.arguments,
            options.template_file or self.folder)

    def description(self):
        template = self.tokenizer.chat_template
        if not isinstance(template, str):  # several, by name
            template = json.dumps(template, sort_keys=True)
        return {
            "tokenizer_sha256": self._file_sha256("tokenizer.json"),
            "chat_template_sha256": _sha256(template.encode()),
            "special_token_ids": list(self._special), **self.options.description()}

    def identity(self):
        """What decides the tokens of a conversation, for runs that are continued."""
        import tokenizers
        import transformers

        return {
            **self.description(), "vocab_size": self.vocab_size,
            "tokenizer_config_sha256": self._file_sha256("tokenizer_config.json"),
            "transformers": transformers.__version__, "tokenizers": tokenizers.__version__}

    def samples(self, conversation, max_length):
        """([Sample], {(Note, number of the message)}): one sample of the conversation, or with
        turns "each" one of each answer. At most `max_length` tokens each. Raises Problem."""
        notes, samples = set(), []
        if self.options.reasoning == "drop":
            conversation = _without_reasoning(conversation, notes)
        for count, trained in self._parts(conversation):
            if samples and 1 not in samples[-1].mask and len(samples[-1].mask) == max_length:
                samples.append(samples[-1])  # a longer history is cut at the same place
            else:
                sample, more = self._sample(conversation, count, trained, max_length)
                samples.append(sample)
                notes |= more
        return samples, notes

    def _parts(self, conversation):
        """(number of messages, those that are trained on) of each sample."""
        count = len(conversation.messages)
        trained = [i for i in range(count) if conversation.trained[i]]
        answers = [i for i in range(count) if conversation.messages[i]["role"] == "assistant"]
        if self.options.turns == "all" or not answers:
            return [(count, set(trained))]
        if self.options.turns == "last" or not trained:
            return [(answers[-1] + 1, set(trained) & {answers[-1]})]
        return [(i + 1, {i}) for i in trained]

    def _sample(self, conversation, count, trained, max_length):
        context = Context(conversation.tools, conversation.variables)
        rendered = self.template.render(conversation.messages[:count], context, trained)
        ids, offsets, positions = self._encode(rendered)
        mask, spans = bytearray(len(ids)), _spans(offsets)
        last = max((i for i, message in enumerate(conversation.messages)
                    if message["role"] == "assistant"), default=None)
        for answer in rendered.answers:
            finished = conversation.finished or answer.message != last
            self._mark(mask, ids, spans, answer.at(positions), finished)
        notes = rendered.notes | ({(Note.SPECIAL_TEXT, 0)} if rendered.literals else set())
        return self._cut(ids, mask, max_length), notes

    def _cut(self, ids, mask, max_length):
        ids, mask = ids[:max_length], bytes(mask[:max_length])
        if ids and max(ids) >= self.vocab_size:
            raise Problem(f"token id {max(ids)} is outside the model's vocabulary of "
                          f"{self.vocab_size}")
        return Sample(ids, mask)

    def _encode(self, rendered):
        """(ids, offsets, what leads from positions in the rendered text to those)."""
        if rendered.literals is None:
            tokens = self.tokenizer(
                rendered.text, add_special_tokens=False, return_offsets_mapping=True)
            return tokens["input_ids"], tokens["offset_mapping"], lambda position: position
        if self._literal_tokenizer is None:
            self._literal_tokenizer = LiteralTokenizer(self.tokenizer, self._special)
        return self._literal_tokenizer.encode(rendered.text, rendered.literals)

    def _mark(self, mask, ids, spans, answer, finished):
        stop = answer.stop if finished else answer.end
        # A token that reaches back into the prompt is one the assistant can never emit.
        start = bisect_left(spans, (answer.floor,))
        for t in range(start, bisect_left(spans, (stop,))):
            # White space at the end of an answer may belong to the special token behind it.
            if answer.begin < spans[t][1] and (
                    finished or spans[t][1] <= stop or ids[t] not in self._special):
                mask[t] = 1

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


def _without_reasoning(conversation, notes):
    messages = []
    for i, message in enumerate(conversation.messages):
        if message["role"] == "assistant":
            if reasoning_of(message) or split(message["content"] or "")[0]:
                notes.add((Note.REASONING_DROPPED, i))
            message = without(message, i + 1)
        messages.append(message)
    return replace(conversation, messages=messages)


def _read_template(path):
    """The text of a Jinja file, or the chat_template in a JSON file such as a tokenizer_config."""
    try:
        with open(path, "rb") as file:
            content = file.read(_TEMPLATE_LIMIT + 1)
        text = content.decode()
    except FileNotFoundError as e:
        raise ToolError(Code.FILE_NOT_FOUND, f"{path}: no such file") from e
    except OSError as e:
        raise ToolError(Code.FILE_UNREADABLE, f"{path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise ToolError(Code.INVALID_FILE, f"{path}: not UTF-8 at byte {e.start + 1}") from e
    if len(content) > _TEMPLATE_LIMIT:
        raise ToolError(Code.INVALID_FILE, f"{path}: longer than {_TEMPLATE_LIMIT >> 20} MiB")
    try:
        found = json.loads(text)["chat_template"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = text
    if not isinstance(found, str) or not found.strip():
        raise ToolError(Code.INVALID_FILE, f"{path}: holds no chat template", _TEMPLATE_HINT)
    return found


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
