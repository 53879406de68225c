"""The dependency rule and the rules for public headers, read from the include lines."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (".h", ".inc", ".cpp", ".cu", ".cuh")

# Each part, and the include prefixes that belong to parts it must not see.
FORBIDDEN = {
    "core": ("outrider/sdk/", "outrider/host/", "outrider/eagle/", "outrider/medusa/", "cli/", "trainer/"),
    "sdk": ("outrider/host/", "outrider/eagle/", "outrider/medusa/"),
    "host": ("outrider/eagle/", "outrider/medusa/"),
    "plugins/eagle": ("outrider/host/", "outrider/medusa/"),
    "plugins/medusa": ("outrider/host/", "outrider/eagle/"),
}


def sources(folder):
    return [p for p in (ROOT / folder).rglob("*") if p.suffix in SOURCES]


def includes(path):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("part", FORBIDDEN)
def test_includes_follow_the_ladder(part):
    files = sources(part)
    assert files
    wrong = [f"{path.relative_to(ROOT)} includes {name}" for path in files for name in includes(path)
             if name.startswith(FORBIDDEN[part]) or "tests/" in name]
    assert not wrong, "\n".join(wrong)


def public_headers():
    folders = [*ROOT.glob("*/include"), *ROOT.glob("plugins/*/include")]
    return [p for folder in folders for p in folder.rglob("*") if p.suffix in SOURCES]


def test_public_headers_are_short():
    headers = public_headers()
    assert len(headers) > 30
    long = [f"{p.relative_to(ROOT)}: {n} lines" for p in headers
            if (n := len(p.read_text().splitlines())) > 150]
    assert not long, "\n".join(long)


def test_nobody_includes_all_of_torch():
    files = [p for part in (*FORBIDDEN, "tests") for p in sources(part)]
    wrong = [str(p.relative_to(ROOT)) for p in files if "torch/torch.h" in includes(p)]
    assert not wrong, "\n".join(wrong)


def test_kernels_know_nothing_of_torch():
    files = [p for part in FORBIDDEN for p in sources(part) if p.suffix in (".cu", ".cuh")]
    assert files
    wrong = [f"{p.relative_to(ROOT)} includes {name}" for p in files for name in includes(p)
             if re.match(r"(torch|ATen|c10)/", name)]
    assert not wrong, "\n".join(wrong)
