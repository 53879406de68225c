"""How fast `outrider train` is on one GPU, by workload.

    workloads.py WORK SHAPE:STEPS:LENGTH:ROWS[:OPTION[=VALUE]]… …   SHAPE 1b or 8b, STEPS of training-time test

SHAPE may be smol, too. OPTION is one of `outrider train`, such as recompute=products or packing; fp8 is short for
base-precision=fp8; data=SHARDS trains on these.

One line of JSON each: tokens/s, memory by the driver, and the share of the limit, which is the time that the
arithmetic takes at the rate of this GPU's 8192³ product in bfloat16, measured just before.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import torch
from several_gpus import DRAFT_VOCABULARY, SHAPES, VOCABULARY, make_rows, make_shape, timed


def product_rate():
    """FLOP/s."""
    size, count = 8192, 20
    a, b = (torch.randn(size, size, device="cuda").bfloat16() for _ in range(2))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for i in range(count + 5):
        if i == 5:
            begin.record()
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 2 * size**3 * count / (begin.elapsed_time(end) / 1000)


def operations(shape, steps, length, rows):
    """FLOP of a step: base forward with its head, the draft's steps forward and backward."""
    s = SHAPES[shape]
    hidden, mid, head = s["hidden_size"], s["intermediate_size"], s["head_dim"]
    queries, keys = s["num_attention_heads"] * head, s["num_key_value_heads"] * head
    tokens = length * rows
    layer = hidden * (2 * queries + 2 * keys) + 3 * hidden * mid
    base = 2 * tokens * (layer * s["num_hidden_layers"] + hidden * s.get("vocab_size", VOCABULARY))
    base += 2 * tokens * length * queries * s["num_hidden_layers"]
    step = 2 * hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * mid + hidden * DRAFT_VOCABULARY
    draft = steps * tokens * 6 * (step + length * queries) + 4 * tokens * 3 * hidden * hidden
    return base + draft


def option(word):
    name, *value = {"fp8": "base-precision=fp8"}.get(word, word).split("=")
    return ["--" + name, *value]


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    work = Path(sys.argv[1])
    work.mkdir(parents=True, exist_ok=True)
    print(torch.cuda.get_device_name(), flush=True)
    for case in sys.argv[2:]:
        shape, steps, length, rows, *words = case.split(":")
        steps, length, rows = int(steps), int(length), int(rows)
        rate = product_rate()
        torch.cuda.empty_cache()
        data = next((word.removeprefix("data=") for word in words if word.startswith("data=")), None)
        if not data:
            make_rows(work, length)
        options = [part for word in words if not word.startswith("data=") for part in option(word)]
        name = re.sub(r"[^a-z0-9]+", "-", case)
        found = timed(work, make_shape(work, shape, steps), name, 1, rows, length, *options, data=data)
        limit = operations(shape, steps, length, rows) / rate
        share = limit * found["tokens_per_second"] / (length * rows)
        print(json.dumps({"case": case, "TFLOP/s of the product": round(rate / 1e12), "of the limit": round(share, 3)}),
              flush=True)
        subprocess.run(["rm", "-rf", *map(str, work.glob("run-*"))], check=True)


if __name__ == "__main__":
    main()
