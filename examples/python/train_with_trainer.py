"""Attach an EAGLE-3 draft to a model and train it with transformers' Trainer.

    python examples/python/train_with_trainer.py MODEL CHATS.jsonl OUT [--max-steps N] …

CHATS.jsonl has one conversation a line, {"messages": [{"role": …, "content": …}, …]}. The answers
of the assistant are trained on. OUT is an ordinary Hugging Face folder with the draft in it.
"""

import argparse
import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import outrider.opt as mto
import outrider.speculative as mtsp


def conversations(path, tokenizer, max_length):
    """Token ids, and labels that are -100 where the assistant does not speak."""
    with open(path) as file:
        for line in file:
            messages = json.loads(line)["messages"]
            ids, labels = [], []
            for count, message in enumerate(messages, 1):
                whole = tokenizer.apply_chat_template(messages[:count], tokenize=True,
                                                      return_dict=False)
                new = whole[len(ids):]
                is_answer = message["role"] == "assistant"
                labels += new if is_answer else [-100] * len(new)
                ids = whole
            yield {"input_ids": ids[:max_length], "labels": labels[:max_length]}


def collated(rows):
    length = max(len(row["input_ids"]) for row in rows)

    def padded(name, value):
        return torch.tensor([row[name] + [value] * (length - len(row[name])) for row in rows])

    labels = padded("labels", -100)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    mask = (torch.arange(length) < lengths[:, None]).long()
    return {"input_ids": padded("input_ids", 0), "labels": labels, "attention_mask": mask}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("chats")
    parser.add_argument("out")
    parser.add_argument("--max-steps", type=int, default=100)
    parser.add_argument("--max-length", type=int, default=256)
    options = parser.parse_args()

    mto.enable_huggingface_checkpointing()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    # EAGLE-3 with the base's own sizes; mtsp.EAGLE3_DEFAULT_CFG["config"] is ModelOpt's.
    mtsp.convert(model, [("eagle", {"eagle_reuse_base_decoder": True,
                                    "eagle_export_rope_scaling": {}})])

    rows = list(conversations(options.chats, tokenizer, options.max_length))
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=f"{options.out}-run", max_steps=options.max_steps, learning_rate=1e-3,
            per_device_train_batch_size=2, logging_steps=max(1, options.max_steps // 10),
            save_strategy="no", report_to=[]),
        train_dataset=rows, data_collator=collated, processing_class=tokenizer)
    trainer.train()
    trainer.save_model(options.out)

    restored = AutoModelForCausalLM.from_pretrained(options.out)  # the draft is there again
    print(f"{options.out}: {sum(p.numel() for p in restored.eagle_module.parameters())} parameters "
          "in the draft")


if __name__ == "__main__":
    main()
