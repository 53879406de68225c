"""The package as it is built: OUTRIDER_PROGRAM names the program, build/python holds the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("OUTRIDER_PROGRAM", ROOT / "build/bin/outrider"))
TEST_PLUGINS = Path(os.environ.get("OUTRIDER_TEST_PLUGINS",
                                   ROOT / "build/tests/host/plugins/built"))
PACKAGE = PROGRAM.parents[1] / "python"
sys.path.insert(0, str(PACKAGE))
sys.path.append(str(ROOT / "tests/e2e"))  # runs.py
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"


@pytest.fixture(scope="session")
def outrider():
    """outrider(*arguments, status=0): runs the program; returns what it printed."""

    def run(*arguments, status=0):
        done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True,
                              timeout=600, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def python():
    """python(*arguments, **environment): a fresh interpreter with the package; what it printed."""

    def run(*arguments, **environment):
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=600,
            check=False, cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONPATH": str(PACKAGE), "OMP_NUM_THREADS": "1", **environment})
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def checkpointing():
    import outrider.opt as mto

    mto.enable_huggingface_checkpointing()
    yield
    mto.disable_huggingface_checkpointing()
