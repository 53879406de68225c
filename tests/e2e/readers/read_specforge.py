"""read_specforge.py FOLDER BATCH OUT …: what SpecForge computes from exported drafts.

A BATCH holds "hidden" [1,S,K·H] and "embeddings" [1,S,h], those of the tokens that the draft reads;
OUT gets "logits" [1,S,Vd], "target_ids" [Vd] and "t2d" [V]."""

import sys

import torch
from safetensors.torch import load_file, save_file
from specforge.modeling.auto import AutoDraftModel, AutoDraftModelConfig


def read(folder, batch):
    model = AutoDraftModel.from_config(AutoDraftModelConfig.from_file(f"{folder}/config.json"))
    loading = model.load_state_dict(load_file(f"{folder}/model.safetensors"), strict=False)
    assert set(loading.missing_keys) <= {"embed_tokens.weight"}, loading  # the base's
    assert not loading.unexpected_keys, loading
    model.eval()
    length = batch["hidden"].shape[1]
    with torch.no_grad():
        state = model.backbone(
            input_embeds=batch["embeddings"],
            hidden_states=model.project_hidden_states(batch["hidden"]), cache_hidden=None,
            attention_mask=None, position_ids=torch.arange(length).unsqueeze(0))
        logits = model.compute_logits(state)
    return {"logits": logits.contiguous(), "t2d": model.t2d,
            "target_ids": model.d2t + torch.arange(len(model.d2t))}


for folder, batch, out in zip(*[iter(sys.argv[1:])] * 3, strict=True):
    save_file(read(folder, load_file(batch)), out)
