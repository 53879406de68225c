"""Texts that hold the name of a special token, which must not act as one.

While a conversation is rendered, a character that occurs nowhere else stands for each such name, so
that it cannot be confused with the template's own special tokens. The rendered text is tokenized by
a copy of the tokenizer in which the special tokens are called something else."""

import json
import re
from bisect import bisect_right

from .problem import Problem
from .tool import printable
from .tool_calls import CallArguments

PRIVATE_USE = range(0xE000, 0xF900)
_RENAMED = "\U0010fffd"


def strings(value):
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        if isinstance(value, CallArguments):
            yield value.as_text()
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


class Literals:
    """Names of special tokens that are plain text in one conversation."""

    def __init__(self, names, texts):
        used = set().union(*texts)
        free = (c for c in map(chr, PRIVATE_USE) if c not in used)
        self.characters = dict(zip(names, free))
        self.names = {c: name for name, c in self.characters.items()}
        self._pattern = re.compile("|".join(
            re.escape(name) for name in sorted(names, key=len, reverse=True)))

    def hide(self, value):
        """A JSON value with a character for each name."""
        if isinstance(value, str):
            return self._pattern.sub(lambda found: self.characters[found.group()], value)
        if isinstance(value, CallArguments):
            return value.mapped(self.hide)
        if isinstance(value, dict):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        return [self.hide(item) for item in value] if isinstance(value, list) else value

    def show(self, text):
        return text.translate({ord(c): name for c, name in self.names.items()})


class LiteralTokenizer:
    """The same tokens, but special ones only for their new names."""

    def __init__(self, tokenizer, specials):
        """`specials`: id → text of the special tokens."""
        from tokenizers import Tokenizer

        self._renamed = {text: f"{_RENAMED}{i}{_RENAMED}" for i, text in specials.items()}
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        self._rename(content)
        try:
            self._backend = Tokenizer.from_str(json.dumps(content))
        except Exception as e:  # the library raises Exception itself
            raise Problem("this tokenizer cannot take the text of a special token as text: "
                          f"{printable(e)}") from e
        self._backend.no_truncation()
        self._backend.no_padding()
        if any(self._backend.token_to_id(self._renamed[text]) != i for i, text in specials.items()):
            raise Problem("this tokenizer cannot take the text of a special token as text")

    def _rename(self, content):
        for token in content["added_tokens"]:
            token["content"] = self._renamed.get(token["content"], token["content"])
        model = content["model"]
        new_name = lambda token: self._renamed.get(token, token)
        if isinstance(model["vocab"], dict):
            model["vocab"] = {new_name(token): i for token, i in model["vocab"].items()}
        else:
            model["vocab"] = [[new_name(token), score] for token, score in model["vocab"]]
        if isinstance(model.get("unk_token"), str):
            model["unk_token"] = new_name(model["unk_token"])

    def encode(self, text, literals):
        """(ids, offsets, Positions) of a text with hidden names; the offsets are those of the text
        that was tokenized, Positions lead there."""
        if _RENAMED in text:
            raise Problem("holds the character U+10FFFD beside the text of a special token")
        new = {**literals.names, **self._renamed}
        pattern = "|".join(re.escape(old) for old in sorted(new, key=len, reverse=True))
        pieces, positions, end = [], Positions(), 0
        for found in re.finditer(pattern, text):
            pieces += [text[end:found.start()], new[found.group()]]
            positions.add(found.start(), found.end(), len(pieces[-1]))
            end = found.end()
        encoded = self._backend.encode("".join([*pieces, text[end:]]), add_special_tokens=False)
        return encoded.ids, encoded.offsets, positions


class Positions:
    """Leads from positions in one text to those in another, of which some pieces differ."""

    def __init__(self):
        self._begins, self._pieces = [], []

    def add(self, begin, end, length):
        """The piece begin:end became one of `length` characters, at least two."""
        begins_at = self(begin)
        self._begins.append(begin)
        self._pieces.append((end, begins_at, begins_at + length))

    def __call__(self, position):
        i = bisect_right(self._begins, position) - 1
        if i < 0:
            return position
        end, new_begin, new_end = self._pieces[i]
        if position >= end:
            return new_end + position - end
        return new_begin + (position > self._begins[i])  # inside stays inside
