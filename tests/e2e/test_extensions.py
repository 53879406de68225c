"""A plugin that brings a base architecture and another plugin's draft class: tests/host/plugins/family_plugin.cpp."""

import json
import shutil

import numpy as np
import pytest
from conftest import REFERENCE, TEST_PLUGINS

MODELS, PLUGIN = 4, 5
BATCH = {"input_ids": [[5, 9, 2, 40, 7, 7, 31, 60]]}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Options that let the program find the plugin, and no other of the test plugins."""
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copy(TEST_PLUGINS / "family.outrider.so", folder)
    return "--plugin-dir", folder, "--allow-unlocked-plugins"


@pytest.fixture(scope="module")
def base(edited):
    return edited(REFERENCE / "base_llama/base", "config.json", lambda c: c.update(
        architectures=["GegluForCausalLM"], hidden_act="gelu"))


@pytest.fixture(scope="module")
def converted(outrider, family, base, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "model"
    outrider(*family, "convert", base, "--mode", "eagle", "--preset", "eagle3", "--out", out)
    return out


def test_the_listing_tells_what_the_plugin_provides(outrider, family):
    [plugin] = [p for p in outrider(*family, "plugin", "list", "--json").json()
                if p.get("name") == "family"]
    assert plugin["modes"] == [] and plugin["bases"] == ["GegluForCausalLM"]
    assert plugin["draft_models"] == ["eagle/GegluForCausalLM"]


def test_the_base_computes_as_transformers(outrider, family, base, tensors, tmp_path):
    import torch
    from safetensors.numpy import save_file
    from transformers import LlamaForCausalLM

    save_file({"input_ids": np.array(BATCH["input_ids"])}, tmp_path / "batch.safetensors")
    outrider(*family, "forward", base, "--batch", tmp_path / "batch.safetensors",
             "--out", tmp_path / "out.safetensors")
    reference = LlamaForCausalLM.from_pretrained(base, hidden_act="gelu", dtype=torch.float32)
    with torch.no_grad():
        expected = reference(torch.tensor(BATCH["input_ids"])).logits.numpy()
    found = tensors(tmp_path / "out.safetensors")["logits"]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_without_the_plugin_the_architecture_is_unknown(outrider, base, tmp_path):
    done = outrider("convert", base, "--mode", "eagle", "--out", tmp_path / "out", status=MODELS)
    assert "base architecture 'GegluForCausalLM' is not known" in done.stderr


def test_a_conversion_uses_the_draft_class_and_records_its_plugin(converted, tensors):
    [mode] = json.loads((converted / "outrider_state.json").read_text())["modes"]
    assert mode["mode"] == "eagle" and mode["plugin"]["name"] == "eagle"
    [plugin] = mode["requires"]
    assert plugin["name"] == "family" and plugin["range"] == "^0.1" and len(plugin["sha256"]) == 64
    drafts = [n for n in tensors(converted / "model.safetensors") if n.startswith("eagle_module.")]
    assert drafts == ["eagle_module.projection.weight"]


def test_restoring_finds_both_plugins(outrider, family, converted, tmp_path, tensors):
    from safetensors.numpy import save_file

    save_file({"input_ids": np.array(BATCH["input_ids"])}, tmp_path / "batch.safetensors")
    outrider(*family, "forward", converted, "--batch", tmp_path / "batch.safetensors", "--train",
             "--gradients", "--out", tmp_path / "out.safetensors")
    found = tensors(tmp_path / "out.safetensors")
    hidden = found["base.last_hidden"]
    weight = tensors(converted / "model.safetensors")["eagle_module.projection.weight"]
    expected = np.mean((hidden[:, :-1] @ weight.T - hidden[:, 1:]) ** 2)
    assert abs(found["loss"] - expected) < 1e-5 * expected
    assert np.abs(found["grad.eagle_module.projection.weight"]).max() > 0


def test_restoring_without_the_plugin_names_it(outrider, converted, tmp_path):
    done = outrider("export", converted, "--out", tmp_path / "out", status=PLUGIN)
    assert "no plugin 'family' in range ^0.1 is installed" in done.stderr
    [mode] = outrider("inspect", converted, "--json").json()["modes"]
    assert "no plugin 'family'" in mode["requires"][0]["restored_by"]["problem"]


def test_formats_of_the_modes_own_class_are_refused(outrider, family, converted, tmp_path):
    done = outrider(*family, "export", converted, "--out", tmp_path / "out", status=MODELS)
    assert "the draft that another plugin brought for GegluForCausalLM" in done.stderr
