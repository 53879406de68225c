#!/usr/bin/env bash
# Fuzzes the readers of foreign bytes with libFuzzer, one after the other; `make fuzz` builds it first.
# usage: scripts/fuzz.sh [SECONDS [SUBJECT…]]     default: 300 seconds each, every subject
# Corpora and findings stay in build-fuzz/corpus and build-fuzz/findings. Exit status 1: a finding.
set -euo pipefail
cd "$(dirname "$0")/.."

program=build-fuzz/bin/reader_fuzz
[[ -x $program ]] || { echo "$program is missing: run \`make fuzz\`, which needs clang" >&2; exit 2; }
seconds=${1:-300}
shift || true
subjects=("$@")
if [[ ${#subjects[@]} -eq 0 ]]; then
  # Asked for none, the program names them all.
  read -ra subjects < <("$program" 2>&1 | sed 's/.*one of: //') || true
fi

# Readers that take a path get their input through a file: in memory, that is quick.
scratch=$(mktemp -d -p "$([[ -w /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}")")
trap 'rm -rf "$scratch"' EXIT
failed=0
for subject in "${subjects[@]}"; do
  corpus=build-fuzz/corpus/$subject findings=build-fuzz/findings/$subject
  mkdir -p "$corpus" "$findings"
  log=$findings/log.txt
  OUTRIDER_FUZZ=$subject "$program" --seeds "$corpus"
  if OUTRIDER_FUZZ=$subject TMPDIR=$scratch "$program" -max_total_time="$seconds" -max_len=65536 \
    -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 -artifact_prefix="$findings/" "$corpus" \
    >"$log" 2>&1; then
    echo "$subject: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, no finding"
  else
    echo "$subject: a finding, see $log"
    failed=1
  fi
done
exit $failed
