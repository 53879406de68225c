"""One EAGLE-3 training step in Python: Outrider's package beside ModelOpt, on the same base and batch.

    .venv-python/bin/python tests/bench/python_step.py [--steps N] [--rounds N]

Each side runs in a process of its own, in turn; printed are the medians, their ratio, and what the
package adds to a step beside the base's and the draft's computation: binding the draft's tensors.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
         "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
         "head_dim": 64, "max_position_embeddings": 2048, "tie_word_embeddings": True}
DRAFT = {"intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
         "head_dim": 64}


def converted(side):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    if side == "outrider":
        sys.path.insert(0, str(ROOT / "build/python"))
        import outrider.speculative as mtsp

        return mtsp.convert(model, [("eagle", {"eagle_architecture_config": DRAFT})])
    import modelopt.torch.speculative as mtsp

    return mtsp.convert(model, [("eagle", {"eagle_architecture_config": DRAFT,
                                           "eagle_use_torch_compile": False})])


def binding_time(model):
    draft = getattr(model, "eagle_module", None)
    if not hasattr(draft, "_attached"):
        return None
    begin, count = time.perf_counter(), 200
    for _ in range(count):
        draft._attached.bind(draft._tensors())
    return (time.perf_counter() - begin) / count


def run(side, steps, rows, length):
    import torch

    model = converted(side).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.randint(0, SHAPE["vocab_size"], (rows, length))
    times = []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        model(input_ids=ids, attention_mask=torch.ones_like(ids)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": statistics.median(times[1:]), "binding": binding_time(model)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    options = parser.parse_args()
    if options.side:
        return run(options.side, options.steps, options.rows, options.length)
    results = {"outrider": [], "modelopt": []}
    for _ in range(options.rounds):
        for side, found in results.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            done = subprocess.run(command, capture_output=True, text=True, check=True,
                                  env={**os.environ, "HF_HUB_OFFLINE": "1"})
            found.append(json.loads(done.stdout.splitlines()[-1]))
    ours, theirs = (statistics.median(one["seconds"] for one in found)
                    for found in results.values())
    print(f"outrider {ours:.3f} s, modelopt {theirs:.3f} s a step: {theirs / ours:.2f} times as fast")
    binding = statistics.median(one["binding"] for one in results["outrider"])
    print(f"binding the draft's tensors: {binding * 1e3:.3f} ms a step")


main()
