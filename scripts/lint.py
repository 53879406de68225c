"""Runs clang-tidy over what is compiled from core, host and the plugins: lint.py BUILD_FOLDER."""

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("core", "host", "plugins")


def units(build):
    """The files to compile; several sources are one (unity builds), so that headers are read once."""
    listed = json.loads((build / "compile_commands.json").read_text())
    files = {Path(entry["file"]) for entry in listed}
    places = [base / part for base in (ROOT, build) for part in PARTS]
    return sorted(file for file in files if file.suffix in (".cpp", ".cxx") and not file.name.endswith("_stamp.cpp")
                  and any(file.is_relative_to(place) for place in places))


def lint(build, file):
    run = subprocess.run([Path(sys.executable).parent / "clang-tidy", "-p", build, "--quiet", file],
                         capture_output=True, text=True)
    print(run.stdout, end="", flush=True)
    if run.returncode and not run.stdout:
        print(run.stderr, file=sys.stderr)
    return run.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    files = units(build)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        failed = list(pool.map(lambda file: lint(build, file), files)).count(False)
    if failed:
        sys.exit(f"lint: {failed} of {len(files)} units have findings")
    print(f"lint: {len(files)} units are clean")


if __name__ == "__main__":
    main()
