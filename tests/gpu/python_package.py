"""The package on GPUs: equal to the CPU, sharded equal to whole, and how fast.

    python3 tests/gpu/python_package.py check                     one GPU against the CPU
    torchrun --nproc-per-node N tests/gpu/python_package.py accelerate   FSDP2 by accelerate
    torchrun --nproc-per-node N tests/gpu/python_package.py train --shape 1b|8b [--rows N] [--shard]

`train` prints tokens/s over all GPUs. The base has random weights; without --shard every GPU holds
the whole model and the draft's gradients are averaged (DDP), with it FSDP2 shards base and draft.
"""

import argparse
import json
import os
import sys
import time

import torch
import torch.distributed as dist
from step_trace import both, covered, length
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

import outrider.speculative as mtsp

SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
}


def made(shape, device, dtype):
    torch.manual_seed(0)
    sizes = SHAPES[shape]
    draft = {key: sizes[key] for key in ("intermediate_size", "num_attention_heads",
                                         "num_key_value_heads")}
    draft["head_dim"] = sizes["hidden_size"] // sizes["num_attention_heads"]
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=4096)).to(dtype)
    return mtsp.convert(model, [("eagle", {"eagle_architecture_config": draft})]).train()


def check():
    ids = torch.randint(0, 512, (4, 64), generator=torch.Generator().manual_seed(1))
    results = []
    model = made("tiny", "cpu", torch.float32)
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        loss = model(input_ids=ids.to(device)).loss
        loss.backward()
        results.append([loss.detach().cpu()] + [p.grad.clone().cpu() for p in model.parameters()
                                                if p.requires_grad])
    for on_cpu, on_gpu in zip(*results, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-5)
    print(f"cpu {results[0][0]:.6f}, cuda {results[1][0]:.6f}: losses and gradients agree")


def accelerated():
    """FSDP2 as accelerate sets it up against the whole model on one GPU; saved and read again."""
    import tempfile

    from accelerate import Accelerator, FullyShardedDataParallelPlugin

    accelerator = Accelerator(fsdp_plugin=FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False,
        transformer_cls_names_to_wrap=["LlamaDecoderLayer", "DraftModule"]))
    rank, world = accelerator.process_index, accelerator.num_processes
    ids = torch.randint(0, 512, (4, 64), generator=torch.Generator().manual_seed(1)).cuda()
    whole = made("tiny", accelerator.device, torch.float32)
    whole(input_ids=ids).loss.backward()
    model = made("tiny", accelerator.device, torch.float32)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model, optimizer = accelerator.prepare(model, optimizer)
    size = len(ids) // world
    accelerator.backward(model(input_ids=ids[rank * size:(rank + 1) * size]).loss)
    expected = dict(whole.named_parameters())
    count = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad.full_tensor(), expected[name].grad,
                                       rtol=1e-3, atol=1e-5)
            count += 1
    optimizer.step()
    state = accelerator.get_state_dict(model)
    if rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            accelerator.unwrap_model(model).save_pretrained(folder, state_dict=state)
            files = sorted(os.listdir(folder))
        print(f"{world} GPUs, {type(parameter).__name__}: {count} gradients agree; saved {files}",
              flush=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def sharded(model):
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model.eagle_module, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    return fully_shard(model)


def train(options):
    rank = int(os.environ.get("LOCAL_RANK", 0))
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", device_id=torch.device("cuda", rank))
    world = dist.get_world_size()
    model = made(options.shape, f"cuda:{rank}", torch.bfloat16)
    if options.shard:
        model = sharded(model)
    elif world > 1:
        model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    generator = torch.Generator().manual_seed(rank)
    ids = torch.randint(0, 128000, (options.rows, options.length), generator=generator).cuda()
    for step in range(options.steps + 3):
        if step == 3:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            dist.barrier()
            begin = time.perf_counter()
        model(input_ids=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    dist.barrier()
    seconds = (time.perf_counter() - begin) / options.steps
    if rank == 0:
        print(json.dumps({
            "shape": options.shape, "gpus": world, "sharded": options.shard, "step_s": seconds,
            "tokens_per_s": world * ids.numel() / seconds,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30}), flush=True)
    if options.profile:
        overlap(model, ids, rank)
    dist.destroy_process_group()


def overlap(model, ids, rank):
    """How much of the communication of a step runs while something is computed."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        model(input_ids=ids).loss.backward()
        torch.cuda.synchronize()
    kernels = [(event.name, event.time_range.start, event.time_range.end)
               for event in seen.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    sending = covered((b, e) for name, b, e in kernels if "nccl" in name)
    computing = covered((b, e) for name, b, e in kernels if "nccl" not in name)
    total = length(sending)
    if rank == 0 and total:
        print(f"communication {total / 1e3:.1f} ms a step, "
              f"{both(sending, computing) / total:.0%} of it beside computation", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["check", "accelerate", "train"])
    parser.add_argument("--shape", default="1b", choices=list(SHAPES))
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--shard", action="store_true")
    parser.add_argument("--profile", action="store_true", help="print what overlaps")
    options = parser.parse_args()
    runs = {"check": check, "accelerate": accelerated, "train": lambda: train(options)}
    return runs[options.what]()


if __name__ == "__main__":
    sys.exit(main())
