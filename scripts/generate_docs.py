"""Writes docs/errors.md from error.h and docs/cli.md from the program's own help.

usage: generate_docs.py PROGRAM [--out FOLDER]"""

import argparse
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = ROOT / "core/include/outrider/error.h"

ERRORS_START = """# Errors

Every failure is one `outrider::Error`: a code, a message that names the thing, and a hint with the next step.
The program prints both on stderr and ends with the exit status of the code's class; results on stdout stay
empty (but verdicts and tables of `mode check`, `plugin check` and `plugin verify`), and `--out` stays as it was. This
page is written by `scripts/generate_docs.py` from `core/include/outrider/error.h`.
"""

CLI_START = """# The program

`outrider VERB …`; results go to stdout (`--json` prints them for programs), progress and errors to stderr.
[errors.md](errors.md) lists the exit statuses. This page is written by `scripts/generate_docs.py` from the
program's own help.
"""


def enumeration(text):
    return re.search(r"enum class ErrorCode[^{]*\{(.*?)\};", text, re.S).group(1)


def errors_page():
    sections, title = [ERRORS_START], []
    for line in enumeration(HEADER.read_text()).splitlines():
        line = line.strip()
        if line.startswith("//"):
            title.append(line.removeprefix("//").strip())
        elif found := re.match(r"k(\w+) = (\d+),", line):
            if title:
                heading, status = re.fullmatch(
                    r"(.*?)\. Exit status (\d+)\.", " ".join(title)).groups()
                sections.append(f"## Exit status {status}\n\n{heading}.\n\n"
                                "| Code | Name |\n|---|---|\n")
                title = []
            sections[-1] += f"| {found[2]} | `{found[1]}` |\n"
    return "\n".join(sections)


def help_of(program, verbs):
    environment = {**os.environ, "COLUMNS": "100"}
    return subprocess.run([program, *verbs, "--help"], capture_output=True, text=True,
                          env=environment, check=True).stdout.strip()


def verbs_in(text):
    """The names below a help text's "Subcommands:" heading."""
    listed = re.split(r"^Subcommands:\n", text, flags=re.M)[1:]
    block = listed[0].split("\n\n")[0] if listed else ""
    return re.findall(r"^  (\S+)", block, flags=re.M)


def cli_sections(program, verbs):
    text = help_of(program, verbs)
    heading = "#" * (2 + len(verbs) // 2)
    title = " ".join(["outrider", *verbs])
    yield f"{heading} {title}\n\n```\n{text}\n```\n"
    for verb in verbs_in(text):
        yield from cli_sections(program, [*verbs, verb])


def cli_page(program):
    return "\n".join([CLI_START, *cli_sections(program, [])])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    (arguments.out / "errors.md").write_text(errors_page())
    (arguments.out / "cli.md").write_text(cli_page(arguments.program))


if __name__ == "__main__":
    main()
