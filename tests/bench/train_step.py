"""Compares one EAGLE-3 training step on the CPU with ModelOpt's, side by side in one run.

usage: train_step.py MODEL [--batch B] [--length S] [--ttt K] [--steps N] [--rounds R]
                     [--build build] [--peers .venv-peers]

Both train the same draft on the same tokens: bfloat16 base and draft, full vocabulary, AdamW and
clipping included, torch.compile off. The two programs run in turn, as processes of their own; the
ratios are those of the medians over all rounds.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def draft_config(model_dir, ttt_steps):
    base = json.loads((pathlib.Path(model_dir) / "config.json").read_text())
    keys = ("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    return {
        "eagle_ttt_steps": ttt_steps,
        "eagle_use_torch_compile": False,
        "eagle_architecture_config": {key: base[key] for key in keys},
    }


def run(command):
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def prepare(args, folder):
    config = draft_config(args.model, args.ttt)
    vocabulary = json.loads((pathlib.Path(args.model) / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    save_file({"input_ids": torch.randint(0, vocabulary, (args.batch, args.length))}, folder / "batch.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    program = str(args.build / "bin" / "outrider")
    subprocess.run([program, "convert", args.model, "--mode", "eagle", "--config", str(folder / "config.json"),
                    "--reference-numerics", "0.47", "--dtype", "bfloat16", "--out", str(folder / "converted")],
                   check=True, stdout=subprocess.DEVNULL)
    return config


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--ttt", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--peers", type=pathlib.Path, default=ROOT / ".venv-peers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        config = prepare(args, folder)
        batch = str(folder / "batch.safetensors")
        commands = {
            "outrider": [str(args.build / "bin" / "train_step"), str(folder / "converted"), batch, str(args.steps)],
            "modelopt": [str(args.peers / "bin" / "python"), str(HERE / "reference_train_step.py"), args.model, batch,
                         str(args.steps), json.dumps(config)],
        }
        results = {name: [] for name in commands}
        for _ in range(args.rounds):
            for name, command in commands.items():
                results[name].append(run(command))
    report(args, results)


def report(args, results):
    medians = {name: {key: statistics.median(r[key] for r in runs) for key in ("median_seconds", "peak_megabytes")}
               for name, runs in results.items()}
    print(f"EAGLE-3 step, {args.batch} x {args.length} tokens, TTT {args.ttt}, bfloat16, "
          f"{results['outrider'][0]['threads']} threads, {args.rounds} rounds of {args.steps} steps")
    for name, values in medians.items():
        print(f"  {name:9s} {values['median_seconds']:.3f} s/step  "
              f"{args.batch * args.length / values['median_seconds']:.0f} tokens/s  "
              f"peak {values['peak_megabytes']:.0f} MiB")
    speed = medians["modelopt"]["median_seconds"] / medians["outrider"]["median_seconds"]
    memory = medians["outrider"]["peak_megabytes"] / medians["modelopt"]["peak_megabytes"]
    print(f"  speed {speed:.2f}x, memory {memory:.2f}x")


if __name__ == "__main__":
    main()
