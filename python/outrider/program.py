"""The command `outrider` of an installed wheel: becomes the program that lies in it."""

import os
import sys
from pathlib import Path


def main() -> None:
    program = Path(__file__).resolve().parent / "native/bin/outrider"
    if not program.is_file():
        sys.exit(f"outrider: {program} is missing: install the wheel again, or in a source tree run "
                 "build/bin/outrider")
    os.environ.setdefault("OUTRIDER_PYTHON", sys.executable)  # of the text tools
    os.execv(program, [str(program), *sys.argv[1:]])


if __name__ == "__main__":
    main()
