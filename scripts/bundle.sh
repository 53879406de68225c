#!/usr/bin/env bash
# Packs a build for other machines, which bring their own LibTorch of the same version:
#
#   scripts/bundle.sh [BUILD_FOLDER]     default build/ → dist/outrider-VERSION-linux-x86_64[.tar.gz]
#
# Unpack anywhere and run bin/outrider. A build with CUDA also packs gpu_tests and the check that runs
# it: share/outrider/gpu/run.sh.
set -euo pipefail
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$(cd "${1:-$root/build}" && pwd)

die() {
  printf 'bundle: error: %s\n' "$*" >&2
  exit 1
}

version=$(sed -n 's/^project(outrider VERSION \([0-9.]*\) .*/\1/p' "$root/CMakeLists.txt")
torch_version=$(sed -n 's/^torch==//p' "$root/requirements.txt")
name=outrider-$version-linux-$(uname -m)
cmake=$root/.venv/bin/cmake
[[ -x $cmake ]] || cmake=$(command -v cmake) || die "no CMake: run scripts/setup.sh"

mkdir -p "$root/dist"
work=$(mktemp -d "$root/dist/.bundle.XXXXXX")
trap 'rm -rf "$work"' EXIT
bundle=$work/$name
mkdir "$bundle"

needed() { [[ -e $1 ]] || die "$1 is missing: run 'make build' first"; }

set_runpath() { # set_runpath FILE FOLDER: relative to the file's own
  printf 'file(RPATH_SET FILE "%s" NEW_RPATH "\\$ORIGIN/%s")\n' "$1" "$2" >"$work/runpath.cmake"
  "$cmake" -P "$work/runpath.cmake" >/dev/null
}

add_program() { # add_program NAME: the program in libexec/, its launcher in bin/
  install -D -m 755 "$build/bin/$1" "$bundle/libexec/$1"
  set_runpath "$bundle/libexec/$1" ../lib
  install -d "$bundle/bin"
  sed "s/@TORCH_VERSION@/$torch_version/g" "$root/scripts/outrider-launcher.sh" >"$bundle/bin/$1"
  chmod 755 "$bundle/bin/$1"
}

add_libraries() {
  local library
  for library in outrider_core outrider_host; do
    needed "$build/lib/lib$library.so"
    install -D -m 644 "$build/lib/lib$library.so" "$bundle/lib/lib$library.so"
    set_runpath "$bundle/lib/lib$library.so" .
  done
  # Only a build with CUDA has them.
  for library in "$build"/lib/liboutrider_{nccl,cuda_graph}.so; do
    if [[ -f $library ]]; then install -m 644 -t "$bundle/lib" "$library"; fi
  done
}

# The lock file holds the plugins' hashes: they are copied as they are.
add_plugins() {
  local plugins=$build/lib/outrider/plugins
  needed "$plugins/plugins.lock.json"
  install -D -m 644 -t "$bundle/lib/outrider/plugins" "$plugins"/*.outrider.so \
    "$plugins/plugins.lock.json"
}

add_texts() {
  local file
  (cd "$root/python" && find outrider -name "*.py" -exec install -D -m 644 {} "$bundle/lib/outrider/python/{}" \;)
  for file in README.md LICENSE; do
    if [[ -f $root/$file ]]; then install -D -m 644 -t "$bundle/share/outrider" "$root/$file"; fi
  done
}

add_gpu_check() {
  [[ -x $build/bin/gpu_tests ]] || return 0
  add_program gpu_tests
  install -D -m 755 -t "$bundle/share/outrider/gpu" "$root/tests/gpu/run.sh"
  install -D -m 644 -t "$bundle/share/outrider/gpu" "$root/tests/gpu/gpu_check.py" "$root/tests/gpu/several_gpus.py" \
    "$root/tests/gpu/peak_memory.py" "$root/tests/gpu/step_trace.py" "$root/tests/gpu/workloads.py"
}

needed "$build/bin/outrider"
add_program outrider
add_libraries
add_plugins
add_texts
add_gpu_check

if [[ -x $root/.venv/bin/python ]]; then
  OUTRIDER_PYTHON=$root/.venv/bin/python "$bundle/bin/outrider" --version >/dev/null ||
    die "the packed program does not start"
fi
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner -czf "$work/$name.tar.gz" "$name"
rm -rf "$root/dist/$name"
mv "$bundle" "$root/dist/$name"
mv "$work/$name.tar.gz" "$root/dist/$name.tar.gz"
printf 'dist/%s.tar.gz\n' "$name"
