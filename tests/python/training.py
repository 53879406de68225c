"""Short runs of transformers' Trainer."""

import torch
from transformers import Trainer, TrainingArguments


def rows(count=16, length=24, vocabulary=80, labels=False):
    """Drawn conversations; labels as ModelOpt's collator makes them."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, vocabulary, (count, length), generator=generator)
    drawn = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
    if labels:
        for row in drawn:
            row["labels"] = torch.cat([row["input_ids"][1:], torch.tensor([-100])])
    return drawn


def trainer(model, out, data, collator=None, evaluation=None, **changes):
    options = {"per_device_train_batch_size": 4, "max_steps": 6, "logging_steps": 1,
               "learning_rate": 1e-2, "save_strategy": "no", "report_to": [], "use_cpu": True,
               "disable_tqdm": True, "seed": 0} | changes
    return Trainer(model, TrainingArguments(output_dir=str(out), **options), train_dataset=data,
                   eval_dataset=evaluation, data_collator=collator)


def logged(run, name):
    return [entry[name] for entry in run.state.log_history if name in entry]
