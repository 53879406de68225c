"""ModelOpt in the same Trainer: modelopt_trainer.py FOLDER OUT prints the losses of a run that
starts from FOLDER, and leaves the trained model in OUT."""

import json
import sys

import modelopt.torch.opt as mto
import modelopt.torch.speculative.plugins.transformers  # noqa: F401 (registers the modes)
import torch
from training import logged, rows, trainer
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
mto.enable_huggingface_checkpointing()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
for name, parameter in model.named_parameters():  # transformers 5 loses what was frozen
    parameter.requires_grad_(name.startswith(("eagle_module", "medusa_heads")))
run = trainer(model, sys.argv[2] + "-run", rows(labels=hasattr(model, "medusa_heads")))
run.train()
run.save_model(sys.argv[2])
print(json.dumps({"losses": logged(run, "loss")}))
