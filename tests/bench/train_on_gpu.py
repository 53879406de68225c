"""`outrider bench train` beside Python toolkits on one GPU, in one run: tokens/s and memory, and their ratios.

    train_on_gpu.py [--workload 8b-k3-2048x8]… [--toolkit modelopt]… [--steps N] [--rounds N] [--program outrider] [--json]

Each measurement is a process of its own with the GPU to itself, in turn, --rounds times. Memory is the driver's, the whole
device's at its peak. --toolkit: modelopt, automodel or specforge, where they are installed (default: those that are).
"""

import argparse
import importlib.metadata
import json
import re
import statistics
import subprocess
import sys

import torch
from toolkits import DEVICE, ROOT, TOOLKITS, WORKLOADS

sys.path.insert(0, str(ROOT / "tests/gpu"))
from peak_memory import PeakMemory  # noqa: E402

WARMUP = 3


def workload(name):
    """(shape, steps of training-time test, length, rows, draft vocabulary)."""
    base, steps, length, rows = re.fullmatch(r"(\w+)-k(\d+)-(\d+)x(\d+)", name).groups()
    return WORKLOADS["bases"][base], int(steps), int(length), int(rows), WORKLOADS["draft_vocabulary"]


def rates_of_toolkit(toolkit, name, steps):
    """Tokens/s of each timed step, by events."""
    shape, ttt_steps, length, rows, vocabulary = workload(name)
    torch.manual_seed(0)
    trained = TOOLKITS[toolkit](shape, ttt_steps, vocabulary)
    batches = [torch.randint(shape["vocab_size"], (rows, length), device=DEVICE) for _ in range(4)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    for i in range(-WARMUP, steps):
        if i >= 0:
            marks[i].record()
        trained.step(batches[i % len(batches)])
    marks[steps].record()
    torch.cuda.synchronize()
    return [rows * length / before.elapsed_time(after) * 1000 for before, after in zip(marks, marks[1:], strict=False)]


def measured(command, read):
    """read(stdout): the steps' rates, tokens/s, and the one in the middle."""
    with PeakMemory(seconds=0.05) as peak:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip() or "failed").splitlines()[-1][:200]}
    return read(done.stdout) | {"gib": round(peak.gib, 1)}


def of_outrider(arguments, name):
    command = [arguments.program, "bench", "train", "--workload", name, "--device", "cuda", "--steps", str(arguments.steps),
               "--json", *arguments.option]

    def read(printed):
        rates = json.loads(printed)["tokens_per_second"]
        return {"rates": list(rates.values()), "rate": rates["median"]}

    return measured(command, read)


def of_toolkit(arguments, name, toolkit):
    command = [sys.executable, __file__, "--steps", str(arguments.steps), "--workload", name, "--measure", toolkit]

    def read(printed):
        rates = json.loads(printed.splitlines()[-1])
        return {"rates": rates, "rate": statistics.median(rates)}

    return measured(command, read)


def version_of(toolkit):
    try:
        return importlib.metadata.version(TOOLKITS[toolkit].package)
    except importlib.metadata.PackageNotFoundError:
        return None


def of_rounds(found):
    """The median of the rounds' medians, the least and most of all steps."""
    failed = next((one for one in found if "error" in one), None)
    if failed:
        return failed
    rates = [rate for one in found for rate in one["rates"]]
    return {"tokens_per_second": round(statistics.median(one["rate"] for one in found)), "least": round(min(rates)),
            "most": round(max(rates)), "gib": max(one["gib"] for one in found)}


def compared(arguments, name, toolkits):
    sides = {"outrider": lambda: of_outrider(arguments, name)}
    for toolkit in toolkits:
        sides[f"{toolkit} {version_of(toolkit)}"] = lambda toolkit=toolkit: of_toolkit(arguments, name, toolkit)
    found = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side, measure in sides.items():
            if not any("error" in one for one in found[side]):
                found[side].append(measure())
    results = {side: of_rounds(rounds) for side, rounds in found.items()}
    ours = results["outrider"].get("tokens_per_second")
    for side, result in results.items():
        if ours and side != "outrider" and "error" not in result:
            result["outrider_is"] = round(ours / result["tokens_per_second"], 3)
    return {"workload": name} | results


def show(result):
    print(result["workload"])
    for side, one in result.items():
        if side == "workload":
            continue
        if "error" in one:
            print(f"  {side:20} {one['error']}")
            continue
        ratio = f"  outrider is {one['outrider_is']:.2f} times as fast" if "outrider_is" in one else ""
        print(f"  {side:20} {one['tokens_per_second']:8,} tokens/s ({one['least']:,} to {one['most']:,})"
              f" {one['gib']:6.1f} GiB{ratio}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workload", action="append")
    parser.add_argument("--toolkit", action="append", choices=sorted(TOOLKITS))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--option", action="append", default=[], help="of outrider bench train, such as --base-precision=fp8")
    parser.add_argument("--program", default=str(ROOT / "build/bin/outrider"))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", choices=sorted(TOOLKITS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.workload or ["1b-k3-2048x8"]
    if arguments.measure:
        print("\n" + json.dumps(rates_of_toolkit(arguments.measure, names[0], arguments.steps)))
        return
    toolkits = arguments.toolkit or [name for name in TOOLKITS if version_of(name)]
    for name in names:
        result = compared(arguments, name, toolkits)
        print(json.dumps(result), flush=True) if arguments.json else show(result)


if __name__ == "__main__":
    main()
