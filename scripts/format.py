"""Formats every C++ and CUDA file; with --check only says which ones differ."""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = ("*.h", "*.inc", "*.cpp", "*.cu", "*.cuh")
# Placeholders of the plugin template as identifiers of the same width, so that lines break alike.
STAND_INS = {"@name@": "_name_", "@Name@": "_Name_"}


def sources():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", *PATTERNS],
                            cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def formatted(path, text):
    in_template = path.is_relative_to(ROOT / "sdk/template")
    if in_template:
        for placeholder, stand_in in STAND_INS.items():
            text = text.replace(placeholder, stand_in)
    result = subprocess.run([Path(sys.executable).parent / "clang-format", f"--assume-filename={path}"],
                            input=text, check=True, capture_output=True, text=True).stdout
    if in_template:
        for placeholder, stand_in in STAND_INS.items():
            result = result.replace(stand_in, placeholder)
    return result


def difference(path):
    """The file's text as it should be; nothing where it is that already."""
    text = path.read_text()
    wanted = formatted(path, text)
    return None if wanted == text else wanted


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    files = sources()
    with ThreadPoolExecutor() as pool:
        differing = [(path, text) for path, text in zip(files, pool.map(difference, files)) if text is not None]
    for path, text in differing:
        print(path.relative_to(ROOT))
        if not check:
            path.write_text(text)
    if check and differing:
        sys.exit(f"{len(differing)} of {len(files)} files are not formatted: make format")


if __name__ == "__main__":
    main()
