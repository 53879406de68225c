"""The folder that `outrider data prepare` writes: unfinished until shards.json is in it.

unfinished.json says what the finished shards were made of and where to go on, so that a run that
was interrupted or killed can continue and ends with the same bytes."""

import fcntl
import hashlib
import json
import os
import re
import time

from .tool import Code, ToolError, printable, write_atomically, writing

STATE = "unfinished.json"
FINISHED = "shards.json"
_OURS = re.compile(r"shard-\d{5,}\.safetensors|\.(shard-\d{5,}\.safetensors|.*\.json)\.tmp|"
                   + re.escape(STATE))
_LOCK_SECONDS = 10  # for a killed run's processes to end
_RESUMABLE = (Code.WRITE_FAILED, Code.TOOL_MISSING, Code.INTERRUPTED)


class OutputFolder:
    def __init__(self, path, resume):
        """Makes the folder; `state` is what an interrupted run left in it, or None."""
        self.path, self._made = path, not path.exists()
        self.state, self._begun = None, False
        if path.exists() and not path.is_dir():
            raise ToolError(Code.FILE_EXISTS, f"{path}: exists and is no folder",
                            "remove it, or choose another --out")
        if not path.absolute().parent.is_dir():
            raise ToolError(Code.FILE_NOT_FOUND, f"{path}: its parent folder does not exist")
        with writing(path):
            path.mkdir(exist_ok=True)
            self._lock()
        if any(path.iterdir()):
            self.state = self._unfinished_state(resume)

    def _lock(self):
        """One run at a time; the lock ends with the process and its workers."""
        descriptor = os.open(self.path, os.O_RDONLY)
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                if time.monotonic() > deadline:
                    raise ToolError(
                        Code.FILE_EXISTS, f"{self.path}: another `outrider data prepare` is "
                        "writing to it", "wait for it to end, or choose another --out") from e
                time.sleep(0.1)

    def _unfinished_state(self, resume):
        hint = "remove it, or choose another --out"
        if (self.path / FINISHED).exists():
            raise ToolError(
                Code.FILE_EXISTS, f"{self.path}: holds finished token shards", hint)
        if not (self.path / STATE).exists():
            raise ToolError(
                Code.FILE_EXISTS, f"{self.path}: exists and is not an empty folder", hint)
        if not resume:
            raise ToolError(
                Code.FILE_EXISTS, f"{self.path}: holds the shards of an interrupted run",
                "continue it with the same command and --resume, or remove the folder")
        return self._read_state()

    def _read_state(self):
        file = self.path / STATE
        try:
            state = json.loads(file.read_bytes())
            for i, shard in enumerate(state["shards"]):
                self._check_shard(i, shard)
            return state
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ToolError(
                Code.INVALID_FILE, f"{file}: not the state of an interrupted run: {printable(e)}",
                "remove the folder and start again without --resume") from e

    def _check_shard(self, i, shard):
        file = self.path / f"shard-{i:05d}.safetensors"
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != shard["sha256"]:
            raise ToolError(
                Code.INVALID_FILE,
                f"{file}: its SHA-256 is {found}, {STATE} says {printable(shard['sha256'], 64)}",
                "remove the folder and start again without --resume")

    def begin(self, identity):
        """Refuses to continue what was made of something else."""
        if self.state is not None:
            self._check_identity(identity)
            self._remove_ours({STATE, *(shard["file"] for shard in self.state["shards"])})
        self._begun = True

    def _check_identity(self, identity):
        before = self.state.get("identity", {})
        changed = [_difference(key, before.get(key), identity.get(key))
                   for key in sorted({*before, *identity}) if before.get(key) != identity.get(key)]
        if changed:
            raise ToolError(
                Code.INVALID_ARGUMENT,
                f"{self.path}: the interrupted run differs from this one:\n" + "\n".join(changed),
                "repeat its command, or remove the folder and start again without --resume")

    def save(self, state):
        self.state = state
        write_atomically(self.path / STATE, _json(state))

    def finish(self, description):
        write_atomically(self.path / FINISHED, _json(description))
        (self.path / STATE).unlink()

    def abandon(self, error):
        """Removes what was written, unless `error` leaves something to continue: raises one that
        says so."""
        if self.state is not None and not self._begun:
            return
        interrupted = isinstance(error, KeyboardInterrupt)
        code = Code.INTERRUPTED if interrupted else error.code
        shards = len(self.state["shards"]) if self.state else 0
        if shards and code in _RESUMABLE:
            raise ToolError(
                code, f"{'interrupted' if interrupted else error}; {self.path} holds {shards} "
                "finished shards", "continue with the same command and --resume") from error
        self._remove_ours(set())
        if self._made:
            self.path.rmdir()

    def _remove_ours(self, kept):
        for file in self.path.iterdir():
            if _OURS.fullmatch(file.name) and file.name not in kept:
                file.unlink()


def _json(value):
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _difference(key, before, now):
    return f"  {key}: was {printable(json.dumps(before))}, is {printable(json.dumps(now))}"
