#!/usr/bin/env bash
# From a chat model to an exported speculative-decoding model on two CPU cores, and what it is worth, in
# less than ten minutes: a few steps and a few tokens are timed, and batches and prompts fitted to what
# this machine can do. Everything is written to demo/. Build first: `make demo` does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly out=demo examples=examples/data questions=examples/prompts/mt_bench.jsonl
readonly seconds=200            # of training, half of it before the restart
readonly steps=60               # that the training should at least have
readonly evaluation_seconds=60  # that the held-out conversations may take
readonly tokens_each=195        # of an example conversation on average
readonly decoding_seconds=75    # of the measurement at the end
readonly ways=5                 # that it compares
readonly new_tokens=48          # of each answer

readonly outrider=build/bin/outrider

title() { printf '\n\033[1m%s\033[0m  [%d:%02d]\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

run() {  # run COMMAND…: shows it, then runs it
  printf '$ %s\n' "$*"
  "$@"
}

at_most() { echo $(($1 < $2 ? $1 : $2)); }
at_least() { echo $(($1 > $2 ? $1 : $2)); }

training_speed() {  # training_speed FOLDER: tokens/s of the last step that a run logged
  build/bin/python -c 'import json, sys
print(int(json.loads(open(sys.argv[1]).read().splitlines()[-1])["tokens_per_second"]))' "$1/metrics.jsonl"
}

rm -rf $out && mkdir $out

title "1. A small real model: SmolLM2-135M-Instruct"
model=$(PYTHONPATH=python build/bin/python -m outrider.demo_model)
echo "$model"

title "2. Its own conversations, as tokens with a loss mask"
run $outrider data prepare $examples/smollm2_self.jsonl --model "$model" --out $out/train-data
run $outrider data calibrate $out/train-data --size 8192 --out $out/d2t.safetensors

title "3. Attach an EAGLE-3 draft"
run $outrider convert "$model" --mode eagle --preset eagle3 --draft-vocab $out/d2t.safetensors \
  --out $out/converted

title "4. What this machine can do"
timed=("$outrider" train "$out/converted" --data "$out/train-data" --out "$out/timed" --max-steps 4
  --logging-steps 1 --max-length 256)
printf '$ %s\n' "${timed[*]}"
"${timed[@]}" >/dev/null
speed=$(training_speed $out/timed)
rm -r $out/timed
budget=$((speed * seconds / steps))  # tokens of one step
batch=$(at_least 1 "$(at_most 4 $((budget / tokens_each)))")
length=$(at_least 64 "$(at_most 256 $((budget * 256 / tokens_each)))")
held_out=$(at_least 10 $((speed * evaluation_seconds / tokens_each)))
echo "$speed tokens/s: batches of $batch, conversations cut at $length tokens, at most $held_out held out"
head -n "$held_out" $examples/smollm2_self_validation.jsonl >$out/held-out.jsonl
run $outrider data prepare $out/held-out.jsonl --model "$model" --out $out/held-out

training=("$outrider" train "$out/converted" --data "$out/train-data" --eval-data "$out/held-out"
  --out "$out/run" --max-seconds "$seconds" --learning-rate 2e-3 --per-device-train-batch-size "$batch"
  --max-length "$length" --logging-steps 10 --save-steps 20 --save-total-limit 1)

title "5. Train it, and stop half-way as Ctrl-C would"
printf '$ %s\n' "${training[*]}"
timeout --signal=INT $((seconds / 2)) "${training[@]}" || (($? == 124))

title "6. Resume: the loss goes on where it stopped"
run "${training[@]}" --resume

title "7. A new process knows what is in the folder"
run $outrider inspect $out/run/final

title "8. Export"
run $outrider export $out/run/final --format hf --out $out/exported
ls -l $out/exported

title "9. Decode with it"
export OMP_NUM_THREADS=1  # two threads would wait for each other wherever other work wants a core
answer=$(run $outrider generate $out/run/final --prompt "Why is the sky blue?" \
  --max-new-tokens $new_tokens 2>&1 | tee >(cat >&2))
took=$(sed -n 's/.* tokens in \([0-9.]*\) s.*/\1/p' <<<"$answer")

title "10. What it is worth here: tokens per pass of the base, and speed"
prompts=$(awk "BEGIN { print int($decoding_seconds / ($ways * $took)) }")
prompts=$(at_least 2 "$(at_most 8 "$prompts")")
run $outrider eval $out/run/final --prompts $questions --num-prompts "$prompts" --max-new-tokens $new_tokens \
  --sweep --batch-sizes 1 --sweep-drafts chain:1,chain:3 --out $out/worth

title "Done"
