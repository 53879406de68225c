"""One EAGLE-3 training step of ModelOpt on the CPU, timed like train_step.cpp; prints one JSON object.

usage: reference_train_step.py MODEL BATCH.safetensors STEPS CONFIG_JSON
"""

import json
import resource
import statistics
import sys
import time

import modelopt.torch.speculative as mtsp
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main(model_dir, batch_file, steps, config):
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16)
    mtsp.convert(model, [("eagle", config)])
    model.train()
    input_ids = load_file(batch_file)["input_ids"]
    mask = torch.ones_like(input_ids)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
    seconds, losses = [], []
    for i in range(steps + 1):  # the first one warms up
        begin = time.perf_counter()
        output = model(input_ids=input_ids, attention_mask=mask)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(output.loss.item())
        if i > 0:
            seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    return {
        "median_seconds": median,
        "tokens_per_second": input_ids.numel() / median,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": torch.get_num_threads(),
        "losses": losses,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))))
