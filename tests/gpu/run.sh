#!/usr/bin/env bash
# Checks a bundle on a machine with a CUDA device: gpu_tests, then a model from conversion to training.
#
#   run.sh WORK_FOLDER [BASE SHARDS]
#
# Lies in the bundle's share/outrider/gpu (elsewhere: BUNDLE=FOLDER run.sh …). Without a base model and
# its token shards it makes a small random one. Needs the Python packages torch, numpy and safetensors.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bundle=$(cd "${BUNDLE:-$here/../../..}" && pwd)
outrider=$bundle/bin/outrider
python=${OUTRIDER_PYTHON:-python3}

if (($# != 1 && $# != 3)); then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
mkdir -p "$1"
work=$(cd "$1" && pwd)
base=${2:-$work/base}
shards=${3:-$work/shards}

say() { printf '\n== %s\n' "$*"; }
check() { PYTHONPATH=$bundle/lib/outrider/python "$python" "$here/gpu_check.py" "$@"; }

# compare_devices FOLDER: loss and every gradient, CUDA against the CPU, both in float32.
compare_devices() {
  local device
  for device in cpu cuda; do
    "$outrider" forward "$1" --batch "$work/batch.safetensors" --out "$1.$device.safetensors" \
      --train --gradients --device "$device" --dtype float32
  done
  check compare "$1.cuda.safetensors" "$1.cpu.safetensors"
}

# try_mode NAME CONVERT_ARGUMENT…
try_mode() {
  local mode=$1
  local folder=$work/$mode
  say "$mode: convert"
  rm -rf "$folder" "$folder.run"
  "$outrider" convert "$base" "${@:2}" --out "$folder"
  say "$mode: CUDA against the CPU"
  compare_devices "$folder"
  say "$mode: 30 steps in bfloat16"
  "$outrider" train "$folder" --data "$shards" --out "$folder.run" --device cuda --dtype bfloat16 \
    --max-steps 30 --logging-steps 1 --learning-rate 1e-3 --lr-scheduler-type constant
  check losses "$folder.run/metrics.jsonl"
}

say "machine"
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
"$outrider" --version

say "gpu_tests"
"$bundle/bin/gpu_tests"

if (($# == 1)); then check base "$work"; fi
check batch "$base" "$work/batch.safetensors"
eagle=(--mode eagle --preset eagle3)
part=eagle_architecture_config
try_mode eagle3 "${eagle[@]}"
try_mode eagle1 "${eagle[@]}" --set $part.use_aux_hidden_state=false
try_mode eagle_mtp "${eagle[@]}" --set $part.use_aux_hidden_state=false --set $part.use_mtp_layernorm=true
try_mode parallel_heads "${eagle[@]}" --set $part.parallel_draft_step=3
try_mode hard_labels "${eagle[@]}" --set eagle_self_logit_distillation=false
try_mode medusa --mode medusa

# twenty_steps NAME OPTION…: a run in float32; an unfinished one of that name goes on.
twenty_steps() {
  local resume=()
  if [[ -d $work/$1.run ]]; then resume=(--resume); fi
  "$outrider" train "$work/eagle3" --data "$shards" --out "$work/$1.run" --dtype float32 --max-steps 20 \
    --logging-steps 1 --learning-rate 1e-3 --lr-scheduler-type constant "${@:2}" "${resume[@]}"
}

say "ways of a step: all have the losses of the CPU"
rm -rf "$work"/*.run
twenty_steps cpu
for graphs in off on; do
  for recompute in nothing elementwise products; do
    twenty_steps "$graphs-$recompute" --device cuda --cuda-graphs $graphs --recompute $recompute
  done
done
twenty_steps accumulated --device cuda --cuda-graphs on --per-device-train-batch-size 2 --gradient-accumulation-steps 2
twenty_steps stopped --device cuda --cuda-graphs on --save-steps 10
rm -rf "$work/stopped.run/final" "$work/stopped.run/checkpoint-20"
twenty_steps stopped --device cuda --cuda-graphs on --save-steps 10
check same "$work"/{cpu,off-nothing,off-elementwise,off-products,on-nothing,on-elementwise,on-products,stopped}.run/metrics.jsonl

say "packed rows: the losses of the CPU"
packed=(--packing --max-length 512 --per-device-train-batch-size 2)
twenty_steps packed-cpu "${packed[@]}"
twenty_steps packed --device cuda "${packed[@]}"
twenty_steps packed-graphs --device cuda --cuda-graphs on "${packed[@]}"
check same "$work"/packed{-cpu,,-graphs}.run/metrics.jsonl

# many_steps NAME OPTION…: a run that learns.
many_steps() {
  "$outrider" train "$work/eagle3" --data "$shards" --out "$work/$1.run" --max-steps 200 --logging-steps 1 \
    --learning-rate 1e-3 --lr-scheduler-type constant "${@:2}"
}

say "200 steps in bfloat16: the CPU's curve in float32"
many_steps long-cpu --dtype float32
many_steps long --device cuda --dtype bfloat16
check curve "$work"/long{-cpu,}.run/metrics.jsonl

# answer NAME FOLDER OPTION…: what the model decodes in float32, the likeliest tokens.
answer() {
  "$outrider" --json generate "$2" --prompts "$work/prompts.jsonl" --max-new-tokens 40 --dtype float32 "${@:3}" \
    >"$work/$1.answers.jsonl"
}

say "decoding: the tokens of the CPU, in every way of drafting"
check prompts "$base" "$work/prompts.jsonl"
answer cpu "$base" --no-draft
answer cuda "$base" --no-draft --device cuda
answer cuda-together "$base" --no-draft --device cuda --batch-size 6
answer cuda-prompt-lookup "$base" --drafter prompt-lookup --device cuda
for mode in eagle3 eagle1 eagle_mtp medusa; do
  for shape in chain static-tree dynamic-tree; do
    answer "cuda-$mode-$shape" "$work/$mode" --draft-shape $shape --device cuda --batch-size 3
  done
done
check answers "$work"/cpu.answers.jsonl "$work"/cuda*.answers.jsonl

say "everything agrees"
