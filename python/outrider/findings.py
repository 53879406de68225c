"""What is wrong with files of conversations, told at once."""

import sys

from .tool import Code, ToolError

LIMIT = 20  # problems that are named


class Findings:
    """Counts of lines that are not trained on, and the first problems by name."""

    def __init__(self, skip_invalid, counts=None):
        """`counts`: what counts() gave when a run was interrupted."""
        self._skip_invalid = skip_invalid
        self._counts = counts or {"untrained": 0, "invalid": 0, "masked_wrong": 0, "problems": [],
                                  "wrong_masks": [], "has_tools": False}

    def counts(self):
        return self._counts

    def take(self, path, line):
        """Whether a Tokenized line of the file `path` is one to train on."""
        counts, where = self._counts, f"{path}:{line.number}"
        counts["has_tools"] |= line.has_tools
        if line.problem is not None:
            self._note("invalid", "problems", f"{where}: {line.problem}")
        elif line.mask and 0 not in line.mask:
            self._note("masked_wrong", "wrong_masks", f"{where} ({len(line.mask)} tokens)")
        elif 1 not in line.mask:
            counts["untrained"] += 1
        else:
            return True
        return False

    def are_hopeless(self):
        return (self._counts["masked_wrong"] >= LIMIT
                or self._counts["invalid"] >= LIMIT and not self._skip_invalid)

    def check(self, trained):
        """Raises the error that the findings amount to; `trained`: how many conversations are
        left."""
        counts = self._counts
        if counts["problems"] and not self._skip_invalid:
            raise ToolError(
                Code.INVALID_DATA,
                "lines that are no usable conversations:\n" + self._listing("invalid", "problems"),
                "correct them, or leave them out with --skip-invalid")
        if counts["wrong_masks"]:
            raise ToolError(
                Code.INVALID_DATA,
                f"every token of {counts['masked_wrong']} conversations would be trained on, the "
                "prompts too:\n" + self._listing("masked_wrong", "wrong_masks"),
                "the chat template renders no prompt, or its {% generation %} blocks hold it: "
                "correct the model folder's chat_template.jinja")
        if not trained:
            raise ToolError(
                Code.INVALID_DATA,
                "no token would be trained on: no conversation with one is left "
                f"({counts['untrained']} without one, {counts['invalid']} invalid)",
                "conversations need an answer of the assistant that begins before --max-length")
        if counts["problems"]:
            print("skipped invalid lines:\n" + self._listing("invalid", "problems"),
                  file=sys.stderr)

    def note_ignored_tools(self, template):
        if self._counts["has_tools"] and template.ignores_tools():
            print("note: the chat template ignores the conversations' tools; they are not in the "
                  "tokens", file=sys.stderr)

    def _note(self, count, names, problem):
        self._counts[count] += 1
        if len(self._counts[names]) < LIMIT:
            self._counts[names].append(problem)

    def _listing(self, count, names):
        lines = ["  " + problem for problem in self._counts[names]]
        if self._counts[count] > len(lines):
            lines.append(f"  … and {self._counts[count] - len(lines)} more")
        elif self.are_hopeless():
            lines.append(f"  … stopped after {LIMIT}")
        return "\n".join(lines)


def check_not_empty(source, lines):
    if lines == 0:
        raise ToolError(
            Code.INVALID_DATA, f"{source.path}: holds no conversation, only blank lines"
            if source.size else f"{source.path}: is empty",
            "each line is one conversation as a JSON object")
