"""What is wrong with files of conversations, told at once."""

import sys

from .notes import Note, sentence
from .tool import Code, ToolError, printable

LIMIT = 20  # problems that are named
_MOST_KEYS = 100  # that are counted by name
_OTHER_KEYS = "others"


class Findings:
    """Counts of lines that are not trained on, and the first problems by name."""

    def __init__(self, skip_invalid, counts=None):
        """`counts`: what counts() gave when a run was interrupted."""
        self._skip_invalid = skip_invalid
        self._counts = counts or {
            "untrained": 0, "invalid": 0, "masked_wrong": 0, "problems": [], "hints": [],
            "wrong_masks": [], "has_tools": False, "file": {"lines": 0, "invalid": 0},
            "notes": {}, "unread": {}}

    def counts(self):
        return self._counts

    def noted(self):
        """What was counted beside the lines, for reports and descriptions."""
        return {"unread_keys": self._counts["unread"], **self._counts["notes"]}

    def begin_file(self):
        self._counts["file"] = {"lines": 0, "invalid": 0}

    def take(self, source, line):
        """The samples of a Tokenized line of a Source that are to be trained on."""
        counts, where = self._counts, source.where(line.number)
        counts["file"]["lines"] += 1
        if line.problem is not None:
            self._take_problem(where, line)
            return []
        counts["has_tools"] |= line.has_tools
        for note in line.notes:
            counts["notes"][note] = counts["notes"].get(note, 0) + 1
        self._count_keys(line.unread)
        return [(ids, mask) for ids, mask in line.samples if self._is_usable(where, mask)]

    def _take_problem(self, where, line):
        self._counts["file"]["invalid"] += 1
        self._note("invalid", "problems", f"{where}: {line.problem}")
        if line.hint and line.hint not in self._counts["hints"] and len(self._counts["hints"]) < 3:
            self._counts["hints"].append(line.hint)

    def _count_keys(self, keys):
        unread = self._counts["unread"]
        for key in keys:
            key = printable(key, 60)
            if key not in unread and len(unread) >= _MOST_KEYS:
                key = _OTHER_KEYS
            unread[key] = unread.get(key, 0) + 1

    def _is_usable(self, where, mask):
        if mask and 0 not in mask:
            self._note("masked_wrong", "wrong_masks", f"{where} ({len(mask)} tokens)")
        elif 1 not in mask:
            self._counts["untrained"] += 1
        else:
            return True
        return False

    def are_hopeless(self):
        return (self._counts["masked_wrong"] >= LIMIT
                or self._counts["invalid"] >= LIMIT and not self._skip_invalid)

    def end_file(self, source):
        """Raises an error for a file that holds something else than conversations."""
        lines, invalid = self._counts["file"]["lines"], self._counts["file"]["invalid"]
        if lines == 0:
            raise ToolError(
                Code.INVALID_DATA, f"{source.path}: holds no conversation, only blank lines"
                if source.size else f"{source.path}: is empty",
                "each line is one conversation as a JSON object")
        if self._skip_invalid and 2 * invalid > lines:
            raise ToolError(
                Code.INVALID_DATA,
                f"{source.path}: {invalid} of {lines} conversations are invalid, which is no "
                "matter of leaving some out:\n" + self._listing("invalid", "problems"),
                "; ".join([*self._counts["hints"], "correct the file; docs/data.md lists the "
                           "accepted forms"]))

    def check(self, trained):
        """Raises the error that the findings amount to; `trained`: how many conversations are
        left."""
        counts = self._counts
        if counts["problems"] and not self._skip_invalid:
            raise ToolError(
                Code.INVALID_DATA,
                "lines that are no usable conversations:\n" + self._listing("invalid", "problems"),
                "; ".join([*counts["hints"],
                           "correct them, or leave them out with --skip-invalid"]))
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

    def tell(self, template):
        """Notes on what the conversations hold and the tokens do not, and the other way round."""
        notes = [sentence(Note(note), count) for note, count in self._counts["notes"].items()]
        if self._counts["has_tools"] and template.ignores_tools():
            notes.append("the chat template ignores the conversations' tools; they are not in the "
                         "tokens")
        if unread := self._counts["unread"]:
            counts = ", ".join(f"{key} ({count})" for key, count in sorted(unread.items()))
            notes.append(f"keys that are not read: {counts}")
        for note in notes:
            print(f"note: {note}", file=sys.stderr)

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

