"""Installing plugins: `outrider plugin add`, `remove` and `verify`, and the store that they keep."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import REFERENCE, TEST_PLUGINS

TINY = TEST_PLUGINS / "tiny.outrider.so"
BASE = REFERENCE / "base_llama/base"
USAGE, FILES, PLUGIN = 2, 3, 5


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def other_bytes(path, out):
    """The same plugin with another word for the compiler in its .comment, which nothing reads."""
    content = path.read_bytes()
    assert content.count(b"\0GCC: (") > 0
    out.write_bytes(content.replace(b"\0GCC: (", b"\0gcc: ("))
    return out


def other_build(folder):
    """Other bytes of the tiny plugin, in a new folder that the gate for files trusts."""
    folder.mkdir(mode=0o755)
    file = other_bytes(TINY, folder / "tiny.outrider.so")
    file.chmod(0o644)
    return file


@pytest.fixture
def home(tmp_path):
    """Where the store goes: nobody else can write to it, whatever the umask."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def run(outrider, home):
    return lambda *arguments, **changes: outrider(*arguments, XDG_DATA_HOME=str(home), **changes)


def store_of(home):
    [lock] = home.rglob("plugins.lock.json")
    return lock.parent


def listed(run, name):
    return [p for p in run("plugin", "list", "--json").json() if p.get("name") == name]


def test_an_added_plugin_is_copied_locked_and_listed(run, home):
    added = run("plugin", "add", TINY, "--json").json()
    path = Path(added["path"])
    assert path == store_of(home) / f"tiny-0.1.0-{sha256(TINY)[:12]}.outrider.so"
    assert path.read_bytes() == TINY.read_bytes() and path.stat().st_mode & 0o777 == 0o644
    assert (added["name"], added["version"], added["modes"]) == ("tiny", "0.1.0", ["tiny"])
    assert added["sha256"] == sha256(TINY) and added["is_new"] is True and added["replaced"] == []
    lock = json.loads((path.parent / "plugins.lock.json").read_text())
    assert lock["plugins"] == [{"file": path.name, "name": "tiny", "version": "0.1.0",
                                "sha256": sha256(TINY)}]
    [plugin] = listed(run, "tiny")
    assert plugin["usable"] is True and plugin["path"] == str(path)


def test_the_table_tells_what_was_trusted(run):
    text = run("plugin", "add", TINY).stdout
    for row in (["plugin", "tiny"], ["version", "0.1.0"], ["modes", "tiny"],
                ["sha256", sha256(TINY)], ["status", "added"]):
        assert row in [line.split() for line in text.splitlines()]
    again = run("plugin", "add", TINY)
    assert "was there already" in again.stdout


def test_a_conversion_uses_a_plugin_of_the_store_and_finds_it_again(run, tmp_path, outrider):
    out = tmp_path / "converted"
    refused = outrider("convert", BASE, "--mode", "tiny", "--out", out, status=USAGE)
    assert "tiny" in refused.stderr
    run("plugin", "add", TINY)
    run("convert", BASE, "--mode", "tiny", "--out", out)
    [mode] = json.loads((out / "outrider_state.json").read_text())["modes"]
    assert mode["plugin"] == {"name": "tiny", "version": "0.1.0", "range": "^0.1",
                              "sha256": sha256(TINY)}
    [mode] = run("inspect", out, "--json").json()["modes"]
    assert mode["restored_by"]["is_the_writer"] is True
    run("plugin", "remove", "tiny")
    gone = run("export", out, "--out", tmp_path / "exported", status=PLUGIN)
    assert "no plugin 'tiny' in range ^0.1 is installed" in gone.stderr
    assert "`outrider plugin add FILE` installs one" in gone.stderr


def test_other_bytes_of_one_version_need_replace(run, home, tmp_path):
    run("plugin", "add", TINY)
    other = other_bytes(TINY, tmp_path / "other.so")
    refused = run("plugin", "add", other, status=PLUGIN)
    assert sha256(TINY) in refused.stderr and sha256(other) in refused.stderr
    assert "--replace" in refused.stderr and refused.stdout == ""
    added = run("plugin", "add", other, "--replace", "--json").json()
    assert added["replaced"] == [sha256(TINY)]
    [plugin] = listed(run, "tiny")
    assert plugin["sha256"] == sha256(other)
    assert len(list(store_of(home).glob("*.outrider.so"))) == 1


def test_only_the_expected_file_is_added(run, home):
    wrong = run("plugin", "add", TINY, "--sha256", "0" * 64, status=PLUGIN)
    assert sha256(TINY) in wrong.stderr and "0" * 64 in wrong.stderr
    assert "64 lower-case" in run("plugin", "add", TINY, "--sha256", "AB", status=USAGE).stderr
    assert list(home.iterdir()) == []
    run("plugin", "add", TINY, "--sha256", sha256(TINY))


def test_what_is_no_plugin_is_refused_and_nothing_is_written(run, home, tmp_path):
    text = tmp_path / "text.so"
    text.write_text("no library")
    assert "not a shared library" in run("plugin", "add", text, status=PLUGIN).stderr
    missing = run("plugin", "add", tmp_path / "none.so", status=PLUGIN)
    assert "No such file" in missing.stderr
    assert list(home.iterdir()) == []


def test_a_plugin_that_came_with_a_checkpoint_is_refused(run, home, tmp_path):
    checkpoint = tmp_path / "model"
    shutil.copytree(BASE, checkpoint)
    (checkpoint / "plugins").mkdir()
    shutil.copy(TINY, checkpoint / "plugins")
    refused = run("plugin", "add", checkpoint / "plugins/tiny.outrider.so", status=PLUGIN)
    assert f"{checkpoint} is a checkpoint or data folder: it holds config.json" in refused.stderr
    assert "move it to another folder" in refused.stderr
    listing = run("--plugin-dir", checkpoint / "plugins", "--allow-unlocked-plugins",
                  "plugin", "list", "--json").json()
    assert listing[0]["problem_code"] == "PluginUntrusted" and list(home.iterdir()) == []


def test_removing_names_what_went(run, home):
    run("plugin", "add", TINY)
    path = next(store_of(home).glob("*.outrider.so"))
    unknown = run("plugin", "remove", "tinny", status=PLUGIN)
    assert "did you mean 'tiny'?" in unknown.stderr
    assert "it has 0.1.0" in run("plugin", "remove", "tiny", "--version", "2.0.0",
                                 status=PLUGIN).stderr
    run("plugin", "remove", "tiny", "--version", "two", status=USAGE)
    run("plugin", "remove", "tiny", "--version", "0.1.0", "--all", status=USAGE)
    [removed] = run("plugin", "remove", "tiny", "--json").json()
    assert removed == {"path": str(path), "name": "tiny", "version": "0.1.0",
                       "sha256": sha256(TINY)}
    assert not path.exists() and listed(run, "tiny") == []


def test_verify_is_content_with_what_was_added(run):
    run("plugin", "add", TINY)
    plugins = run("plugin", "verify", "--json").json()
    assert all(plugin["usable"] for plugin in plugins)
    assert {"eagle", "medusa", "tiny"} <= {plugin["name"] for plugin in plugins}
    [plugin] = run("plugin", "verify", "tiny", "--json").json()
    assert plugin["sha256"] == sha256(TINY)
    table = run("plugin", "verify", "tiny").stdout.splitlines()
    assert table[0].split() == ["NAME", "VERSION", "PROVIDES", "STATUS", "FILE"]
    assert table[1].split()[:4] == ["tiny", "0.1.0", "tiny", "usable"]


def test_verify_fails_for_what_was_changed_added_by_hand_or_deleted(run, home):
    run("plugin", "add", TINY)
    store = store_of(home)
    path = next(store.glob("*.outrider.so"))
    original = path.read_bytes()
    other_bytes(TINY, path)
    done = run("plugin", "verify", "--json", status=PLUGIN)
    [wrong] = [plugin for plugin in done.json() if not plugin["usable"]]
    assert wrong["problem_code"] == "PluginHashMismatch" and "changed after" in wrong["problem"]
    assert f"1 of {len(done.json())} plugins cannot be used" in done.stderr
    path.write_bytes(original)

    by_hand = store / "by_hand.outrider.so"
    by_hand.write_bytes(original)
    by_hand.chmod(0o644)
    for flags in ((), ("--allow-unlocked-plugins",)):
        [wrong] = [plugin for plugin in
                   run(*flags, "plugin", "verify", "--json", status=PLUGIN).json()
                   if not plugin["usable"]]
        assert "does not list it" in wrong["problem"]
        assert f"`outrider plugin add {by_hand}`" in wrong["hint"]
    by_hand.unlink()

    path.unlink()
    done = run("plugin", "verify", "tiny", status=PLUGIN)
    assert "lists it as tiny 0.1.0, but there is no such file" in done.stderr
    assert "PluginNotFound" in done.stdout
    assert "known are" in run("plugin", "verify", "zzzzzz", status=PLUGIN).stderr
    run("plugin", "add", TINY)
    run("plugin", "verify")


def test_a_lock_that_cannot_be_read_is_an_error_of_files(run, home):
    run("plugin", "add", TINY)
    lock = store_of(home) / "plugins.lock.json"
    lock.write_text("{}")
    assert run("plugin", "verify", "tiny", status=FILES).stdout != ""
    refused = run("plugin", "add", TINY, status=FILES)
    assert "delete it, and run `outrider plugin add FILE`" in refused.stderr
    lock.unlink()
    run("plugin", "add", TINY)
    run("plugin", "verify", "tiny")


def test_a_second_file_of_the_same_version_elsewhere_is_warned_of(run, tmp_path):
    folder = tmp_path / "elsewhere"
    other = other_build(folder)
    run("plugin", "lock", folder)
    done = run("--plugin-dir", folder, "plugin", "add", TINY)
    assert "warning: plugin tiny 0.1.0" in done.stderr and str(other) in done.stderr
    run("--plugin-dir", folder, "plugin", "verify")
    assert "warning" not in run("plugin", "add", TINY).stderr


def test_what_is_built_runs_before_what_is_installed_and_a_checkpoint_gets_its_own(run, tmp_path):
    build = tmp_path / "build"
    built = other_build(build)
    run("plugin", "add", TINY)
    author = ("--plugin-dir", build, "--allow-unlocked-plugins")

    def writer(name, *flags):
        run(*flags, "convert", BASE, "--mode", "tiny", "--out", tmp_path / name)
        [mode] = json.loads((tmp_path / name / "outrider_state.json").read_text())["modes"]
        return mode["plugin"]["sha256"]

    assert writer("tried", *author) == sha256(built)
    assert writer("installed") == sha256(TINY)
    assert writer("not-locked", "--plugin-dir", build) == sha256(TINY)
    for name, file in (("tried", built), ("installed", TINY)):
        [mode] = run(*author, "inspect", tmp_path / name, "--json").json()["modes"]
        assert mode["restored_by"]["is_the_writer"] is True
        assert sha256(Path(mode["restored_by"]["path"])) == sha256(file)


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o077])
def test_the_store_is_its_owners_whatever_the_umask(program, home, mask):
    environment = {**os.environ, "XDG_DATA_HOME": str(home)}
    subprocess.run([program, "plugin", "add", TINY], env=environment, umask=mask, check=True,
                   stdout=subprocess.DEVNULL)
    modes = {path.name: path.stat().st_mode & 0o777 for path in store_of(home).iterdir()
             if path.name != ".lock"}
    assert set(modes.values()) == {0o644} and len(modes) == 2


def test_doing_without_locks_is_said_once(run, home, tmp_path):
    folder = tmp_path / "author"
    folder.mkdir(mode=0o755)
    shutil.copy(TINY, folder)
    done = run("--plugin-dir", folder, "--allow-unlocked-plugins", "plugin", "list")
    assert done.stderr == "warning: plugins are loaded without a lock file\n"


def test_without_a_home_there_is_no_store(outrider):
    done = outrider("plugin", "add", TINY, XDG_DATA_HOME=None, HOME=None, status=FILES)
    assert "neither XDG_DATA_HOME nor HOME is an absolute path" in done.stderr


def add_process(program, home, file, *options):
    environment = {**os.environ, "XDG_DATA_HOME": str(home)}
    return subprocess.Popen([program, "plugin", "add", file, *options], env=environment,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_two_processes_that_add_at_once_both_land(program, run, home):
    processes = [add_process(program, home, TEST_PLUGINS / f"{name}.outrider.so")
                 for name in ("tiny", "probe", "family")]
    for process in processes:
        assert process.wait(timeout=600) == 0, process.stderr.read().decode()
    for name in ("tiny", "probe", "family"):
        [plugin] = listed(run, name)
        assert plugin["usable"] is True


def test_killed_at_any_moment_the_store_is_the_old_or_the_new(program, run, home, tmp_path):
    """Each process replaces the plugin; the file it had, or the new one, is there and can be used."""
    files = [TINY, other_bytes(TINY, tmp_path / "other.so")]
    run("plugin", "add", TINY)
    hashes = {sha256(file) for file in files}
    for attempt in range(8):
        process = add_process(program, home, files[(attempt + 1) % 2], "--replace")
        try:
            process.wait(timeout=0.05 + 0.05 * attempt)
        except subprocess.TimeoutExpired:
            process.kill()
        assert process.wait() in (0, -signal.SIGKILL), process.stderr.read().decode()
        usable = [plugin["sha256"] for plugin in listed(run, "tiny") if plugin["usable"]]
        assert len(usable) == 1 and set(usable) <= hashes
    run("plugin", "add", TINY, "--replace")
    run("plugin", "verify")
    assert sorted(path.name for path in store_of(home).iterdir()) == [
        ".lock", "plugins.lock.json", f"tiny-0.1.0-{sha256(TINY)[:12]}.outrider.so"]
