"""What a converted folder holds, and how it comes back."""

import hashlib
import json
import os
import re
import shutil

import numpy as np
import pytest
from conftest import REFERENCE
from safetensors.numpy import load_file, save_file

BASE = REFERENCE / "base_llama/base"  # hidden size 32, 3 layers, 128 tokens
SMALL = ("--mode", "eagle", "--preset", "eagle3",
         "--set", "eagle_architecture_config.eagle_aux_hidden_state_layer_ids=[0,2]")
TWO_HEADS = ("--mode", "medusa", "--set", "medusa_num_heads=2")
BATCH = {"input_ids": [[5, 17, 99, 3, 3, 42, 8], [1, 2, 3, 4, 5, 6, 7]]}


def state(folder):
    return json.loads((folder / "outrider_state.json").read_text())


def written(folder):
    return load_file(folder / "model.safetensors")


def equal(a, b):
    return sorted(a) == sorted(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def eagle(convert):
    return convert(BASE, *SMALL)


@pytest.fixture(scope="module")
def medusa(convert):
    return convert(BASE, *TWO_HEADS)


@pytest.fixture(scope="module")
def both(convert, eagle):
    return convert(eagle, *TWO_HEADS)


# --- other programs ----------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["tiny", "smol"])
def test_transformers_loads_the_base_out_of_a_converted_folder(which, both, smol_both, model):
    import torch
    from transformers import AutoModelForCausalLM

    folders = (BASE, both) if which == "tiny" else (model, smol_both)
    ids = torch.tensor(BATCH["input_ids"])
    logits = []
    for folder in folders:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True)
        assert type(loaded).__name__ == "LlamaForCausalLM"
        with torch.no_grad():
            logits.append(loaded(input_ids=ids).logits)
    assert torch.equal(*logits)


def test_transformers_loads_the_copied_tokenizer(smol_eagle, model, tokenizer):
    from transformers import AutoTokenizer

    copied = AutoTokenizer.from_pretrained(smol_eagle, local_files_only=True)
    chat = [{"role": "user", "content": "Hi"}]
    assert (copied.apply_chat_template(chat, tokenize=False)
            == tokenizer.apply_chat_template(chat, tokenize=False))
    ours = {"model.safetensors", "config.json", "outrider_state.json", "outrider_probe.json"}
    companions = {path.name for path in model.iterdir()} - ours
    assert companions >= {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert {path.name for path in smol_eagle.iterdir()} == companions | ours
    for name in companions:
        assert (smol_eagle / name).read_bytes() == (model / name).read_bytes()


def test_the_base_is_written_bit_by_bit(both, smol_both, model):
    from safetensors.torch import load_file as load_torch

    base, converted = written(BASE), written(both)
    drafts = ("eagle_module.", "medusa_heads.")
    assert {name for name in converted if not name.startswith(drafts)} == set(base)
    assert all(np.array_equal(converted[name], base[name]) for name in base)
    base, converted = (load_torch(f / "model.safetensors") for f in (model, smol_both))
    assert all(base[name].equal(converted[name]) for name in base)
    config, before = (json.loads((f / "config.json").read_text()) for f in (smol_both, model))
    assert config == before


# --- restoring ---------------------------------------------------------------------------------


def test_a_new_process_computes_the_same(forward, both, eagle, medusa):
    """Attaching another draft restores, attaches and saves again."""
    once, twice = (forward(folder, BATCH, "--train", "--gradients") for folder in (eagle, both))
    assert {"loss.parallel_0_step_2", "grad.eagle_module.fc.weight"} <= set(once)
    for name in set(once) - {"loss"}:
        assert np.array_equal(once[name], twice[name]), name
    alone = forward(medusa, BATCH, "--train")
    for name in set(alone) - {"loss"}:
        assert np.array_equal(alone[name], twice[name]), name


def test_both_losses_are_reported_and_summed(forward, both):
    found = forward(both, BATCH, "--train")
    assert found["loss"] == pytest.approx(found["eagle_loss"] + found["medusa_loss"], rel=1e-6)
    steps = sum(0.9**k * found[f"loss.parallel_0_step_{k}"] for k in range(3))
    heads = sum(0.2 * 0.8**i * found[f"loss.head_{i}"] for i in range(2))
    assert found["eagle_loss"] == pytest.approx(steps, rel=1e-5)
    assert found["medusa_loss"] == pytest.approx(heads, rel=1e-5)


def test_the_order_of_the_drafts_changes_nothing(convert, forward, both, medusa):
    other = convert(medusa, *SMALL)
    assert [mode["mode"] for mode in state(other)["modes"]] == ["medusa", "eagle"]
    assert equal(written(other), written(both))
    first, second = (forward(folder, BATCH, "--train") for folder in (both, other))
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-6)


def test_weights_of_another_conversion_replace_this_ones(convert, forward, eagle, tmp_path):
    other = convert(BASE, *SMALL, "--seed", 5)
    drafts = {n: t for n, t in written(eagle).items() if n.startswith("eagle_module.")}
    save_file(drafts, tmp_path / "draft.safetensors")
    plain, changed = (forward(other, BATCH, "--train", *options)
                      for options in ((), ("--weights", tmp_path / "draft.safetensors")))
    expected = forward(eagle, BATCH, "--train")
    assert plain["loss"] != expected["loss"]
    assert all(np.array_equal(changed[name], expected[name]) for name in expected)


def test_another_dtype_is_stored_and_named(convert, outrider):
    half = convert(BASE, *TWO_HEADS, "--dtype", "bfloat16")
    listed = outrider("inspect", half, "--tensors", "--json").json()
    assert {tensor["dtype"] for tensor in listed["tensors"].values()} == {"BF16"}
    assert listed["base_model"]["dtype"] == "bfloat16"
    config = json.loads((half / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "torch_dtype" not in config


# --- outrider_state.json -----------------------------------------------------------------------


def weights_hash(base):
    """As docs/checkpoint_format.md defines it, of a float32 base."""
    tensors = load_file(base / "model.safetensors")
    lines = [f"{name} Float [{','.join(map(str, t.shape))}] {hashlib.sha256(t.tobytes()).hexdigest()}\n"
             for name, t in sorted(tensors.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_state_says_what_is_needed_to_restore(both):
    found = state(both)
    assert set(found) == {"format_version", "written_by", "base_model", "modes"}
    assert found["format_version"] == 1
    assert re.fullmatch(r"outrider \d+\.\d+\.\d+", found["written_by"])
    digest = found["base_model"].pop("config_sha256")
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert found["base_model"].pop("weights_sha256") == weights_hash(BASE)
    assert found["base_model"] == {"architecture": "LlamaForCausalLM", "hidden_size": 32,
                                   "num_hidden_layers": 3, "vocab_size": 128}
    eagle, medusa = found["modes"]
    for mode in (eagle, medusa):
        assert set(mode) == {"mode", "plugin", "config_version", "config", "metadata"}
        assert mode["config_version"] == 1
    assert eagle["mode"] == "eagle" and medusa["mode"] == "medusa"
    assert medusa["config"] == {
        "medusa_num_heads": 2, "medusa_num_layers": 1, "medusa_freeze_base_model": True,
        "medusa_heads_coefficient": 0.2, "medusa_decay_coefficient": 0.8}
    assert eagle["config"]["eagle_ttt_steps"] == 3
    assert eagle["config"]["eagle_architecture_config"]["hidden_size"] == 32
    assert eagle["metadata"] == {"aux_layer_ids": [0, 2], "draft_vocab_size": 128,
                                 "reference_numerics": None, "seed": 0}


def test_the_state_names_the_plugin_file_itself(outrider, both):
    listed = outrider("inspect", both, "--json").json()["modes"]
    for mode, recorded in zip(listed, state(both)["modes"], strict=True):
        plugin, restorer = recorded["plugin"], mode["restored_by"]
        assert plugin["range"] == "^0.1" and plugin["version"] == "0.1.0"
        assert mode["plugin"] == plugin
        assert restorer["is_the_writer"] is True
        with open(restorer["path"], "rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == plugin["sha256"]


def test_inspect_counts_parameters_and_lists_tensors(outrider, both):
    found = outrider("inspect", both, "--tensors", "--json").json()
    tensors = written(both)
    assert found["folder"] == str(both)
    assert found["base_model"] == {"architecture": "LlamaForCausalLM", "hidden_size": 32,
                                   "num_hidden_layers": 3, "vocab_size": 128, "dtype": "float32",
                                   "reference": None}
    parts = {}
    for name, tensor in tensors.items():
        part = name.split(".")[0]
        parts[part] = parts.get(part, 0) + tensor.size
    assert found["parameters"] == parts
    assert set(parts) == {"model", "lm_head", "eagle_module", "medusa_heads"}
    assert found["tensors"] == {name: {"dtype": "F32", "shape": list(tensor.shape)}
                                for name, tensor in tensors.items()}
    for mode, recorded in zip(found["modes"], state(both)["modes"], strict=True):
        assert mode["config"] == recorded["config"] and mode["metadata"] == recorded["metadata"]
    plain = outrider("inspect", BASE, "--json").json()
    assert plain["modes"] == [] and "tensors" not in plain


def test_a_rebuilt_plugin_restores_by_its_version(outrider, forward, edited, eagle):
    folder = edited(eagle, "outrider_state.json",
                    lambda s: s["modes"][0]["plugin"].update(sha256="0" * 64))
    [mode] = outrider("inspect", folder, "--json").json()["modes"]
    assert mode["restored_by"]["is_the_writer"] is False
    assert mode["restored_by"]["version"] == "0.1.0"
    assert equal(forward(folder, BATCH, "--train"), forward(eagle, BATCH, "--train"))


@pytest.mark.parametrize("change", [
    {"name": "nebula", "version": "1.2.0", "range": "^1.2", "sha256": ""},
    {"version": "7.1.0", "range": "^7.1", "sha256": "0" * 64}], ids=["plugin", "version"])
def test_a_missing_plugin_is_named_with_what_is_installed(
        outrider, edited, eagle, tmp_path, change):
    folder = edited(eagle, "outrider_state.json", lambda s: s["modes"][0]["plugin"].update(change))
    text = outrider("export", folder, "--out", tmp_path / "out", status=5).stderr
    name = change.get("name", "eagle")
    assert f"no plugin '{name}' in range {change['range']} is installed" in text
    assert "installed are eagle 0.1.0 (" in text and ", medusa 0.1.0 (" in text
    assert "--plugin-dir" in text and not list(tmp_path.iterdir())
    [mode] = outrider("inspect", folder, "--json").json()["modes"]
    assert f"no plugin '{name}'" in mode["restored_by"]["problem"]


def test_a_replaced_config_is_noticed(outrider, edited, eagle, tmp_path):
    folder = edited(eagle, "outrider_state.json",
                    lambda s: s["base_model"].update(hidden_size=64, vocab_size=7))
    text = outrider("export", folder, "--out", tmp_path / "out", status=4).stderr
    assert "hidden_size is 32 in the base's config.json, 64 in the recorded state" in text
    assert "vocab_size is 128 in the base's config.json, 7 in the recorded state" in text


def test_a_recorded_draft_larger_than_its_tensors_takes_no_memory(outrider, edited, eagle, tmp_path):
    def enlarge(state):
        state["modes"][0]["config"]["eagle_architecture_config"]["intermediate_size"] = 2**24
    folder = edited(eagle, "outrider_state.json", enlarge)
    text = outrider("export", folder, "--out", tmp_path / "out", status=4).stderr
    assert "describes a draft far larger than the tensors" in text


def test_all_tensors_that_do_not_fit_are_reported_together(outrider, eagle, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(eagle, folder)
    tensors = written(folder)
    tensors["eagle_module.extra"] = tensors.pop("eagle_module.fc.weight")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].copy()
    tensors["lm_head.weight"] = tensors["lm_head.weight"].astype(np.int32)
    save_file(tensors, folder / "model.safetensors")
    text = outrider("export", folder, "--out", tmp_path / "out", status=4).stderr
    assert "missing: eagle_module.fc.weight" in text
    assert "unexpected: eagle_module.extra" in text
    assert "model.norm.weight is [31] Float, expected [32] Float" in text
    assert "lm_head.weight is [128,32] Int, expected [128,32] Float" in text
    assert not (tmp_path / "out").exists()


# --- conversion --------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "differs"), [("eagle3_default", True), ("medusa_h2_l1", False)])
def test_reference_numerics_change_eagle_and_not_medusa(convert, forward, tmp_path, case, differs):
    folder, losses = REFERENCE / case, []
    settings = json.loads((folder / "case.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings["config_passed"]))
    for numerics in (None, "0.47"):
        option = ("--reference-numerics", numerics) if numerics else ()
        model = convert(folder / "base", "--mode", settings["mode"], *option, "--config",
                        tmp_path / "config.json", "--weights", folder / "converted.safetensors")
        losses.append(float(forward(model, folder / "inputs.safetensors", "--train")["loss"]))
        assert state(model)["modes"][0]["metadata"]["reference_numerics"] == numerics
    assert (abs(losses[0] - losses[1]) > 1e-3) == differs, losses
    expected = load_file(folder / "expected.safetensors")["loss"]
    assert losses[1] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("options", [SMALL, TWO_HEADS], ids=["eagle", "medusa"])
def test_a_seed_gives_the_same_draft_and_another_seed_another(convert, options):
    first, again, other = (written(convert(BASE, *options, "--seed", seed)) for seed in (3, 3, 4))
    assert equal(first, again)
    assert not equal(first, other)
    assert all(np.isfinite(tensor).all() for tensor in first.values())


def test_preset_eagle3_takes_its_sizes_from_the_base(outrider, smol_eagle):
    [mode] = state(smol_eagle)["modes"]
    architecture = mode["config"]["eagle_architecture_config"]
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
             "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49152,
             "draft_vocab_size": 49152, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5}
    assert {key: architecture[key] for key in sizes} == sizes
    assert architecture["rope_scaling"] == {"rope_type": "default", "rope_theta": 100000.0}
    assert mode["metadata"]["aux_layer_ids"] == [1, 14, 26]
    tensors = outrider("inspect", smol_eagle, "--tensors", "--json").json()["tensors"]
    assert tensors["eagle_module.fc.weight"] == {"dtype": "BF16", "shape": [576, 3 * 576]}
    assert tensors["eagle_module.layers.0.self_attn.k_proj.weight"]["shape"] == [192, 2 * 576]
    assert tensors["eagle_module.layers.0.mlp.up_proj.weight"]["shape"] == [1536, 576]
    assert "eagle_module.lm_head.weight" not in tensors  # the base's whole vocabulary: its head


def test_preset_medusa_takes_its_sizes_from_the_base(outrider, smol_both):
    tensors = outrider("inspect", smol_both, "--tensors", "--json").json()["tensors"]
    heads = {name: tensor["shape"] for name, tensor in tensors.items()
             if name.startswith("medusa_heads.")}
    assert heads == {f"medusa_heads.{i}.{name}": shape for i in range(4) for name, shape in (
        ("0.linear.weight", [576, 576]), ("0.linear.bias", [576]), ("1.weight", [49152, 576]))}


def test_set_wins_over_config_over_preset_over_default(convert, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({
        "eagle_ttt_steps": 5, "eagle_loss_decay_factor": 0.5, "eagle_architecture_config": {
            "eagle_aux_hidden_state_layer_ids": [1, 2], "num_key_value_heads": 4,
            "num_hidden_layers": 1}}))
    folder = convert(BASE, "--set", "eagle_ttt_steps=2", "--preset", "eagle3", "--config", config,
                     "--set", "eagle_architecture_config.num_hidden_layers=2",
                     "--mode", "eagle")
    found = state(folder)["modes"][0]["config"]
    assert found["eagle_ttt_steps"] == 2               # --set, over 5
    assert found["eagle_loss_decay_factor"] == 0.5     # --config, over 0.9
    assert found["eagle_reuse_base_decoder"] is True   # preset, over false
    assert found["eagle_export_rope_scaling"] == {}    # preset, over YaRN
    assert found["eagle_report_acc"] is True           # default
    architecture = found["eagle_architecture_config"]
    assert architecture["num_hidden_layers"] == 2      # --set, one key of --config's object
    assert architecture["num_key_value_heads"] == 4    # --config, over the base's 2
    assert architecture["eagle_aux_hidden_state_layer_ids"] == [1, 2]
    assert architecture["num_attention_heads"] == 4    # the base's
    assert "eagle_module.layers.1.self_attn.q_proj.weight" in written(folder)


@pytest.fixture
def vocabulary_file(tmp_path):
    def write(ids):
        path = tmp_path / "d2t.safetensors"
        save_file({"d2t": np.asarray(ids) - np.arange(len(ids))}, path)
        return path

    return write


def test_a_draft_vocabulary_sets_d2t_and_its_size(convert, forward, vocabulary_file):
    ids = [1, 3, 5, 8, 99, 127]
    folder = convert(BASE, *SMALL, "--draft-vocab", vocabulary_file(ids))
    [mode] = state(folder)["modes"]
    assert mode["config"]["eagle_architecture_config"]["draft_vocab_size"] == 6
    assert mode["metadata"]["draft_vocab_size"] == 6
    tensors = written(folder)
    assert tensors["eagle_module.d2t"].dtype == np.int64
    assert (tensors["eagle_module.d2t"] + np.arange(6)).tolist() == ids
    # A draft of some of the base's tokens starts with the base's rows for them.
    assert np.array_equal(tensors["eagle_module.lm_head.weight"], tensors["lm_head.weight"][ids])
    found = forward(folder, BATCH, "--train")
    assert found["logits.step_0"].shape == (2, 7, 6) and np.isfinite(found["loss"])


@pytest.mark.parametrize(("options", "ids", "problem"), [
    (SMALL, [1, 128], "must be strictly increasing token ids below 128"),
    ((*SMALL, "--set", "eagle_architecture_config.draft_vocab_size=3"), [1, 2],
     "draft_vocab_size is 3, but the draft vocabulary that was given has 2 tokens"),
    (TWO_HEADS, [1, 2], "mode 'medusa' knows no draft vocabulary"),
], ids=["beyond the vocabulary", "two sizes", "medusa"])
def test_a_draft_vocabulary_that_cannot_be(
        outrider, vocabulary_file, tmp_path, options, ids, problem):
    text = outrider("convert", BASE, *options, "--draft-vocab", vocabulary_file(ids),
                    "--out", tmp_path / "out", status=2).stderr
    assert problem in text
    assert not (tmp_path / "out").exists()


def test_a_draft_vocabulary_with_a_token_twice_is_refused(outrider, vocabulary_file, tmp_path):
    text = outrider("convert", BASE, *SMALL, "--draft-vocab", vocabulary_file([5, 5]),
                    "--out", tmp_path / "out", status=3).stderr
    assert "i + d2t[i] must increase from 0 on, does not at 1" in text


def test_nothing_but_data_prepare_needs_python(
        outrider, convert, forward, tiny, shards, draft_vocabulary, tmp_path):
    bare = {name: None for name in os.environ if name not in ("HOME", "OMP_NUM_THREADS")}
    bare["PATH"] = ""
    folder = convert(tiny(), "--mode", "eagle", "--preset", "eagle3",
                     "--draft-vocab", draft_vocabulary, **bare)
    assert np.isfinite(forward(folder, BATCH, "--train", **bare)["loss"])
    outrider("inspect", folder, **bare)
    outrider("export", folder, "--out", tmp_path / "export", **bare)
    outrider("train", folder, "--data", shards / "train", "--out", tmp_path / "run",
             "--max-steps", 1, **bare)
    outrider("plugin", "list", **bare)
    outrider("mode", "show", "eagle", "--schema", **bare)
    assert (tmp_path / "run/final/outrider_state.json").exists()
    assert (tmp_path / "export/config.json").exists()


def test_an_existing_folder_is_replaced_only_when_asked(outrider, tmp_path):
    out = tmp_path / "out"
    outrider("convert", BASE, *TWO_HEADS, "--out", out)
    before = written(out)
    text = outrider("convert", BASE, *SMALL, "--out", out, status=3).stderr
    assert "exists and is not empty" in text
    assert equal(written(out), before)
    outrider("convert", BASE, *SMALL, "--out", out, "--replace")
    assert [mode["mode"] for mode in state(out)["modes"]] == ["eagle"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
