"""Starts the reference: both of its releases, in environments of their own."""

import json
import os
import subprocess

from conftest import ROOT

PEERS = {"0.47": ROOT / ".venv-peers/bin/python", "0.42": ROOT / ".venv-peers-0.42/bin/python"}


def _start(numerics, cases, out):
    assert PEERS[numerics].exists(), "ModelOpt is missing: run scripts/setup.sh --peers"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (out / f"{numerics}.log").open("w") as log:
        peer = subprocess.Popen([PEERS[numerics], ROOT / "tests/e2e/live_peer.py"], text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                env=environment)
    peer.stdin.write(json.dumps({"out": str(out), "cases": [case.as_dict() for case in cases]}))
    peer.stdin.close()
    return peer


def run_reference(cases, out):
    """Fills out/NAME for each case; returns name → what went wrong there, or None."""
    peers = {numerics: _start(numerics, [c for c in cases if c.numerics == numerics], out)
             for numerics in sorted({case.numerics for case in cases})}
    errors = {}
    for numerics, peer in peers.items():
        printed = peer.stdout.read()
        assert peer.wait(timeout=1800) == 0, (out / f"{numerics}.log").read_text()[-3000:]
        errors |= json.loads(printed.splitlines()[-1])
    return errors
