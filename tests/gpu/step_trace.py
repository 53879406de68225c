"""What `outrider train --trace-steps N` recorded on a GPU: time by kind of kernel, and how much of the
communication ran beside computation.

    step_trace.py RUN/trace.json [N]       N: the steps recorded, default 3
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

KINDS = (("communication", r"nccl"), ("product", r"gemm|cutlass|nvjet|cublas|xmma"),
         ("attention", r"flash|fmha|cudnn|attention"), ("copy", r"memcpy|memset|copy_kernel|CatArray"),
         ("optimizer", r"adam|multi_tensor"), ("outrider", r"outrider"), ("reduction", r"reduce"),
         ("elementwise", r"elementwise|vectorized|unrolled"))


def kind_of(name):
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "other")


def kernels(file):
    events = json.loads(Path(file).read_text())["traceEvents"]
    wanted = ("kernel", "gpu_memcpy", "gpu_memset")
    return [(event["ts"], event["ts"] + event["dur"], event["name"])
            for event in events if event.get("cat") in wanted]


def covered(intervals):
    """The union of intervals, in order."""
    merged = []
    for begin, end in sorted(intervals):
        if merged and begin <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([begin, end])
    return merged


def length(intervals):
    return sum(end - begin for begin, end in intervals)


def both(a, b):
    """How long two lists of disjoint intervals, in order, overlap."""
    total, i, j = 0.0, 0, 0
    while i < len(a) and j < len(b):
        total += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return total


def summary(file, steps):
    """Milliseconds a step."""
    found = kernels(file)
    if not found:
        return {}
    times, counts, names = Counter(), Counter(), Counter()
    for begin, end, name in found:
        times[kind_of(name)] += end - begin
        counts[kind_of(name)] += 1
        names[name[:90]] += end - begin
    sending = covered((begin, end) for begin, end, name in found if kind_of(name) == "communication")
    computing = covered((begin, end) for begin, end, name in found if kind_of(name) != "communication")
    span = max(end for _, end, _ in found) - min(begin for begin, _, _ in found)

    def per_step(microseconds):
        return round(microseconds / 1000 / steps, 2)

    result = {"span": per_step(span), "busy": per_step(length(covered((b, e) for b, e, _ in found))),
              "kinds": {kind: [per_step(time), counts[kind] // steps] for kind, time in times.most_common()},
              "longest": {name: per_step(time) for name, time in names.most_common(14)}}
    if sending:
        result["communication"] = {"time": per_step(length(sending)),
                                   "beside computation": round(both(sending, computing) / length(sending), 3)}
    return result


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    print(json.dumps(summary(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3), indent=1))
