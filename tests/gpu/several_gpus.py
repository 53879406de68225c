"""`outrider train` on several GPUs of one host: equal to one CPU process, and how fast.

    several_gpus.py check WORK               a small model in float32: shared, sharded, divided sequences
    several_gpus.py time WORK --shape 1b|8b  bfloat16, random weights: tokens/s of one GPU and of all

OUTRIDER names the program (default: the bundle's that this file lies in). Needs torch, numpy, safetensors.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from gpu_check import CONFIG, make_base, make_shards
from peak_memory import PeakMemory
from safetensors.torch import save_file
from step_trace import summary

HERE = Path(__file__).resolve().parent
OUTRIDER = os.environ.get("OUTRIDER", str(HERE / "../../../bin/outrider"))
VOCABULARY, DRAFT_VOCABULARY = 128256, 32000
TRACED = 3  # steps
SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
           "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
    "smol": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
             "tie_word_embeddings": True, "vocab_size": 49152}}


def outrider(*arguments, processes=1):
    """Runs the program; returns what it said on stderr."""
    command = [OUTRIDER, *map(str, arguments)]
    if processes > 1:
        command = ["torchrun", "--standalone", "--nproc-per-node", str(processes), "--no-python", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    return done.stderr


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


# ---- check -----------------------------------------------------------------------------------------


def losses(work, name, processes, *options):
    run = work / name
    shutil.rmtree(run, ignore_errors=True)
    outrider("train", work / "eagle", "--data", work / "shards", "--eval-data", work / "shards",
             "--out", run, "--max-steps", 6, "--logging-steps", 1, "--learning-rate", 1e-3,
             "--save", "draft", "--max-length", 250, *options, processes=processes)
    evaluated = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["eval"]
    return [line["loss"] for line in metrics(run)] + [evaluated["drafts"][0]["loss"]]


def check(work, gpus):
    make_base(work)
    outrider("convert", work / "base", "--mode", "eagle", "--preset", "eagle3", "--out", work / "eagle")
    expected = losses(work, "cpu", 1, "--per-device-train-batch-size", 2 * gpus)
    share = ("--device", "cuda", "--per-device-train-batch-size", 2)
    runs = {"shared": share, "sharded": (*share, "--shard-base"),
            "sequences": ("--device", "cuda", "--sequence-parallel", gpus,
                          "--per-device-train-batch-size", 2 * gpus)}
    for name, options in runs.items():
        actual = losses(work, name, gpus, *options)
        worst = max(abs(a - b) / abs(b) for a, b in zip(actual, expected, strict=True))
        print(f"{name}: {len(actual)} losses on {gpus} GPUs and on the CPU differ by {worst:.1e} at most")
        if not worst < 1e-4:
            sys.exit(f"{actual}\n{expected}")


# ---- time ------------------------------------------------------------------------------------------


def save_random(folder, config):
    """Checkpoint files with weights drawn on the GPU."""
    draw = torch.Generator(device="cuda").manual_seed(1)
    index = {}

    def put(shapes):
        file = f"model-{len(index):05d}.safetensors"
        save_file({name: (torch.randn(*shape, generator=draw, device="cuda") * 0.02).bfloat16().cpu()
                   for name, shape in shapes.items()}, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(shapes, file))

    hidden, mid, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    queries, keys = (config[name] * config["head_dim"]
                     for name in ("num_attention_heads", "num_key_value_heads"))
    outer = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    put(outer if config["tie_word_embeddings"] else {**outer, "lm_head.weight": (vocab, hidden)})
    for layer in range(config["num_hidden_layers"]):
        put({f"model.layers.{layer}.{name}.weight": shape for name, shape in {
            "self_attn.q_proj": (queries, hidden), "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, queries),
            "mlp.gate_proj": (mid, hidden), "mlp.up_proj": (mid, hidden), "mlp.down_proj": (hidden, mid),
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}.items()})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def make_shape(work, shape, ttt):
    """A base of that shape, made once, and a draft for it."""
    if not (work / shape / "config.json").exists():
        make_weights(work, shape)
    draft = work / f"{shape}-k{ttt}"
    if (draft / "config.json").exists():
        return draft
    ids = torch.arange(DRAFT_VOCABULARY)
    vocabulary = SHAPES[shape].get("vocab_size", VOCABULARY)
    save_file({"d2t": ids * vocabulary // DRAFT_VOCABULARY - ids}, work / "d2t.safetensors")
    outrider("convert", work / shape, "--mode", "eagle", "--preset", "eagle3", "--set", f"eagle_ttt_steps={ttt}",
             "--set", f"eagle_architecture_config.draft_vocab_size={DRAFT_VOCABULARY}",
             "--draft-vocab", work / "d2t.safetensors", "--out", draft)
    return draft


def make_weights(work, shape):
    config = {**CONFIG, "vocab_size": VOCABULARY, **SHAPES[shape], "dtype": "bfloat16",
              "max_position_embeddings": 131072}
    base = work / shape
    base.mkdir(parents=True)
    save_random(base, config)
    (base / "config.json").write_text(json.dumps(config))
    torch.cuda.empty_cache()


def make_rows(work, length):
    if not (work / f"shards-{length}").exists():
        make_shards(work / f"shards-{length}", 128256, rows=max(16, 131072 // length), length=length)


def timed(work, model, name, processes, batch, length, *options, data=None):
    run = work / f"run-{name}"
    shutil.rmtree(run, ignore_errors=True)
    with PeakMemory() as peak:
        outrider("train", model, "--data", data or work / f"shards-{length}", "--out", run, "--device", "cuda",
                 "--dtype", "bfloat16", "--max-steps", 14, "--logging-steps", 1, "--max-length", length,
                 "--per-device-train-batch-size", batch, "--save", "draft", "--trace-steps", TRACED,
                 *options, processes=processes)
    trace = summary(run / "trace.json", TRACED)
    rates = [line["tokens_per_second"] for line in metrics(run)][4 + TRACED:]
    found = {"run": name, "GPUs": processes, "tokens_per_second": round(statistics.median(rates)),
             "least": round(min(rates)), "most": round(max(rates)), "peak_gib": round(peak.gib, 1),
             "losses": [round(line["loss"], 4) for line in metrics(run)[:3]], "trace": trace}
    print(json.dumps(found), flush=True)
    return found


def measure(work, shape, gpus, batch, ttt, long):
    print(torch.cuda.get_device_name(), shape, f"K {ttt}", flush=True)
    model = make_shape(work, shape, ttt)
    for length in (2048, long):
        make_rows(work, length)
    timed(work, model, "one", 1, batch, 2048)
    timed(work, model, "shared", gpus, batch, 2048)
    timed(work, model, "sharded", gpus, batch, 2048, "--shard-base")
    timed(work, model, "long-one", 1, 1, long)
    timed(work, model, "long-divided", gpus, 1, long, "--sequence-parallel", gpus)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("check", "time"))
    parser.add_argument("work", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--ttt-steps", type=int, default=3)
    parser.add_argument("--long", type=int, default=16384)
    arguments = parser.parse_args()
    gpus = torch.cuda.device_count()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.what == "check":
        check(arguments.work, gpus)
    else:
        measure(arguments.work, arguments.shape, gpus, arguments.batch, arguments.ttt_steps, arguments.long)


if __name__ == "__main__":
    main()
