"""What plugins are compiled and linked against: headers under an ABI number, one exported symbol."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/sdk_abi.py"
HEADER = "core/include/outrider/error.h"
STAMP = "sdk/include/outrider/sdk/stamp.h"
ENTRY = "outrider_plugin_register_v1"


def sdk_abi(action, root=ROOT):
    return subprocess.run([sys.executable, SCRIPT, action, "--root", root], capture_output=True, text=True,
                          check=False)


def test_headers_fit_their_abi_number():
    done = sdk_abi("check")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def tree(tmp_path):
    """The public headers, and a description of them as they are."""
    for folder in ("core/include", "sdk/include"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    assert sdk_abi("write", tmp_path).returncode == 0
    return tmp_path


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def raise_number(tree, by):
    number = int((tree / STAMP).read_text().split("kSdkAbi = ")[1].split(";")[0])
    edit(tree / STAMP, f"kSdkAbi = {number};", f"kSdkAbi = {number + by};")


def test_comments_and_layout_are_free(tree):
    edit(tree / HEADER, "ErrorCode code() const noexcept", "/* The code. */ ErrorCode\n  code( )   const  noexcept")
    edit(tree / HEADER, "#pragma once\n", "#pragma once\n\n// More about errors.\n")
    assert sdk_abi("check", tree).returncode == 0


def test_a_changed_header_needs_a_new_number(tree):
    edit(tree / HEADER, "kInterrupted = 600", "kInterrupted = 601")
    (tree / "sdk/include/outrider/sdk/new.h").write_text("#pragma once\n")
    (tree / "core/include/outrider/text.h").unlink()
    refused = sdk_abi("check", tree)
    assert refused.returncode == 1
    for part in (f"{HEADER}: changed", "sdk/include/outrider/sdk/new.h: new", "core/include/outrider/text.h: gone",
                 f"Raise kSdkAbi in {STAMP}"):
        assert part in refused.stderr
    assert sdk_abi("write", tree).returncode == 1
    raise_number(tree, 1)
    assert sdk_abi("check", tree).returncode == 0


def test_one_step_of_the_number_is_enough_until_it_is_described(tree):
    raise_number(tree, 1)
    for number in (601, 602):
        edit(tree / HEADER, f"kInterrupted = {number - 1}", f"kInterrupted = {number}")
        assert sdk_abi("check", tree).returncode == 0
    assert sdk_abi("write", tree).returncode == 0
    edit(tree / HEADER, "kInterrupted = 602", "kInterrupted = 600")
    assert sdk_abi("check", tree).returncode == 1


@pytest.mark.parametrize("by", [-1, 2])
def test_a_number_of_another_release_is_refused(tree, by):
    raise_number(tree, by)
    refused = sdk_abi("check", tree)
    assert refused.returncode == 1
    assert "the last release had" in refused.stderr


def test_the_difference_is_shown_where_git_knows_it(tree):
    git = ["git", "-C", tree, "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "Headers"]):
        subprocess.run([*git, *arguments], check=True)
    edit(tree / HEADER, "kInterrupted = 600", "kInterrupted = 601")
    refused = sdk_abi("check", tree)
    assert "-  kInterrupted = 600," in refused.stderr
    assert "+  kInterrupted = 601," in refused.stderr


def built_plugins(program):
    own = list((program.parents[1] / "lib/outrider/plugins").glob("*.outrider.so"))
    tests = Path(os.environ.get("OUTRIDER_TEST_PLUGINS", ROOT / "build/tests/host/plugins/built"))
    found = [*own, *tests.glob("*.outrider.so")]
    assert {"eagle", "medusa", "tiny", "probe", "family"} <= {path.name.split(".")[0] for path in found}
    return found


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_plugins_export_their_entry_function_alone(program):
    for plugin in built_plugins(program):
        symbols = output("nm", "-D", "--defined-only", "--format=just-symbols", plugin).split()
        assert symbols == [ENTRY], plugin


def test_plugins_are_bound_at_once_never_unloaded_and_bring_no_search_path(program):
    for plugin in built_plugins(program):
        dynamic = output("readelf", "--wide", "--dynamic", plugin)
        flags = next(line for line in dynamic.splitlines() if "(FLAGS_1)" in line)
        assert {"NOW", "NODELETE"} <= set(flags.split()), plugin
        assert "RPATH" not in dynamic and "RUNPATH" not in dynamic, plugin
        assert "TEXTREL" not in dynamic, plugin


def compiled(source, kinds):
    """What the compiler says of a config with a field of each of these types, from line 10 on."""
    fields = "\n".join(f'  made.field("f{i}", &Config::f{i}, "A field.");' for i in range(len(kinds)))
    members = " ".join(f"{kind} f{i}{{}};" for i, kind in enumerate(kinds))
    source.write_text(f"""#include "outrider/config/struct_schema.h"

using outrider::Json;
struct Config {{
  {members}
}};

outrider::StructSchema<Config> schema() {{
  outrider::StructSchema<Config> made("Config");
{fields}
  return made;
}}
""")
    return subprocess.run(["g++", "-std=c++20", "-fsyntax-only", "-I", ROOT / "core/include", source],
                          capture_output=True, text=True, check=False)


def test_config_fields_of_other_types_are_refused_with_those_that_fit(tmp_path):
    kinds = ["int", "unsigned", "float", "std::vector<char>", "std::optional<short>", "const char*"]
    done = compiled(tmp_path / "refused.cpp", kinds)
    message = "error: static assertion failed: a config field is a bool, int64_t (for every integer)"
    assert done.stderr.count("error: ") == done.stderr.count(message) == len(kinds), done.stderr
    for i in range(len(kinds)):
        assert f"refused.cpp:{10 + i}:" in done.stderr
    fine = compiled(tmp_path / "fine.cpp", ["int64_t", "std::optional<std::vector<double>>", "std::vector<Json>"])
    assert fine.returncode == 0, fine.stderr
