"""The installed SDK alone: a plugin written by `plugin new`, and refusals when CMake configures."""

import json
import os
import re
import shutil
import subprocess

import pytest
from conftest import ROOT

CMAKE = ROOT / ".venv/bin/cmake"
REQUEST, FILE = 2, 3


def run(*command, folder=None, status=0, stderr=subprocess.STDOUT):
    """Output of a command; PATH finds CMake's companions."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1",
                   "PATH": f"{CMAKE.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=stderr, check=False)
    assert (done.returncode == 0) == (status == 0), done.stdout
    return done.stdout


def json_of(*command):
    return json.loads(run(*command, stderr=subprocess.DEVNULL))


@pytest.fixture(scope="module")
def prefix(program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed") / "outrider"
    run(CMAKE, "--install", program.parent.parent, "--prefix", folder)
    return folder


@pytest.fixture(scope="module")
def project(prefix, tmp_path_factory):
    """A new plugin's project, as it was written."""
    folder = tmp_path_factory.mktemp("project") / "my_algo"
    run(prefix / "bin/outrider", "plugin", "new", "my_algo", "--out", folder)
    return folder


@pytest.fixture(scope="module")
def built(project):
    """It is not edited: what the guide's three commands do."""
    run(CMAKE, "--preset", "default", folder=project)
    run(CMAKE, "--build", "--preset", "default", folder=project)
    return project / "build/my_algo.outrider.so"


def configure(project, tmp_path, *options):
    return run(CMAKE, "-S", project, "-B", tmp_path / "build", *options, status=1)


def text_of(output):
    return " ".join(output.split())


def test_what_is_installed_knows_nothing_of_the_source_tree(prefix):
    for file in prefix.rglob("*"):
        if file.suffix in {".cmake", ".h", ".md", ".json", ".txt", ".cpp"} and file.is_file():
            assert str(ROOT / "core") not in file.read_text(), file


def test_the_installed_program_runs(prefix):
    plugins = json_of(prefix / "bin/outrider", "plugin", "list", "--json")
    assert {"eagle", "medusa"} == {p["name"] for p in plugins if str(prefix) in p["path"]}
    assert all(p["usable"] for p in plugins)


def test_a_new_plugin_passes_its_tests(built):
    output = run(CMAKE.parent / "ctest", "--preset", "default", folder=built.parents[1])
    assert "100% tests passed" in output


def test_the_plugin_has_one_symbol_and_no_paths(built):
    symbols = run("nm", "-D", "--defined-only", built).split()
    assert symbols[2::3] == ["outrider_plugin_register_v1"]
    dynamic = run("readelf", "-d", built)
    assert "NODELETE" in dynamic and "RPATH" not in dynamic and "RUNPATH" not in dynamic


def test_the_plugin_converts_trains_and_comes_back(built, prefix, tiny, shards, tmp_path):
    outrider = [prefix / "bin/outrider", "--plugin-dir", built.parent, "--allow-unlocked-plugins"]
    run(*outrider, "convert", tiny(), "--mode", "my_algo", "--preset", "MY_ALGO_4_HEADS",
        "--out", tmp_path / "draft")
    run(*outrider, "train", tmp_path / "draft", "--data", shards / "train", "--out", tmp_path / "run",
        "--max-steps", "3")
    found = json_of(*outrider, "inspect", tmp_path / "run/final", "--json")
    [mode] = found["modes"]
    assert mode["mode"] == "my_algo" and mode["config"] == {"decay": 0.8, "num_heads": 4}


def test_the_hydra_example_needs_nothing_but_the_sdk(prefix, tmp_path):
    """A whole algorithm with kernels, a foreign format and tests of its own, built as a stranger would."""
    project = tmp_path / "hydra"
    shutil.copytree(ROOT / "examples/plugins/hydra", project)
    run(CMAKE, "-S", project, "-B", project / "build", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    run(CMAKE, "--build", project / "build")
    output = run(CMAKE.parent / "ctest", "--test-dir", project / "build", "--output-on-failure")
    assert "100% tests passed" in output


@pytest.mark.parametrize("options, text", [
    (["-DCMAKE_CXX_FLAGS=-D_GLIBCXX_USE_CXX11_ABI=0"], "_GLIBCXX_USE_CXX11_ABI differs from the SDK's"),
    (["-DCMAKE_CXX_FLAGS=-D_GLIBCXX_DEBUG"], "_GLIBCXX_DEBUG differs from the SDK's"),
    (["-DCMAKE_CXX_FLAGS=-fsanitize=address"], "AddressSanitizer must be on in both or in neither"),
    (["-DCMAKE_CXX_FLAGS=-DJSON_DIAGNOSTICS=1"], "JSON_DIAGNOSTICS differs from the SDK's"),
    (["-DLIBTORCH_ROOT=/nowhere"], "it needs LibTorch 2.11.0 exactly, and '/nowhere' holds ''")])
def test_what_would_not_load_is_refused_when_it_is_configured(project, prefix, tmp_path, options, text):
    output = configure(project, tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}", *options)
    assert text in text_of(output)


def test_another_version_of_the_sdk_is_refused(project, prefix, tmp_path):
    changed = tmp_path / "changed"
    run("cp", "-r", project, changed)
    file = changed / "CMakeLists.txt"
    file.write_text(file.read_text().replace("find_package(OutriderSDK", "find_package(OutriderSDK 9.1"))
    output = configure(changed, tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}")
    assert "OutriderSDKConfig.cmake, version: 0." in text_of(output)


@pytest.mark.parametrize("old, new, text", [
    ("MODES my_algo", "", "provides nothing: give MODES, BASES or DRAFT_MODELS"),
    ("NAME my_algo", "NAME My-Algo", "'My-Algo' is no valid name"),
    ("SOURCES src/plugin.cpp", "CUDA src/k.cu STUB src/n.cpp SOURCES src/plugin.cpp",
     "find_package(OutriderSDK REQUIRED COMPONENTS CUDA)")])
def test_wrong_arguments_of_the_cmake_function_are_refused(project, prefix, tmp_path, old, new, text):
    changed = tmp_path / "changed"
    run("cp", "-r", project, changed)
    file = changed / "CMakeLists.txt"
    file.write_text(file.read_text().replace(old, new, 1))
    assert text in text_of(configure(changed, tmp_path, f"-DCMAKE_PREFIX_PATH={prefix}"))


@pytest.mark.parametrize("name, text", [
    ("My-Algo", "'My-Algo' cannot be a plugin's name"),
    ("eagle", "'eagle' is the name of an installed plugin"),
    ("a" * 64, "at most 63")])
def test_a_name_that_cannot_be_is_refused(outrider, tmp_path, name, text):
    done = outrider("plugin", "new", name, "--out", tmp_path / "project", status=REQUEST)
    assert text in done.stderr and not (tmp_path / "project").exists()


def test_a_folder_with_files_is_left_alone(outrider, tmp_path):
    (tmp_path / "mine").write_text("mine")
    outrider("plugin", "new", "my_algo", "--out", tmp_path, status=FILE)
    assert [f.name for f in tmp_path.iterdir()] == ["mine"]


def test_no_placeholder_is_left(project):
    for file in project.rglob("*"):
        assert not file.is_file() or "build" in file.parts or not re.search(r"@\w+@", file.read_text())
