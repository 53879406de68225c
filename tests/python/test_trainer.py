"""Converted models in transformers' Trainer."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from runs import metrics, write_shards
from safetensors.numpy import load_file
from small_models import EAGLE, batch, llama, made
from training import logged, rows, trainer
from transformers import AutoModelForCausalLM

import outrider.speculative as mtsp

REFERENCE = {**EAGLE, "eagle_use_torch_compile": False, "eagle_export_rope_scaling": {}}


def eagle(**options):
    return mtsp.convert(made(llama), [("eagle", EAGLE)], **options)


def padded(conversations):
    length = max(len(one["input_ids"]) for one in conversations)
    fields = conversations[0].keys()
    return {name: torch.tensor(np.stack([np.pad(one[name], (0, length - len(one[name])))
                                         for one in conversations])).long() for name in fields}


def conversations_of(shards):
    tensors = load_file(shards / "shard.safetensors")
    for begin, end in zip(tensors["offsets"], tensors["offsets"][1:], strict=False):
        ids = tensors["input_ids"][begin:end]
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids),
               "loss_mask": tensors["loss_mask"][begin:end].astype(np.int64)}


@pytest.mark.parametrize("mode", ["eagle", "medusa"])
def test_learns_as_the_program_does(mode, outrider, tmp_path):
    """Every conversation in each step, so that both have the same batches."""
    shards = write_shards(tmp_path / "shards", vocabulary=80)
    model = mtsp.convert(made(llama), [(mode, EAGLE if mode == "eagle" else {})])
    model.save_pretrained(tmp_path / "converted")
    outrider("train", tmp_path / "converted", "--data", shards, "--out", tmp_path / "run",
             "--max-steps", 8, "--per-device-train-batch-size", 4, "--learning-rate", 1e-2,
             "--lr-scheduler-type", "linear", "--warmup-steps", 2, "--logging-steps", 1,
             "--weight-decay", 0, "--max-grad-norm", 1)
    expected = [line["loss"] for line in metrics(tmp_path / "run") if "loss" in line]
    run = trainer(model, tmp_path / "trainer", list(conversations_of(shards)), padded,
                  max_steps=8, warmup_steps=2, weight_decay=0.0, max_grad_norm=1.0)
    run.train()
    found = logged(run, "loss")
    assert len(found) == len(expected) == 8
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[-1] < 0.95 * found[0]


@pytest.mark.parametrize("mode", ["eagle", "medusa"])
def test_learns_as_modelopt_does(mode, python, tmp_path, checkpointing):
    config = REFERENCE if mode == "eagle" else {}
    model = mtsp.convert(made(llama), [(mode, config)], reference_numerics="0.47")
    model.save_pretrained(tmp_path / "start")
    assert (tmp_path / "start/modelopt_state.pth").is_file()
    done = python("modelopt_trainer.py", tmp_path / "start", tmp_path / "theirs")
    expected = json.loads(done.stdout.splitlines()[-1])["losses"]
    run = trainer(model, tmp_path / "run", rows(labels=mode == "medusa"))
    run.train()
    assert logged(run, "loss") == pytest.approx(expected, rel=1e-4)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").train()
    ours = model.train()(**batch()).loss.item()
    assert theirs(**batch()).loss.item() == pytest.approx(ours, rel=1e-4)


def test_saves_and_restores_by_itself(tmp_path, checkpointing, outrider):
    run = trainer(eagle(), tmp_path / "run", rows())
    run.train()
    run.save_model(str(tmp_path / "model"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert not model.training
    expected = run.model.train()(**batch()).loss
    assert torch.equal(model.train()(**batch()).loss, expected)
    assert all(p.requires_grad == name.startswith("eagle_module.")
               for name, p in model.named_parameters())
    shown = json.loads(outrider("inspect", tmp_path / "model", "--json"))
    assert [mode["mode"] for mode in shown["modes"]] == ["eagle"]


def test_without_checkpointing_it_is_the_base(tmp_path):
    eagle().save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    inputs = batch()
    assert torch.equal(model(**inputs).logits, made(llama)(**inputs).logits)


def test_resumes_from_a_checkpoint(tmp_path):
    whole = trainer(eagle(), tmp_path / "whole", rows())
    whole.train()
    part = trainer(eagle(), tmp_path / "run", rows(), save_strategy="steps", save_steps=3)
    part.train()
    rest = trainer(eagle(seed=5), tmp_path / "rest", rows())
    rest.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-3"))
    assert logged(rest, "loss")[-3:] == pytest.approx(logged(whole, "loss")[-3:], rel=1e-6)


def test_accumulated_gradients_are_the_mean(tmp_path):
    whole = trainer(eagle(), tmp_path / "whole", rows(), max_grad_norm=0.0)
    whole.train()
    parts = trainer(eagle(), tmp_path / "parts", rows(), max_grad_norm=0.0,
                    per_device_train_batch_size=2, gradient_accumulation_steps=2)
    parts.train()
    assert logged(parts, "loss") == pytest.approx(logged(whole, "loss"), rel=1e-4)


@pytest.mark.parametrize("options", [{"bf16": True}, {"gradient_checkpointing": True}])
@pytest.mark.parametrize("trains_base", [False, True])
def test_options_of_the_trainer(options, trains_base, tmp_path):
    def losses(**changes):
        model = mtsp.convert(made(llama), [
            ("medusa", {"medusa_freeze_base_model": not trains_base})])
        run = trainer(model, tmp_path / "run", rows(), learning_rate=1e-3, **changes)
        run.train()
        return logged(run, "loss")

    rel = 0.02 if "bf16" in options else 1e-5
    assert losses(**options) == pytest.approx(losses(), rel=rel)


def test_the_log_says_how_drafts_do(tmp_path):
    run = trainer(eagle(), tmp_path / "run", rows(), evaluation=rows(4, labels=True),
                  eval_strategy="steps", eval_steps=3, logging_steps=2)
    run.train()
    accuracies = [f"eagle/accuracy_parallel_0_step_{step}" for step in range(3)]
    entries = [entry for entry in run.state.log_history if "loss" in entry]
    assert len(entries) == 3
    for entry in entries:
        expected = mtsp.expected_acceptance_length([entry[name] for name in accuracies])
        assert entry["eagle/expected_acceptance_length"] == pytest.approx(expected)
    evaluated = [entry for entry in run.state.log_history if "eval_runtime" in entry]
    assert all("eval_eagle/expected_acceptance_length" in entry for entry in evaluated)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"])
def test_peft_adapts_base_and_draft(targets):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(eagle(), LoraConfig(target_modules=targets)).train()
    expected = eagle().train()(**batch()).loss
    torch.testing.assert_close(model(**batch()).loss, expected)  # adapters start at nothing
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
    trained = [name for name, p in model.named_parameters() if p.grad is not None]
    assert trained and all("lora" in name and "eagle_module" in name for name in trained)
    assert loss.item() < expected.item()


def test_trl_trains_it(tmp_path):
    import datasets
    from transformers import Trainer
    from trl import SFTConfig, SFTTrainer

    class DraftTrainer(SFTTrainer):
        compute_loss = Trainer.compute_loss  # SFTTrainer's own is the base's loss

    model = eagle()
    before = model.eagle_module.fc.weight.detach().clone()
    data = datasets.Dataset.from_list(
        [{"input_ids": row["input_ids"].tolist()} for row in rows()])
    run = DraftTrainer(model, SFTConfig(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, logging_steps=1,
        report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=24,
        save_strategy="no", disable_tqdm=True), train_dataset=data,
        processing_class=_tokenizer())
    run.train()
    assert not torch.equal(model.eagle_module.fc.weight, before)
    assert len(logged(run, "loss")) == 3


def test_the_example(python, tmp_path):
    from outrider import demo_model

    base = demo_model.default_folder()
    demo_model.make(base)
    chats = tmp_path / "chats.jsonl"
    lines = (ROOT / "examples/data/smollm2_self.jsonl").read_text().splitlines()[:4]
    chats.write_text("\n".join(lines) + "\n")
    done = python(ROOT / "examples/python/train_with_trainer.py", base, chats, tmp_path / "out",
                  "--max-steps", 2, "--max-length", 64)
    assert "parameters in the draft" in done.stdout
    assert (tmp_path / "out/outrider_state.json").is_file()


def _tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(80)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w0")),
                                   pad_token="w1", eos_token="w2", unk_token="w0")
