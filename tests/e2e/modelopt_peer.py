"""Run by ModelOpt's environment: restores folders, trains a step on each, saves them again.

Reads [{"folder": …, "inputs": FILE, "out": FOLDER}, …] on stdin; prints one JSON list."""

import contextlib
import json
import sys

import modelopt.torch.opt as mto
import modelopt.torch.speculative.plugins.transformers as plugin  # registers the modes
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

plugin.enable_cp_ttt_patch = contextlib.nullcontext  # of 0.42: wants cuDNN's attention
CALL = ("input_ids", "attention_mask", "labels", "loss_mask")


def run(case):
    # weights_only is torch's default, and ModelOpt leaves it.
    model = AutoModelForCausalLM.from_pretrained(case["folder"])
    model.train()
    inputs = load_file(case["inputs"])
    output = model(**{name: inputs[name] for name in CALL if name in inputs})
    model.save_pretrained(case["out"])
    mto.save(model, case["out"] + "/mto.pth")
    return {"class": type(model).__name__, "loss": output.loss.item(),
            "state": mto.modelopt_state(model)["modelopt_state_dict"]}


def main():
    torch.set_num_threads(1)
    mto.enable_huggingface_checkpointing()
    cases = json.load(sys.stdin)
    print(json.dumps([run(case) for case in cases]))


if __name__ == "__main__":
    main()
