"""The parts of run.sh that look into files.

    gpu_check.py base FOLDER          writes FOLDER/base, a small random Llama, and FOLDER/shards for it
    gpu_check.py batch BASE FILE      a batch of random tokens of that model's vocabulary
    gpu_check.py compare FILE FILE    fails unless both hold the same tensors up to rounding
    gpu_check.py losses METRICS       fails unless the loss of a training run is finite and falls
    gpu_check.py prompts BASE FILE    prompts of random tokens, of different lengths
    gpu_check.py answers FILE FILE…   fails unless all hold the first one's tokens
    gpu_check.py same METRICS METRICS…   fails unless all runs have the first one's losses up to rounding
    gpu_check.py curve METRICS METRICS   fails unless the runs' losses, averaged over 20 steps, follow one curve
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

NOISE = 5e-3  # of a mean loss, between arithmetic in float32 and in bfloat16
TOLERANCE = 1e-3  # of a tensor's largest magnitude, float32 against float32
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32",
    "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "attention_bias": False, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


def base_tensors():
    hidden, mid, vocab = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    keys = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    layer = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mid, hidden), "mlp.up_proj": (mid, hidden), "mlp.down_proj": (hidden, mid)}
    tensors = {"model.embed_tokens.weight": torch.randn(vocab, hidden),
               "model.norm.weight": torch.ones(hidden),
               "lm_head.weight": torch.randn(vocab, hidden) * 0.25}
    for i in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        for name, shape in layer.items():
            tensors[f"{prefix}{name}.weight"] = torch.randn(shape) * 0.04
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = torch.ones(hidden)
    return tensors


def make_shards(folder, vocab, rows=128, length=256):
    """Texts of few distinct tokens: what follows what can be learnt in some steps."""
    sys.path.append(str(Path(__file__).resolve().parents[3] / "lib/outrider/python"))  # of a bundle
    from outrider.text.shard_writer import ShardWriter

    folder.mkdir(parents=True)
    writer = ShardWriter(folder, shard_tokens=1 << 21)
    for _ in range(rows):
        ids = torch.randint(3, vocab // 16, (length,), dtype=torch.int32)
        writer.add(ids.numpy().astype("<i4").tobytes(), bytes([1]) * len(ids))
    writer.flush()
    description = {"format_version": 1, "kind": "tokens", "vocab_size": vocab,
                   "special_token_ids": [1, 2], "shards": writer.shards}
    (folder / "shards.json").write_text(json.dumps(description))


def make_base(folder):
    torch.manual_seed(1)
    base = Path(folder, "base")
    base.mkdir(parents=True)
    (base / "config.json").write_text(json.dumps(CONFIG, indent=2))
    save_file(base_tensors(), base / "model.safetensors", metadata={"format": "pt"})
    make_shards(Path(folder, "shards"), CONFIG["vocab_size"])


def make_batch(base, file):
    torch.manual_seed(2)
    vocab = json.loads(Path(base, "config.json").read_text())["vocab_size"]
    ids = torch.randint(0, vocab, (3, 96))
    mask = torch.ones_like(ids)
    mask[2, 70:] = 0
    save_file({"input_ids": ids, "attention_mask": mask, "loss_mask": mask.clone()}, file)


def make_prompts(base, file):
    torch.manual_seed(3)
    vocab = json.loads(Path(base, "config.json").read_text())["vocab_size"]
    lengths = (5, 40, 17, 64, 1, 29)
    Path(file).write_text("".join(
        json.dumps({"input_ids": torch.randint(3, vocab, (length,)).tolist()}) + "\n" for length in lengths))


def answers(expected_file, *files):
    expected = [json.loads(line)["token_ids"] for line in Path(expected_file).read_text().splitlines()]
    for file in files:
        lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
        rate = sum(line["tokens_per_second"] for line in lines) / len(lines)
        print(f"{Path(file).stem}: {len(lines)} answers, {rate:.0f} tokens/s")
        if [line["token_ids"] for line in lines] != expected:
            sys.exit(f"{file}: other tokens than {expected_file}")


def compare(actual_file, expected_file):
    actual, expected = load_file(actual_file), load_file(expected_file)
    if actual.keys() != expected.keys():
        sys.exit(f"only in one file: {sorted(actual.keys() ^ expected.keys())}")
    worst = {}
    for name, tensor in expected.items():
        scale = tensor.double().abs().max().item() or 1.0
        worst[name] = (actual[name].double() - tensor.double()).abs().max().item() / scale
    for name, error in sorted(worst.items(), key=lambda item: -item[1])[:5]:
        print(f"{error:10.2e}  {name}")
    bad = [name for name, error in worst.items() if not error < TOLERANCE]
    if bad:
        sys.exit(f"{len(bad)} of {len(worst)} tensors differ: {bad}")
    print(f"{len(worst)} tensors agree")


def losses(file):
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    first, last = (sum(line["loss"] for line in part) / len(part)
                   for part in (steps[:3], steps[-3:]))
    rate = steps[-1].get("tokens_per_second", 0)
    print(f"loss {first:.4f} → {last:.4f} in {len(steps)} logged steps, {rate:.0f} tokens/s")
    if not last < first < float("inf"):
        sys.exit("the loss does not fall")


def losses_of(file):
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def same(expected_file, *files):
    expected = losses_of(expected_file)
    for file in files:
        actual = losses_of(file)
        worst = max(abs(a - b) / b for a, b in zip(actual, expected, strict=True))
        print(f"{worst:10.2e}  {Path(file).parent.name}, {len(actual)} steps")
        if not worst < TOLERANCE:
            sys.exit(f"{file}: other losses than {expected_file}")


def curve(expected_file, file, window=20):
    expected, actual = losses_of(expected_file), losses_of(file)
    windows = range(0, len(expected) - window + 1, window)
    of_means = [sum(actual[i:i + window]) / sum(expected[i:i + window]) - 1 for i in windows]
    print(f"{len(expected)} steps, loss {expected[0]:.4f} → {expected[-1]:.4f}; means of {window} differ by "
          + ", ".join(f"{100 * off:+.2f}" for off in of_means) + " %")
    if len(actual) != len(expected) or not all(abs(off) < NOISE for off in of_means):
        sys.exit(f"{file}: another curve than {expected_file}")


if __name__ == "__main__":
    commands = {"base": make_base, "batch": make_batch, "compare": compare, "losses": losses, "same": same, "curve": curve,
                "prompts": make_prompts, "answers": answers}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
