#!/usr/bin/env bash
# Installs what building Outrider needs: Debian packages that are missing, and the Python environment
# that carries LibTorch, CMake and the text tools. Safe to run again: it then only checks.
#
#   scripts/setup.sh            .venv, from requirements.txt
#   scripts/setup.sh --peers    and .venv-peers and .venv-peers-0.42, the programs that the tests
#                               compare with, the latter an older release of the reference; and
#                               .venv-python, what the Python package is tested with
#
# Environments live in a cache shared by all clones, keyed by their requirements; .venv and the
# others are links into it. OUTRIDER_CACHE_DIR moves the cache, PYTHON chooses the interpreter.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${OUTRIDER_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/outrider}

say() { printf 'setup: %s\n' "$*"; }
die() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}

required_packages() {
  local boost=libboost-dev
  # Debian 12's default Boost is 1.74; Boost.DLL needs 1.81.
  if [[ $(. /etc/os-release && echo "$ID-${VERSION_ID:-}") == debian-12 ]]; then
    boost=libboost1.81-dev
  fi
  echo g++ $boost nlohmann-json3-dev doctest-dev libcli11-dev libssl-dev ccache python3-venv \
    python3-dev
}

missing_packages() {
  local installed package
  installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
  for package in "$@"; do
    grep -qxF "$package installed" <<<"$installed" || echo "$package"
  done
}

install_packages() {
  local missing as_root=()
  if ! command -v dpkg-query >/dev/null; then
    say "not a Debian system: please see to $(required_packages)"
    return
  fi
  # shellcheck disable=SC2046
  mapfile -t missing < <(missing_packages $(required_packages))
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    command -v sudo >/dev/null ||
      die "missing packages, and neither root nor sudo to install them: ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python 3.11 or newer with its venv module was found (python3 is" \
    "$(python3 -V 2>&1 || true)); install one, or name it: PYTHON=/path/to/python3.12 $0"
}

key_of() {  # key_of FILE…: changes with the files and the Python version
  { "$python" -c 'import sys; print(sys.version_info[:2])' && cat "$@"; } | sha256sum | cut -c1-16
}

is_complete() { [[ -f $1/.complete ]] && "$1/bin/python" -c '' 2>/dev/null; }

# ensure_environment LINK FOLDER INSTALL: scripts in an environment know its path, so it is built in
# place, and counts only with the marker that is written last.
ensure_environment() {
  local link=$root/$1 folder=$2 install=$3
  if ! is_complete "$folder"; then
    exec {lock}>"$folder.lock"
    flock -n "$lock" || { say "waiting for another set-up" && flock "$lock"; }
    if ! is_complete "$folder"; then
      say "building $1 in $folder (once per machine)"
      rm -rf "$folder"
      "$install" "$folder"
      touch "$folder/.complete"
    fi
    exec {lock}>&-
  fi
  [[ -L $link || ! -e $link ]] || die "$link is no link of ours: move it away"
  ln -sfn "$folder" "$link"
}

pip_install() {  # pip_install FOLDER ARGUMENT…
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "${@:2}"
}

install_main() {
  "$python" -m venv "$1"
  pip_install "$1" -r "$root/requirements.txt"
}

# An environment that sees the main one's packages, torch above all, through a .pth file. Its own
# packages come first.
environment_on_main() {
  "$python" -m venv --without-pip "$1"
  local packages='import sysconfig; print(sysconfig.get_path("purelib"))'
  "$main/bin/python" -c "$packages" >"$("$1/bin/python" -c "$packages")/outrider_main.pth"
}

# The constraints keep pip from installing another torch beside the main environment's.
install_peers() {
  environment_on_main "$1"
  pip_install "$1" -c "$root/requirements.txt" -r "$root/requirements-peers.txt"
  pip_install "$1" --no-deps -r "$root/requirements-readers.txt"
}

install_old_peers() {
  environment_on_main "$1"
  pip_install "$1" --no-deps -r "$root/requirements-peers-0.42.txt"
}

install_python() {
  environment_on_main "$1"
  local packages='import sysconfig; print(sysconfig.get_path("purelib"))'
  "$peers/bin/python" -c "$packages" >"$("$1/bin/python" -c "$packages")/outrider_peers.pth"
  pip_install "$1" --no-deps -r "$root/requirements-python.txt"
}

with_peers=no
for argument in "$@"; do
  case $argument in
    --peers) with_peers=yes ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0" && exit ;;
    *) die "unknown argument '$argument'; accepted is --peers" ;;
  esac
done

install_packages
python=$(find_python)
mkdir -p "$cache"
main=$cache/venv-$(key_of "$root/requirements.txt")
ensure_environment .venv "$main" install_main
if [[ $with_peers == yes ]]; then
  peers=$cache/venv-peers-$(key_of "$root"/requirements{,-peers,-readers}.txt)
  ensure_environment .venv-peers "$peers" install_peers
  old_peers=$cache/venv-peers-0.42-$(key_of "$root"/requirements{,-peers-0.42}.txt)
  ensure_environment .venv-peers-0.42 "$old_peers" install_old_peers
  tools=$cache/venv-python-$(key_of "$root"/requirements{,-peers,-readers,-python}.txt)
  ensure_environment .venv-python "$tools" install_python
fi
say "ready"
