"""Compares the loss of a draft's steps on the CPU: over a stack of their rows, over the rows where they
are, and by each divergence, side by side in one run.

usage: streaming_loss.py [--rows N] [--hidden H] [--vocabulary V] [--steps K] [--times R] [--rounds R]
                         [--build build]

The ways run in turn, as processes of their own; a time is the median over all rounds.
"""

import argparse
import json
import pathlib
import statistics
import subprocess

WAYS = ("stacked", "cross_entropy", "reverse_kl", "jsd", "total_variation", "lk")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 512), ("hidden", 512), ("vocabulary", 32000), ("steps", 4), ("times", 3),
                          ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    args = parser.parse_args()
    program = next(args.build.rglob("streaming_loss"))
    sizes = [str(size) for size in (args.rows, args.hidden, args.vocabulary, args.steps, args.times)]
    found = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way in WAYS:
            done = subprocess.run([program, way, *sizes], check=True, capture_output=True, text=True)
            found[way].append(json.loads(done.stdout))
    first = statistics.median(run["median_seconds"] for run in found["stacked"])
    print(f"{'way':<16} {'ms':>8} {'of stacked':>10} {'peak MiB':>9} {'loss':>10}")
    for way, runs in found.items():
        seconds = statistics.median(run["median_seconds"] for run in runs)
        print(f"{way:<16} {seconds * 1e3:8.1f} {seconds / first:10.2f} {runs[0]['peak_megabytes']:9.0f} "
              f"{runs[0]['loss']:10.5f}")


if __name__ == "__main__":
    main()
