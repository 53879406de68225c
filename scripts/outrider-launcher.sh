#!/bin/sh
# Starts the program of the same name in libexec/ with this machine's own LibTorch @TORCH_VERSION@:
# LIBTORCH_ROOT (a folder with lib/), or else the torch package of python3 (OUTRIDER_PYTHON: of another
# interpreter).
set -eu

wanted=@TORCH_VERSION@
self=$(readlink -f -- "$0")
home=$(dirname -- "$(dirname -- "$self")")
python=${OUTRIDER_PYTHON:-python3}

die() {
  printf 'outrider: error: %s\nhint: %s\n' "$1" "$2" >&2
  exit 6
}

torch_of_python() {
  "$python" -c 'import importlib.util
spec = importlib.util.find_spec("torch")
print(spec.submodule_search_locations[0] if spec else "")' 2>/dev/null || true
}

version_of() { # of the LibTorch in folder $1: a package, a distribution's archive, or its headers
  if [ -f "$1/version.py" ]; then
    sed -n "s/^__version__ = '\([^']*\)'.*/\1/p" "$1/version.py"
  elif [ -f "$1/build-version" ]; then
    head -n 1 "$1/build-version"
  elif [ -f "$1/include/torch/headeronly/version.h" ]; then
    awk '/define TORCH_VERSION_(MAJOR|MINOR|PATCH) / { printf "%s%s", dot, $3; dot = "." }' \
      "$1/include/torch/headeronly/version.h"
  fi
}

hint="install it with 'pip install torch==$wanted', or set LIBTORCH_ROOT to the folder that holds its lib/"
torch=${LIBTORCH_ROOT:-$(torch_of_python)}
if [ -z "$torch" ]; then
  die "no LibTorch $wanted: LIBTORCH_ROOT is not set and '$python' has no torch package" "$hint"
fi
if [ ! -f "$torch/lib/libtorch_cpu.so" ]; then
  die "no LibTorch in $torch: it has no lib/libtorch_cpu.so" "$hint"
fi
found=$(version_of "$torch")
if [ "${found%%+*}" != "$wanted" ]; then
  die "the LibTorch in $torch is version ${found:-unknown}, needed is $wanted exactly" "$hint"
fi

libraries=$home/lib:$torch/lib
# The package keeps the CUDA runtime, which also its CPU library needs, beside itself.
cuda=$(dirname -- "$torch")/nvidia/cu13/lib
if [ -d "$cuda" ]; then libraries=$libraries:$cuda; fi
LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
exec "$home/libexec/$(basename -- "$self")" "$@"
