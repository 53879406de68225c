"""What is said about a folder that is no model, or holds one in another form, by every verb that takes one."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import REFERENCE, ROOT

BASE = REFERENCE / "base_llama/base"
BATCH = REFERENCE / "base_llama/inputs.safetensors"
REQUEST, FILES, MODELS = 2, 3, 4
POINTER = ("version https://git-lfs.github.com/spec/v1\n"
           "oid sha256:b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c\nsize 4194304\n")

# Every verb that takes a model folder.
VERBS = ["convert {m} --mode medusa --out {o}", "inspect {m}", "train {m} --data {b} --out {o}",
         "save {m} --out {o}", "restore {m} {b} --out {o}", "export {m} --out {o}",
         "import {b} --base {m} --out {o}", "import {m} --base {b} --out {o}",
         "forward {m} --batch {b} --out {o}", "data prepare {t} --model {m} --out {o}",
         "data inspect {t} --model {m}", "data hidden-states {m} --data {b} --layers 1 --out {o}",
         "mode check medusa --base {m}", "plugin check {p} --base {m}"]


@pytest.fixture
def refusal(outrider, tmp_path, program):
    """refusal(verb, model, status): what the verb says on stderr; nothing is written."""
    def run(verb, model, status=FILES, **environment):
        names = {"m": model, "o": tmp_path / "out", "b": BASE, "t": tmp_path / "chats.jsonl",
                 "p": program.parent.parent / "lib/outrider/plugins/medusa.outrider.so"}
        (tmp_path / "chats.jsonl").write_text("")
        done = outrider(*[part.format(**names) for part in verb.split()], status=status,
                        **{"HF_HUB_CACHE": str(tmp_path / "no-cache"), **environment})
        assert done.stdout == "" and not (tmp_path / "out").exists()
        assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
        return done.stderr

    return run


@pytest.fixture
def folder(tmp_path):
    """folder(*left_out, **more): a copy of the base without these files and with the keys in config.json."""
    def make(*left_out, **more):
        out = tmp_path / "model"
        shutil.copytree(BASE, out)
        if more:
            config = json.loads((out / "config.json").read_text())
            (out / "config.json").write_text(json.dumps({**config, **more}))
        for name in left_out:
            (out / name).unlink()
        return out

    return make


@pytest.mark.parametrize("verb", VERBS)
def test_a_name_of_the_hub_is_told_how_to_fetch(refusal, verb):
    text = refusal(verb, "some-lab/Tiny-Chat-0.5B")
    assert "some-lab/Tiny-Chat-0.5B: no such folder" in text
    assert "`hf download some-lab/Tiny-Chat-0.5B --local-dir Tiny-Chat-0.5B` fetches it" in text


def test_addresses_of_the_hub_are_names_too(refusal):
    for given in ("https://huggingface.co/lab/m-1", "hf.co/lab/m-1/tree/main", "lab/m-1/"):
        assert "`hf download lab/m-1 --local-dir m-1`" in refusal(VERBS[1], given)
    for given in ("/lab/m-1", "./lab/m-1", "lab/m/1", "lab/-rf", "lab/m;x"):
        assert "hf download" not in refusal(VERBS[1], given)


def test_a_model_in_the_hubs_cache_is_found(refusal, tmp_path):
    cache = tmp_path / "hub"
    snapshot = cache / "models--lab--m-1/snapshots/0af1"
    shutil.copytree(BASE, snapshot)
    text = refusal(VERBS[0], "lab/m-1", HF_HUB_CACHE=str(cache))
    assert f"a model of this name is in the Hub's cache: give the folder '{snapshot}'" in text
    bare = refusal(VERBS[0], snapshot.parents[1])
    assert "config.json' does not exist" in bare and f"'{snapshot}'" in bare


def test_what_was_meant_is_named(refusal, tmp_path, folder):
    folder()
    assert f"did you mean '{tmp_path}/model'?" in refusal(VERBS[0], tmp_path / "modle")
    home = refusal(VERBS[0], "~/models/base", HOME=str(tmp_path))
    assert f"give '{tmp_path}/models/base'" in home
    file = refusal(VERBS[0], tmp_path / "model/model.safetensors")
    assert "a file, not a folder" in file and f"give its folder, '{tmp_path}/model'" in file
    run = refusal(VERBS[0], tmp_path)
    assert f"folders below it have one: '{tmp_path}/model'" in run


def test_every_git_lfs_pointer_is_named_at_once_with_what_else_is_wrong(refusal, folder):
    model = folder(architectures=["MixtralForCausalLM"], num_local_experts=8)
    for name in ("model.safetensors", "tokenizer.json"):
        (model / name).write_text(POINTER)
    text = refusal(VERBS[0], model)
    assert "holds 2 Git LFS pointers" in text and "'model.safetensors'\n" in text
    assert "'tokenizer.json'\n" in text and "`git lfs pull`" in text
    assert "'MixtralForCausalLM' is not known" in text


@pytest.mark.parametrize("verb", [v for v in VERBS if "{p}" not in v and "mode check" not in v])
def test_a_pointer_in_place_of_a_config_or_tokenizer_is_named(refusal, folder, verb):
    model = folder()
    (model / "config.json").write_text(POINTER)
    text = refusal(verb, model)
    assert "Git LFS pointer" in text and "'config.json'" in text and "git lfs pull" in text


def test_the_same_weights_in_other_forms_may_stay_on_the_server(outrider, folder, tmp_path):
    model = folder()
    for name in ("pytorch_model.bin", "consolidated.safetensors", "model.gguf"):
        (model / name).write_text(POINTER)
    outrider("convert", model, "--mode", "medusa", "--out", tmp_path / "out")


def test_weights_that_are_pointers_do_not_keep_a_tokenizer_from_being_read(outrider, tiny, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny(), model)
    (model / "model.safetensors").write_text(POINTER)
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"},
                                              {"role": "assistant", "content": "Hello you"}]}))
    outrider("data", "prepare", chats, "--model", model, "--out", tmp_path / "shards")


@pytest.mark.parametrize("files, texts", [
    ({"consolidated.00.pth": "", "params.json": "{}"},
     ["'consolidated.00.pth' is not read", "the model's own authors"]),
    ({"Model-Q5.gguf": "GGUF"}, ["'Model-Q5.gguf' is not read", "gguf_file='Model-Q5.gguf'"]),
    ({"adapter_config.json": '{"base_model_name_or_path": "lab/base"}', "adapter_model.safetensors": ""},
     ["an adapter alone", "the base 'lab/base'", "merge_and_unload()"])])
def test_a_model_in_another_form_is_told_how_to_convert(refusal, tmp_path, files, texts):
    (tmp_path / "model").mkdir()
    for name, content in files.items():
        (tmp_path / "model" / name).write_text(content)
    text = refusal(VERBS[0], tmp_path / "model")
    for part in [*texts, "config.json' does not exist", "has neither model.safetensors nor"]:
        assert part in text


def test_a_shard_that_is_missing_and_the_architecture_are_told_at_once(refusal, folder):
    model = folder("model.safetensors", architectures=["Gemma3ForConditionalGeneration"],
                   text_config={"model_type": "gemma3_text"})
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {
        "lm_head.weight": "model-00002-of-00002.safetensors"}}))
    text = refusal(VERBS[0], model, status=MODELS)
    assert "its text model 'gemma3_text' is not known either" in text
    assert "lacks 1 of the 1 files" in text and "'model-00002-of-00002.safetensors'" in text


def test_a_quantised_base_is_refused_by_name(refusal, folder):
    model = folder(quantization_config={"quant_method": "awq", "bits": 4})
    text = refusal(VERBS[0], model, status=REQUEST)
    assert "'quantization_config' says 'awq': quantised bases are not supported" in text
    assert "take the release that this one was made from" in text


@pytest.mark.parametrize("left", [0, 2])
def test_quantised_tensors_are_recognised_without_a_config_that_says_so(refusal, folder, left):
    """Renamed as packed tensors are; with two whole matrices left the sizes do not give it away."""
    from safetensors.numpy import load_file, save_file

    model = folder()
    tensors = load_file(model / "model.safetensors")
    packed = sorted(n for n, t in tensors.items() if t.ndim == 2 and "layers" in n)[left:]
    for name in packed:
        tensors[name.replace(".weight", ".qweight")] = tensors.pop(name)[:2 if left == 0 else None]
    save_file(tensors, model / "model.safetensors")
    text = refusal(VERBS[0], model, status=MODELS)
    assert "qweight' is a tensor of a quantised model" in text


def test_the_guide_gets_the_text_model_out(outrider, tmp_path, model):
    """The lines of Python in the documentation, and what Outrider computes with what they save."""
    import torch
    import transformers as t
    from safetensors.torch import load_file, save_file

    torch.manual_seed(3)
    text = t.MistralConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                           num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    vision = t.PixtralVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                   num_attention_heads=2, image_size=28, patch_size=14)
    whole = t.Mistral3ForConditionalGeneration(t.Mistral3Config(text_config=text, vision_config=vision)).eval()
    source, target = tmp_path / "whole", tmp_path / "text"
    whole.save_pretrained(source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(model) / name, source)
    refused = outrider("convert", source, "--mode", "medusa", "--out", tmp_path / "out", status=MODELS)
    assert "save the text model as a MistralForCausalLM of its own" in refused.stderr
    page = (ROOT / "docs/adding_a_base_model.md").read_text()
    names = {}
    exec(re.search(r"^```python\n(.*?)^```", page, re.M | re.S).group(1), names)
    names["save_text_model"](source, "MistralForCausalLM", target)
    ids = torch.tensor([[5, 9, 63, 0, 17]])
    save_file({"input_ids": ids}, tmp_path / "batch.safetensors")
    outrider("forward", target, "--batch", tmp_path / "batch.safetensors", "--out", tmp_path / "result")
    with torch.no_grad():
        expected = whole(input_ids=ids).logits
    assert torch.allclose(load_file(tmp_path / "result")["logits"], expected, atol=1e-5)
