"""Plain decoding of random weights on one GPU: `outrider bench decode` beside transformers' generate, in one run.

    decode_on_gpu.py [--workload 1b-128x1]… [--tokens N] [--compile] [--program outrider] [--json]

bfloat16, greedy. transformers with its default cache; --compile: also with a static cache and a compiled forward, its
fastest, which takes a minute to start.
"""

import argparse
import json
import re
import statistics
import subprocess
import time

import torch
from toolkits import ROOT, WORKLOADS, make_base

REPEATS = 3


def rate_of_transformers(name, count, **options):
    """Tokens/s, the prompt's pass left out as `bench decode` leaves it out."""
    base, length, rows = re.fullmatch(r"(\w+)-(\d+)x(\d+)", name).groups()
    shape = WORKLOADS["bases"][base]
    model = make_base(shape)
    ids = torch.randint(shape["vocab_size"], (int(rows), int(length)), device="cuda")

    def seconds(tokens):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), min_new_tokens=tokens, max_new_tokens=tokens,
                           do_sample=False, pad_token_id=0, **options)
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    seconds(count)
    one = min(seconds(1) for _ in range(REPEATS))
    return int(rows) * (count - 1) / statistics.median(seconds(count) - one for _ in range(REPEATS))


def rate_of_outrider(program, name, count):
    done = subprocess.run([program, "bench", "decode", "--workload", name, "--device", "cuda", "--max-new-tokens", str(count),
                           "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return found["tokens_per_second"]["median"], found["share_of_limit"]


def compared(arguments, name):
    ours, share = rate_of_outrider(arguments.program, name, arguments.tokens)
    result = {"workload": name, "outrider": round(ours), "of_the_limit": round(share, 3),
              "transformers": round(rate_of_transformers(name, arguments.tokens), 1)}
    if arguments.compile:
        result["transformers_compiled"] = round(
            rate_of_transformers(name, arguments.tokens, cache_implementation="static"), 1)
    for side in ("transformers", "transformers_compiled"):
        if side in result:
            result[f"times_{side}"] = round(ours / result[side], 2)
    return result


def main():
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workload", action="append")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--program", default=str(ROOT / "build/bin/outrider"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.json:
        print(f"{torch.cuda.get_device_name()}, transformers {transformers.__version__}, tokens/s")
    for name in arguments.workload or ["smollm2-128x1", "1b-128x1", "8b-128x1"]:
        result = compared(arguments, name)
        line = json.dumps(result) if arguments.json else "  ".join(f"{key} {value}" for key, value in result.items())
        print(line, flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
