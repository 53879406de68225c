"""The dependency rule and the rules for public headers, read from the include lines."""

import re
import subprocess
import sys
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
    "python/bindings": ("outrider/eagle/", "outrider/medusa/", "trainer/", "checkpoint/", "plugins/"),
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


def test_only_the_bindings_know_python():
    wrong = [str(p.relative_to(ROOT)) for part in FORBIDDEN if part != "python/bindings"
             for p in sources(part) if any("pybind" in name or name == "Python.h"
                                           for name in includes(p))]
    assert not wrong, "\n".join(wrong)


def test_kernels_know_nothing_of_torch():
    files = [p for part in FORBIDDEN for p in sources(part) if p.suffix in (".cu", ".cuh")]
    assert files
    wrong = [f"{p.relative_to(ROOT)} includes {name}" for p in files for name in includes(p)
             if re.match(r"(torch|ATen|c10)/", name)]
    assert not wrong, "\n".join(wrong)


def test_sources_are_formatted():
    run = subprocess.run([sys.executable, ROOT / "scripts/format.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def room_of(path, folder):
    """The first folder below `folder`; "" for what lies in it directly."""
    parts = path.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else ""


# Core's rooms from the ground up. What lies in none (error, text, version) is below all of them.
CORE = ("files", "config", "checkpoint", "kernels", "ops", "nn", "model", "loss", "decode")


def core_includes():
    for folder in (ROOT / "core/include/outrider", ROOT / "core/src"):
        for path in sources(folder.relative_to(ROOT)):
            for name in includes(path):
                target = name.removeprefix("outrider/").split("/")
                if len(target) > 1 and (target[0] in CORE or name.startswith("outrider/")):
                    yield path, room_of(path, folder), target[0]


def test_core_is_a_ladder():
    rank = {room: i for i, room in enumerate(("", *CORE))}
    arrows = list(core_includes())
    assert len(arrows) > 40
    wrong = [f"{path.relative_to(ROOT)} ({room}) includes something of {target}" for path, room, target in arrows
             if rank[target] > rank[room]]
    assert not wrong, "\n".join(wrong)


# Host's rooms, each with those that it may include. Public headers belong to the room of their source.
HOST = {
    "": set(),
    "machine": set(),
    "distributed": {"", "machine"},
    "report": set(),
    "plugins": {"", "machine"},
    "convert": {"plugins", "machine"},
    "checkpoint": {"", "machine", "distributed", "plugins", "convert"},
    "data": {"", "machine", "plugins", "convert", "checkpoint"},
    "formats": {"machine", "plugins", "convert", "checkpoint"},
    "generate": {"", "machine", "report", "convert", "checkpoint"},
    "verify": {"", "machine", "plugins", "convert", "checkpoint", "data", "formats", "generate"},
    "trainer": {"", "machine", "plugins", "convert", "checkpoint", "data", "generate", "report", "distributed",
                "verify"},
    "diagnosis": {"machine", "checkpoint", "data", "generate", "report", "verify", "trainer"},
    "plan": {"", "machine", "plugins", "convert", "checkpoint", "data", "trainer"},
    "bench": {"", "machine", "plugins", "convert", "data", "generate", "trainer", "plan"},
    "check": {"", "machine", "plugins", "convert", "checkpoint", "data", "formats", "trainer", "generate", "verify"},
}
HOST["cli"] = set(HOST)


def host_rooms():
    rooms = {}
    for path in sources("host/src"):
        relative = path.relative_to(ROOT / "host/src")
        rooms[str(relative)] = room_of(path, ROOT / "host/src")
        public = ROOT / "host/include/outrider/host" / f"{path.stem}.h"
        if path.suffix == ".cpp" and public.exists():
            rooms[f"outrider/host/{public.name}"] = rooms[str(relative)]
    return rooms


def test_host_rooms_see_only_those_below():
    rooms = host_rooms()
    public = [f"outrider/host/{p.name}" for p in sources("host/include")]
    assert set(public) <= set(rooms), "public headers without a source of their name"
    wrong = []
    for path in sources("host/src") + sources("host/include"):
        name = str(path.relative_to(ROOT / ("host/src" if path.is_relative_to(ROOT / "host/src") else "host/include")))
        for included in includes(path):
            beside = str(Path(name).parent / included)
            target = rooms.get(included, rooms.get(beside))
            if target is not None and target != rooms[name] and target not in HOST[rooms[name]]:
                wrong.append(f"{name} ({rooms[name] or 'host'}) includes {included} ({target or 'host'})")
    assert not wrong, "\n".join(wrong)


ALGORITHM = re.compile(r"eagle|medusa", re.IGNORECASE)


def names_of_algorithms(text):
    """Where code, not prose, names one: comments and examples of commands may."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r'"\s*\n\s*"', "", text)
    examples = re.compile(r'"[^"\n]*(?:outrider |--set )(?:\\.|[^"\\\n])*"')
    return [line.strip() for line in examples.sub('""', text).splitlines() if ALGORITHM.search(line)]


def test_only_plugins_know_their_algorithms():
    assert names_of_algorithms('if (mode == "eagle") // eagle\n') == ['if (mode == "eagle")']
    assert not names_of_algorithms('"convert first: "\n   "outrider convert BASE --mode eagle"')
    parts = ("core", "sdk/include", "host", "python/bindings")
    found = [f"{path.relative_to(ROOT)}: {line}" for part in parts for path in sources(part)
             for line in names_of_algorithms(path.read_text())]
    assert not found, "\n".join(found)
