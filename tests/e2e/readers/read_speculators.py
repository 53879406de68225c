"""read_speculators.py FOLDER BATCH OUT …: what speculators computes from exported drafts.

A BATCH holds "hidden" [1,S,K·h] and "input_ids" [1,S]; OUT gets "logits" [1,S,Vd] and, where the
vocabulary is reduced, "target_ids" [Vd]."""

import sys

import torch
from safetensors.torch import load_file, save_file
from speculators.models.eagle3 import Eagle3DraftModel, Eagle3SpeculatorConfig


def read(folder, batch):
    config = Eagle3SpeculatorConfig.from_pretrained(folder)
    config.transformer_layer_config._attn_implementation = "eager"
    model = Eagle3DraftModel.from_pretrained(folder, config=config).eval()
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    ids = batch["input_ids"]
    with torch.no_grad():
        model(hidden_states=batch["hidden"], input_ids=ids, document_ids=torch.zeros_like(ids),
              ttt_steps=1)
    results = {"logits": seen[0].contiguous()}
    if model.d2t is not None:
        results["target_ids"] = model.d2t + torch.arange(len(model.d2t))
    return results


for folder, batch, out in zip(*[iter(sys.argv[1:])] * 3, strict=True):
    save_file(read(folder, load_file(batch)), out)
