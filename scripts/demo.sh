#!/usr/bin/env bash
# From a chat model to an exported speculative-decoding model on two CPU cores, in less than eight
# minutes. Everything is written to demo/. Build first: `make demo` does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
readonly out=demo examples=examples/data
readonly seconds=200  # of training, half of it before the restart

readonly outrider=build/bin/outrider

title() { printf '\n\033[1m%s\033[0m  [%d:%02d]\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

run() {  # run COMMAND…: shows it, then runs it
  printf '$ %s\n' "$*"
  "$@"
}

rm -rf $out && mkdir $out

title "1. A small real model: SmolLM2-135M-Instruct"
model=$(PYTHONPATH=python build/bin/python -m outrider.demo_model)
echo "$model"

title "2. Its own conversations, as tokens with a loss mask"
run $outrider data prepare $examples/smollm2_self.jsonl --model "$model" --out $out/train-data
run $outrider data prepare $examples/smollm2_self_validation.jsonl --model "$model" --out $out/held-out
run $outrider data calibrate $out/train-data --size 8192 --out $out/d2t.safetensors

title "3. Attach an EAGLE-3 draft"
run $outrider convert "$model" --mode eagle --preset eagle3 --draft-vocab $out/d2t.safetensors \
  --out $out/converted

training=($outrider train "$out/converted" --data "$out/train-data" --eval-data "$out/held-out"
  --out "$out/run" --max-seconds "$seconds" --learning-rate 2e-3 --per-device-train-batch-size 4
  --max-length 256 --logging-steps 10 --save-steps 20 --save-total-limit 1)

title "4. Train it, and stop half-way as Ctrl-C would"
printf '$ %s\n' "${training[*]}"
timeout --signal=INT $((seconds / 2)) "${training[@]}" || (($? == 124))

title "5. Resume: the loss goes on where it stopped"
run "${training[@]}" --resume

title "6. A new process knows what is in the folder"
run $outrider inspect $out/run/final

title "7. Export"
run $outrider export $out/run/final --format hf --out $out/exported
ls -l $out/exported

title "Done"
