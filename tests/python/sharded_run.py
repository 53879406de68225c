"""One process of a run with FSDP2; writes what rank 0 saw to the file that is named.

    torchrun --nproc-per-node N sharded_run.py OUT [--by-hand-head] [--resume FOLDER] [--steps N]
"""

import argparse
import os

import torch
import torch.distributed as dist
from small_models import EAGLE, batch, llama, made
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import fully_shard

import outrider.opt as mto
import outrider.speculative as mtsp

ROWS = 4


def sharded(model, head_apart):
    for layer in model.model.layers:
        fully_shard(layer)
    if head_apart:
        fully_shard(model.lm_head)
    fully_shard(model.eagle_module)
    return fully_shard(model)


def share(full, rank, world):
    size = ROWS // world
    return {name: tensor[rank * size:(rank + 1) * size] for name, tensor in full.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--head-apart", action="store_true")
    parser.add_argument("--trains-base", action="store_true")
    parser.add_argument("--state")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    config = EAGLE | {"eagle_freeze_base_model": not options.trains_base}
    model = mtsp.convert(made(llama), [("eagle", config)]).train()
    model = sharded(model, options.head_apart)
    if options.resume:
        state = get_model_state_dict(model)
        checkpoint.load(state, checkpoint_id=options.state)
        set_model_state_dict(model, state)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    seen = {"losses": []}
    for step in range(3):
        full = batch(ROWS, seed=step)
        full.pop("attention_mask")
        loss = model(**share(full, rank, world)).loss
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        seen["losses"].append(mean.item() / world)
        if step == 0:
            seen["gradients"] = {name: p.grad.full_tensor() for name, p in trained.items()}
        optimizer.step()
        optimizer.zero_grad()
    if options.state and not options.resume:
        checkpoint.save(get_model_state_dict(model), checkpoint_id=options.state)
        mto.save(model, options.state + ".safetensors")
    if rank == 0:
        torch.save(seen, options.out)
    dist.barrier()  # who leaves first takes Gloo's connections with it


main()
# LibTorch's own end of a process with Gloo aborts at times; what is tested is done and written.
os._exit(0)
