"""EAGLE-3 drafts of Outrider and ModelOpt after equal seconds of training on equal data: tokens per pass of the base.

    draft_quality.py --model BASE --data SHARDS --draft-vocab D2T --prompts FILE --out DIR [--seconds 110] [--device cuda]
                     [--modelopt-learning-rate LR]… [--program outrider] [-- options of outrider train]

Each is trained in a process of its own with the device to itself, its clock started where its first step begins; then
`outrider eval` decodes all drafts greedily with one engine. ModelOpt takes 32 conversations a step, padded to one length,
by default at three learning rates, of which the best counts. Needs nvidia-modelopt and transformers.
"""

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

LEARNING_RATES = (1e-4, 1e-3, 2e-3)
ROWS, WARMUP = 32, 0.03
RECIPE = ("--packing", "--max-length", "512", "--per-device-train-batch-size", "8", "--learning-rate", "2e-3",
          "--lr-scheduler-type", "cosine", "--warmup-ratio", str(WARMUP), "--num-train-epochs", "1000", "--save", "full")


def conversations(folder):
    """(ids, mask) of each in a folder of token shards."""
    from safetensors.torch import load_file

    for shard in json.loads((folder / "shards.json").read_text())["shards"]:
        tensors = load_file(folder / shard["file"])
        offsets = tensors["offsets"].tolist()
        for begin, end in zip(offsets, offsets[1:], strict=False):
            yield tensors["input_ids"][begin:end].long(), tensors["loss_mask"][begin:end].long()


def batches(folder, device):
    """Endless: ids, attention mask and loss mask [32, longest of all], since ModelOpt keeps its attention masks."""
    import torch

    def padded(part, length):
        return torch.stack([torch.nn.functional.pad(row, (0, length - len(row))) for row in part])

    rows, draw = list(conversations(folder)), random.Random(0)
    longest = max(len(ids) for ids, _ in rows)
    while True:
        draw.shuffle(rows)
        for first in range(0, len(rows) - ROWS + 1, ROWS):
            ids, masks = zip(*rows[first:first + ROWS], strict=True)
            ones = [mask.new_ones(len(mask)) for mask in masks]
            yield [padded(part, longest).to(device, non_blocking=True) for part in (ids, ones, masks)]


def rate(progress):
    """Of the highest learning rate: linear warm-up, then a cosine down to zero."""
    if progress < WARMUP:
        return progress / WARMUP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARMUP) / (1 - WARMUP))))


def train_modelopt(arguments, learning_rate, out):
    """mtsp.convert on transformers' model in bfloat16 and autocast, as its example trains; saved as it saves."""
    import modelopt.torch.opt as mto
    import modelopt.torch.speculative as mtsp
    import torch
    from safetensors.torch import load_file
    from toolkits import modelopt_config
    from transformers import AutoModelForCausalLM

    mto.enable_huggingface_checkpointing()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).to(arguments.device)
    d2t = load_file(arguments.draft_vocab)["d2t"]
    config = modelopt_config(model.config.to_dict(), 3, len(d2t))
    with torch.device(arguments.device):
        mtsp.convert(model, [("eagle", config)])
    model.eagle_module.d2t.copy_(d2t)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0, fused=True)
    begin, steps, tokens = time.perf_counter(), 0, 0
    for ids, attention, mask in batches(arguments.data, arguments.device):
        done = (time.perf_counter() - begin) / arguments.seconds
        if done >= 1:
            break
        optimizer.param_groups[0]["lr"] = learning_rate * rate(done)
        with torch.autocast(torch.device(arguments.device).type, dtype=torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=attention, labels=ids, loss_mask=mask).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if steps % 8 == 0:
            loss.item()  # the clock counts what was computed
        steps, tokens = steps + 1, tokens + ids.numel()
    model.save_pretrained(out)
    for file in (*arguments.model.glob("tokenizer*"), *arguments.model.glob("chat_template*")):
        shutil.copy(file, out)
    print(json.dumps({"steps": steps, "tokens_per_second": round(tokens / arguments.seconds), "loss": loss.item()}))


def run(command):
    print("$", " ".join(map(str, command)), file=sys.stderr, flush=True)
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def train_outrider(arguments, options):
    converted, folder = arguments.out / "converted", arguments.out / "run"
    run([arguments.program, "convert", arguments.model, "--mode", "eagle", "--preset", "eagle3", "--draft-vocab",
         arguments.draft_vocab, "--set", "eagle_ttt_steps=3", "--out", converted])
    run([arguments.program, "train", converted, "--data", arguments.data, "--out", folder, "--device", arguments.device,
         "--max-seconds", arguments.seconds, *RECIPE, *options])
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return folder / "final", {name: last.get(name) for name in ("step", "tokens_per_second")}


def compared(arguments, options):
    folders, training = [], []
    if not arguments.only or arguments.only == "outrider":
        folder, figures = train_outrider(arguments, options)
        folders.append(folder)
        training.append(figures)
    rates = [] if arguments.only == "outrider" else arguments.modelopt_learning_rate or LEARNING_RATES
    for learning_rate in rates:
        folder = arguments.out / f"modelopt-{learning_rate:g}"
        training.append(json.loads(run([sys.executable, __file__, *sys.argv[1:], "--train-modelopt", learning_rate, "--save",
                                        folder]).splitlines()[-1]))
        folders.append(folder)
    printed = run([arguments.program, "eval", *folders, "--prompts", arguments.prompts, "--max-new-tokens", "64",
                   "--batch-size", "50", "--device", arguments.device, "--json"])
    shown = ("model", "drafter", "acceptance_length", "interval", "acceptance_by_position", "tokens_per_second", "speed_up")
    return {"drafts": [{"folder": folder.parent.name if folder.name == "final" else folder.name} | figures
                       for folder, figures in zip(folders, training, strict=True)],
            "eval": [{name: way[name] for name in shown} for way in json.loads(printed)["ways"]]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--data", "--draft-vocab", "--prompts", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=110, help="of training, each")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--program", default="outrider")
    parser.add_argument("--modelopt-learning-rate", type=float, action="append")
    parser.add_argument("--only", choices=("outrider", "modelopt"))
    parser.add_argument("--train-modelopt", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    arguments, options = parser.parse_known_args()
    if arguments.train_modelopt:
        return train_modelopt(arguments, arguments.train_modelopt, arguments.save)
    arguments.out.mkdir(parents=True, exist_ok=True)
    return print(json.dumps(compared(arguments, [option for option in options if option != "--"]), indent=1))


if __name__ == "__main__":
    main()
