"""Each step of ModelOpt's module guide, with Outrider's module paths in place of its own."""

import inspect
import json

import pytest
import torch
from small_models import EAGLE, batch, llama, made, qwen3_moe
from training import rows, trainer
from transformers import AutoModelForCausalLM

import outrider.opt as mto
import outrider.speculative as mtsp
from outrider.speculative.config import EAGLE3_DEFAULT_CFG

NAMES = ("convert", "MedusaConfig", "EagleConfig", "EAGLE1_DEFAULT_CFG", "EAGLE3_DEFAULT_CFG",
         "EAGLE_MTP_DEFAULT_CFG")


def small(preset):
    return {"eagle_architecture_config": preset["config"]["eagle_architecture_config"]
            | EAGLE["eagle_architecture_config"]}


def test_names():
    for name in NAMES:
        assert name in mtsp.__all__ and getattr(mtsp, name) is not None
    assert list(inspect.signature(mtsp.convert).parameters)[:2] == ["model", "mode"]
    assert mtsp.EagleConfig().eagle_ttt_steps == 3 and mtsp.MedusaConfig().medusa_num_heads == 2
    assert {"eagle", "medusa"} <= set(mtsp.SpeculativeDecodingModeRegistry)


def test_presets_and_configs_are_those_of_the_reference(python):
    code = ("import json, modelopt.torch.speculative as m; print(json.dumps({"
            "'EAGLE3_DEFAULT_CFG': m.EAGLE3_DEFAULT_CFG,"
            "'EAGLE_MTP_DEFAULT_CFG': m.EAGLE_MTP_DEFAULT_CFG,"
            "'eagle': m.EagleConfig().model_dump(), 'medusa': m.MedusaConfig().model_dump()}))")
    theirs = json.loads(python("-c", code).stdout.splitlines()[-1])
    for name in ("EAGLE3_DEFAULT_CFG", "EAGLE_MTP_DEFAULT_CFG"):
        assert getattr(mtsp, name) == theirs[name]
    for config, name in ((mtsp.EagleConfig(), "eagle"), (mtsp.MedusaConfig(), "medusa")):
        assert {key: config[key] for key in theirs[name]} == theirs[name]


def test_convert_train_save_restore(tmp_path, checkpointing):
    model = made(qwen3_moe)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    converted = mtsp.convert(model, [("eagle", small(EAGLE3_DEFAULT_CFG))])
    assert converted is model
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in weights.items())
    assert all(p.requires_grad == name.startswith("eagle_module.")
               for name, p in model.named_parameters())

    run = trainer(model, tmp_path / "run", rows())
    run.train()
    run.save_model(str(tmp_path / "model"))
    restored = AutoModelForCausalLM.from_pretrained(tmp_path / "model").train()
    expected = model.train()(**batch()).loss
    torch.testing.assert_close(restored(**batch()).loss, expected)

    mto.save(model, tmp_path / "file")
    other = made(qwen3_moe)
    assert mto.restore(other, tmp_path / "file") is other
    assert torch.equal(other.train()(**batch()).loss, expected)


@pytest.mark.parametrize("options", [
    {"device_map": "auto"}, {"device_map": "cpu"}, {"dtype": torch.bfloat16}])
def test_loading_options_of_transformers(options, tmp_path, checkpointing):
    model = mtsp.convert(made(llama), [("eagle", EAGLE), ("medusa", {})])
    model.save_pretrained(tmp_path / "model")
    restored = AutoModelForCausalLM.from_pretrained(tmp_path / "model", **options).train()
    assert restored.eagle_module.fc.weight.dtype == options.get("dtype", torch.float32)
    expected = model.train()(**batch()).loss.item()
    assert restored(**batch()).loss.item() == pytest.approx(
        expected, rel=0.01 if "dtype" in options else 1e-6)


def test_a_draft_vocabulary_and_a_tied_head(tmp_path, checkpointing, outrider):
    def tied():
        return llama(tie_word_embeddings=True)

    config = {"eagle_architecture_config": EAGLE["eagle_architecture_config"]
              | {"draft_vocab_size": 48}}
    base = made(tied)
    base.save_pretrained(tmp_path / "base")
    model = mtsp.convert(base, [("eagle", config)], draft_vocabulary=torch.arange(0, 96, 2))
    model.save_pretrained(tmp_path / "model")
    mto.save(model, tmp_path / "file.safetensors")
    outrider("restore", tmp_path / "base", tmp_path / "file.safetensors", "--out",
             tmp_path / "by-program")
    expected = model.train()(**batch()).loss
    for folder in ("model", "by-program"):
        restored = AutoModelForCausalLM.from_pretrained(tmp_path / folder).train()
        assert torch.equal(restored(**batch()).loss, expected)
    restored = mto.restore(made(tied), tmp_path / "file.safetensors").train()
    assert torch.equal(restored(**batch()).loss, expected)


def test_restore_is_strict(tmp_path):
    mto.save(mtsp.convert(made(llama), "medusa"), tmp_path / "file")
    with pytest.raises(mtsp.OutriderError, match="hidden_size"):
        mto.restore(made(lambda: llama(hidden_size=64)), tmp_path / "file")
    with pytest.raises(mtsp.OutriderError) as caught:
        mto.save(made(llama), tmp_path / "other")
    assert caught.value.code == "NotConverted"
    with pytest.raises(mtsp.OutriderError) as caught:
        mto.restore(made(llama), tmp_path / "nothing")
    assert caught.value.code == "FileNotFound"


def test_configs_are_mappings_that_are_checked():
    config = mtsp.MedusaConfig(medusa_num_heads="3")
    assert config.medusa_num_heads == config["medusa_num_heads"] == dict(config)[
        "medusa_num_heads"] == 3
    config.medusa_num_layers = 2
    assert config.medusa_num_layers == 2
    with pytest.raises(mtsp.OutriderError) as caught:
        mtsp.MedusaConfig(heads=1, medusa_num_layers="many")
    assert caught.value.code == "InvalidConfig"
    assert "heads" in str(caught.value) and "medusa_num_layers" in str(caught.value)
