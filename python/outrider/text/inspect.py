"""Lengths and masks of conversations: what `outrider data inspect FILE.jsonl` runs."""

import argparse
import sys
from array import array
from collections import Counter

from .findings import Findings
from .pipeline import add_reading_options, chat_of, tokenized
from .show import shown
from .sources import Source
from .tool import offline, run, without_torch


class Inspection:
    """Counts conversations by (length, trained tokens) and shows some as text."""

    def __init__(self, options):
        self._options = options
        self._chat = chat_of(options)
        self._findings = Findings(options.skip_invalid)
        self._shapes, self._shown, self._number = Counter(), [], 0

    def read(self, source):
        self._findings.begin_file()
        for line in tokenized(self._chat, source, self._options):
            self._findings.take(source, line)
            if self._findings.are_hopeless():
                return
            for ids, mask in line.samples:
                self._take(source.where(line.number), ids, mask)
        self._findings.end_file(source)

    def result(self):
        trained = sum(count for (_, trained), count in self._shapes.items() if trained)
        self._findings.check(trained)
        self._findings.tell(self._chat.template)
        return {"shapes": [[*shape, count] for shape, count in sorted(self._shapes.items())],
                "invalid": self._findings.counts()["invalid"], "noted": self._findings.noted(),
                "shown": self._shown}

    def _take(self, where, ids, mask):
        self._shapes[len(mask), mask.count(1)] += 1
        begin = self._options.begin
        if begin <= self._number < begin + self._options.show:
            self._shown.append(shown(self._chat.tokenizer, where, list(array("i", ids)), mask))
        self._number += 1

    def is_hopeless(self):
        return self._findings.are_hopeless()


def inspect(options):
    offline()
    without_torch()
    sources = [Source(path) for path in options.files]
    inspection = Inspection(options)
    for source in sources:
        inspection.read(source)
        if inspection.is_hopeless():
            break
    return inspection.result()


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(prog="python -m outrider.text.inspect")
    add_reading_options(parser)
    parser.add_argument("--show", type=int, required=True)
    parser.add_argument("--from", type=int, required=True, dest="begin")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run(lambda: inspect(parse_arguments(sys.argv[1:]))))
