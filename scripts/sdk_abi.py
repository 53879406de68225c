#!/usr/bin/env python3
"""Hold the headers that plugins are compiled with to their ABI number.

sdk/abi.json describes the headers of the last release: their ABI number, and a hash of each header's
code without comments and layout. Once a header's code differs from it, kSdkAbi must be one higher:
plugins of the release must not load any more. One step is enough until the next release, for which
`write` makes a new description.

usage: sdk_abi.py check | write   [--root FOLDER]
example: python3 scripts/sdk_abi.py check
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

FOLDERS = ("core/include", "sdk/include")
SUFFIXES = (".h", ".cuh", ".inc")
STAMP = "sdk/include/outrider/sdk/stamp.h"
SNAPSHOT = "sdk/abi.json"
NUMBER = re.compile(r"(\bkSdkAbi\s*=\s*)(\d+)")
# A comment, or a text in which nothing is one.
TOKEN = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL)
LONGEST_DIFF = 200


def code_of(text):
    """The text without comments, layout and the ABI number itself."""
    text = TOKEN.sub(lambda match: " " if match[0].startswith("/") else match[0], text)
    lines = (line.strip() for line in text.splitlines())
    # Only to the preprocessor a line is more than a blank.
    text = " ".join(f"\n{line}\n" if line.startswith("#") else line for line in lines)
    text = re.sub(r"[^\S\n]*([^\w\s])[^\S\n]*", r"\1", text)
    text = re.sub(r"\s*\n\s*", "\n", re.sub(r"[^\S\n]+", " ", text))
    return NUMBER.sub(r"\1N", text)


def headers(root):
    paths = [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.suffix in SUFFIXES]
    return {path.relative_to(root).as_posix(): hashlib.sha256(code_of(path.read_text()).encode()).hexdigest()
            for path in sorted(paths)}


def abi_number(root):
    found = NUMBER.search((root / STAMP).read_text())
    if found is None:
        sys.exit(f"{STAMP}: defines no kSdkAbi")
    return int(found[2])


def changes(before, now):
    names = {"changed": [name for name in now if name in before and now[name] != before[name]],
             "new": [name for name in now if name not in before],
             "gone": [name for name in before if name not in now]}
    return [(name, kind) for kind, found in names.items() for name in found]


def git(root, *arguments):
    """What git prints; nothing where there is no git or no repository."""
    try:
        result = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()


def diff(root, names):
    """The changes of these headers since the commit of the snapshot, where git knows it."""
    commit = git(root, "log", "-1", "--format=%H", "--", SNAPSHOT)
    lines = git(root, "diff", commit, "--", *names).splitlines() if commit else []
    cut = [f"({len(lines) - LONGEST_DIFF} more lines)"] if len(lines) > LONGEST_DIFF else []
    return [*lines[:LONGEST_DIFF], *cut]


def problem(root, snapshot):
    """Why the headers and the number do not fit the snapshot, or nothing."""
    released, number = snapshot["sdk_abi"], abi_number(root)
    changed = changes(snapshot["headers"], headers(root))
    if changed and number == released:
        listed = [f"  {name}: {kind}" for name, kind in changed]
        return "\n".join([
            f"the code of {len(changed)} public headers is not what SDK ABI {released} was released with:",
            *listed, *diff(root, [name for name, _ in changed]),
            f"Raise kSdkAbi in {STAMP} to {released + 1}, so that plugins built with the old headers are "
            f"refused. Once is enough until the next release: then `scripts/sdk_abi.py write` describes "
            f"the headers anew."])
    if number not in (released, released + 1):
        return (f"kSdkAbi is {number}; the last release had {released}, so {released} or {released + 1} is "
                f"expected")
    return None


def write(root):
    description = {"sdk_abi": abi_number(root), "headers": headers(root)}
    (root / SNAPSHOT).write_text(json.dumps(description, indent=2) + "\n")
    print(f"{SNAPSHOT}: SDK ABI {description['sdk_abi']}, {len(description['headers'])} headers")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("check", "write"))
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="of the sources")
    options = parser.parse_args()
    path = options.root / SNAPSHOT
    if options.action == "write" and not path.exists():
        return write(options.root)
    if found := problem(options.root, json.loads(path.read_text())):
        sys.exit(found)
    if options.action == "write":
        write(options.root)


if __name__ == "__main__":
    main()
