#!/usr/bin/env bash
# The wheel in a fresh environment that has no compiler, CMake or CUDA on its path: wheel.sh WHEEL.
# Slow (a build, and an environment with torch): `make test-wheel` runs it, `make test` does not.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
wheel=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$root/.venv/bin/python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  -c "$root/requirements.txt" "$wheel[transformers]"
cd "$work"
clean() { env -i PATH="$work/venv/bin" HOME="$work" "$@"; }

clean outrider doctor
clean python - <<'CODE'
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

import outrider.opt as mto
import outrider.speculative as mtsp

mto.enable_huggingface_checkpointing()
model = MixtralForCausalLM(MixtralConfig(
    vocab_size=128, hidden_size=64, intermediate_size=64, num_hidden_layers=6,
    num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, max_position_embeddings=128))
mtsp.convert(model, [("eagle", mtsp.EAGLE3_DEFAULT_CFG["config"])])
ids = torch.randint(0, 128, (2, 16))
expected = model.train()(input_ids=ids, labels=ids).loss
expected.backward()
model.save_pretrained("converted")
restored = AutoModelForCausalLM.from_pretrained("converted").train()
assert torch.equal(restored(input_ids=ids, labels=ids).loss, expected)
CODE
clean outrider inspect converted
echo "the wheel works"
