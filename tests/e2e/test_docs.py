"""Generated pages are up to date, and runnable blocks of the documentation run.

A fenced block tagged `console run` is executed line by line ("$ " marks a command, a trailing backslash
continues it) in a folder of its own that holds BASE, a tiny model with a tokenizer, SmolLM2, MODELOPT, a checkpoint of
ModelOpt's, with its MODELOPT_BASE, chats.jsonl, mt_bench.jsonl and the plugin tiny.outrider.so. The blocks of one page
share the folder."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import REFERENCE, ROOT, TEST_PLUGINS

sys.path.insert(0, str(ROOT / "scripts"))
import generate_docs  # noqa: E402

UPDATE = "run: python scripts/generate_docs.py build/bin/outrider"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_page_of_errors_is_up_to_date():
    assert (ROOT / "docs/errors.md").read_text() == generate_docs.errors_page(), UPDATE


def test_the_page_of_errors_names_every_code():
    codes = re.findall(r"k(\w+) = (\d+)", generate_docs.HEADER.read_text())
    page = generate_docs.errors_page()
    assert len(codes) > 30
    assert [code for code in codes if f"| {code[1]} | `{code[0]}` |" not in page] == []


def test_the_page_of_the_program_is_up_to_date(program):
    assert (ROOT / "docs/cli.md").read_text() == generate_docs.cli_page(program), UPDATE


def public_headers():
    return "".join(path.read_text() for folder in ("core", "host", "sdk", "plugins")
                   for path in sorted((ROOT / folder).rglob("include/**/*.h")))


def names_in(code):
    """Types, functions and namespaces that are named in C++: words before ( and on either side of ::"""
    code = re.sub(r'"[^"]*"', '""', code)
    return {word for pair in re.findall(r"\b([A-Za-z_]\w*)(?=\(|::)|(?<=::)([A-Za-z_]\w*)", code)
            for word in pair if word}


def test_the_page_for_users_of_modelopt_names_what_there_is():
    page, headers = (ROOT / "docs/coming_from_modelopt.md").read_text(), public_headers()
    [block] = re.findall(r"^```cpp\n(.*?)^```", page, re.M | re.S)
    for include in re.findall(r'#include "(.*?)"', block):
        assert list(ROOT.glob(f"*/include/{include}")) or list(ROOT.glob(f"plugins/*/include/{include}"))
    names = names_in(block) - {"walk", "for"}
    table = page[page.index("C++ (namespace"):page.index("| step of")]
    for row in table.splitlines()[1:]:
        for code in re.findall(r"`([^`]+)`", row.rsplit("|", 2)[1] if row.startswith("|") else ""):
            names |= names_in(code) or {code}
    assert len(names) > 25
    assert {name for name in names if not re.search(rf"\b{name}\b", headers)} <= {"outrider"}


def runnable(page):
    """The commands of a page's `console run` blocks, in order."""
    commands = []
    for block in re.findall(r"^```console run\n(.*?)^```", page.read_text(), re.M | re.S):
        for line in block.replace("\\\n", "").splitlines():
            if line.startswith("$ "):
                commands.append(line[2:])
    return commands


def test_some_page_has_runnable_commands():
    assert any(runnable(page) for page in PAGES)


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)],
                         ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run(page, program, tiny, model, examples, tmp_path):
    (tmp_path / "BASE").symlink_to(tiny())
    (tmp_path / "SmolLM2").symlink_to(model)
    (tmp_path / "MODELOPT").symlink_to(ROOT / "tests/fixtures/modelopt/medusa_h2_l1")
    (tmp_path / "MODELOPT_BASE").symlink_to(REFERENCE / "medusa_h2_l1/base")
    shutil.copy(examples / "smollm2_self.jsonl", tmp_path / "chats.jsonl")
    shutil.copy(ROOT / "examples/prompts/mt_bench.jsonl", tmp_path)
    shutil.copy(TEST_PLUGINS / "tiny.outrider.so", tmp_path)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}",
                   "XDG_DATA_HOME": str(tmp_path / "data")}
    for command in runnable(page):
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, text=True,
                              capture_output=True, timeout=1800, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
