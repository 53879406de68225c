"""What the program says, and leaves behind, when something is wrong: one table."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from conftest import REFERENCE
from safetensors.numpy import save_file

BASE = REFERENCE / "base_llama/base"
BATCH = REFERENCE / "base_llama/inputs.safetensors"

REQUEST, FILES, MODELS, PLUGINS, MACHINE = 2, 3, 4, 5, 6

CONVERT = "convert {base} --out {out} --mode eagle --preset eagle3"
FORWARD = "forward {base} --out {out} --batch "
TRAIN = "train {eagle} --data {shards} --out {out} "

# name: (command, exit status, texts on stderr)
CASES = {
    # --- the request
    "no verb": ("", REQUEST, ["A subcommand is required", "outrider --help"]),
    "unknown verb": ("inspekt {base}", REQUEST, ["unknown argument 'inspekt'", "'inspect'"]),
    "unknown second verb": ("data prepre", REQUEST, ["'prepre'", "'prepare'"]),
    "unknown option": ("inspect {base} --jsn", REQUEST, ["--jsn", "outrider inspect --help"]),
    "missing option": ("convert {base} --mode eagle", REQUEST, ["--out", "required"]),
    "option without its number": (TRAIN + "--max-steps many", REQUEST, ["--max-steps", "many"]),
    "unknown mode": ("convert {base} --out {out} --mode eagel", REQUEST,
                     ["unknown mode 'eagel'", "did you mean 'eagle'?"]),
    "mode like no other": ("convert {base} --out {out} --mode lookahead", REQUEST,
                           ["unknown mode 'lookahead'", "known are: eagle, medusa"]),
    "unknown mode shown": ("mode show medsua", REQUEST, ["did you mean 'medusa'?"]),
    "unknown preset": ("convert {base} --out {out} --mode eagle --preset eagle4", REQUEST,
                       ["mode 'eagle' has no preset 'eagle4'", "did you mean 'eagle3'"]),
    "unknown config key": (CONVERT + " --set eagle_ttt_stepz=4", REQUEST,
                           ["/eagle_ttt_stepz: unknown key; did you mean 'eagle_ttt_steps'?"]),
    "all problems of a config": (
        CONVERT + " --set eagle_ttt_steps=1.5 --set eagle_offline=maybe --set foo=1"
        " --set eagle_loss_decay_factor=[]", REQUEST,
        ["/eagle_ttt_steps: got 1.5, expected a 64-bit integer",
         '/eagle_offline: got "maybe", expected true or false', "/foo: unknown key",
         "/eagle_loss_decay_factor: got [], expected a finite number"]),
    "values that no draft can have": (
        CONVERT + " --set eagle_ttt_steps=99 --set eagle_decoder_type=mamba", REQUEST,
        ["/eagle_ttt_steps: got 99, expected 1 to 64", "/eagle_decoder_type: got 'mamba'"]),
    "wrong architecture": (CONVERT + " --set eagle_architecture_config.head_dim=1.5", REQUEST,
                           ["eagle_architecture_config", "/head_dim: got 1.5"]),
    "layers that are not there": (
        CONVERT + " --set eagle_architecture_config.eagle_aux_hidden_state_layer_ids=[0,9]",
        REQUEST, ["eagle reads the layers [0, 9]", "3 layers (0 to 2)"]),
    "--set without a value": (CONVERT + " --set eagle_ttt_steps", REQUEST,
                              ["--set eagle_ttt_steps: not of the form key=value"]),
    "--set without a key": (CONVERT + " --set =4", REQUEST, ["not of the form key=value"]),
    "unknown numerics": (CONVERT + " --reference-numerics 0.13", REQUEST,
                         ["'0.13'", "accepted are 0.47 and 0.42"]),
    "unknown dtype": (CONVERT + " --dtype float17", REQUEST, ["'float17'", "float32, bfloat16"]),
    "unknown device": (FORWARD + "{batch} --device tpu", REQUEST,
                       ["--device tpu: unknown device", "cpu, cuda and cuda:N"]),
    "unknown format": ("export {eagle} --out {out} --format hff", REQUEST,
                       ["no export format 'hff'", "did you mean 'hf'? known are: hf, eagle, sglang, vllm"]),
    "a mark in place of a format": ("export {eagle} --out {out} --format ?", REQUEST,
                                    ["no export format '?'", "hint: known are: hf, eagle, sglang, vllm"]),
    "format of another mode": ("export {medusa} --out {out}", REQUEST,
                             ["mode 'medusa' has no export format 'hf'", "known are: medusa"]),
    "absent draft": ("export {eagle} --out {out} --mode medusa", REQUEST,
                     ["no draft of mode 'medusa'", "--mode: eagle"]),
    "all problems of training options": (
        TRAIN + "--lr-scheduler-type cosin --warmup-ratio 2 --adam-beta2 1", REQUEST,
        ["'cosin' is unknown, did you mean 'cosine'?", "warmup_ratio is 2", "adam_beta2 is 1"]),
    "shapes of a batch": (FORWARD + "{shape}", REQUEST,
                          ["attention_mask is [1,2], expected the shape of input_ids [1,3]"]),
    "empty sequence": (FORWARD + "{empty}", REQUEST, ["input_ids must be [B,S]", "one token"]),
    "ids of one dimension": (FORWARD + "{flat}", REQUEST, ["input_ids must be [B,S]"]),
    # --- files
    "missing folder": ("convert {tmp}/nowhere --out {out} --mode eagle", FILES,
                       ["nowhere: no such folder", "config.json"]),
    "missing config.json": ("convert {tmp} --out {out} --mode eagle", FILES,
                            ["config.json' does not exist"]),
    "missing tensors": ("convert {no_tensors} --out {out} --mode eagle", FILES,
                        ["has neither model.safetensors nor model.safetensors.index.json"]),
    "pickled tensors": ("convert {pickled} --out {out} --mode eagle", FILES,
                        ["'pytorch_model.bin' is not read", "save_pretrained"]),
    "truncated safetensors": ("convert {truncated} --out {out} --mode eagle", FILES,
                              ["model.safetensors': tensor 'model.", "outside of the"]),
    "cut header": ("convert {cut_header} --out {out} --mode eagle", FILES, ["model.safetensors'"]),
    "config.json that is none": ("inspect {no_json}", FILES, ["config.json', line 1: "]),
    "deep config.json": ("inspect {deep_config}", FILES,
                         ["config.json', line 1: nested deeper than the 64 levels"]),
    "corrupt state": ("export {corrupt} --out {out}", FILES, ["outrider_state.json', line "]),
    "deep state": ("export {deep_state} --out {out}", FILES,
                   ["outrider_state.json', line 1: nested deeper than the 32 levels"]),
    "malformed state": ("export {malformed} --out {out}", FILES,
                        ["/modes/0/plugin/range", "/modes/0/config must be of type object",
                         "/extra is an unknown key", "/written_by is missing"]),
    "missing batch": (FORWARD + "{tmp}/no.safetensors", FILES, ["no.safetensors"]),
    "batch without ids": (FORWARD + "{no_ids}", FILES, ["no tensor 'input_ids'"]),
    "ids that are no integers": (FORWARD + "{fractions}", FILES,
                                 ["'input_ids' is float32, expected integers"]),
    "missing --config": (CONVERT + " --config {tmp}/no.json", FILES, ["no.json' does not exist"]),
    "--config that is no object": (CONVERT + " --config {list}", FILES, ["not a JSON object"]),
    "--draft-vocab that is none": (CONVERT + " --draft-vocab {batch}", FILES,
                                   ["no int64 tensor 'd2t'", "outrider data calibrate"]),
    "existing --out": ("convert {base} --out {full} --mode eagle --preset eagle3", FILES,
                       ["exists and is not empty"]),
    "existing --out of export": ("export {eagle} --out {full}", FILES, ["exists and is not empty"]),
    "existing --out of train": ("train {eagle} --data {shards} --out {full}", FILES,
                                ["exists and is not an empty folder", "choose another folder"]),
    "nothing to resume": (TRAIN + "--resume", FILES, ["no such folder, so there is no run to resume", "without --resume"]),
    "--out in no folder": ("convert {base} --mode medusa --out {tmp}/a/b/c", FILES,
                           ["there is no folder"]),
    "missing shards": ("train {eagle} --data {tmp}/nowhere --out {out}", FILES, ["nowhere"]),
    # --- models
    "unknown architecture": ("convert {other} --out {out} --mode eagle", MODELS,
                             ["'LlamaForCausalLN' is not known", "'LlamaForCausalLM'"]),
    "converted twice": ("convert {eagle} --out {out} --mode eagle --preset eagle3", MODELS,
                        ["'eagle_module' already", "start from the base model again"]),
    "unsupported fields": (
        CONVERT + " --set eagle_base_lora=true --set eagle_decoder_type=kimik2", MODELS,
        ["refuses this config", "eagle_base_lora=true", "eagle_decoder_type=kimik2"]),
    "draft beyond memory": (
        CONVERT + " --set eagle_architecture_config.num_attention_heads=65536"
        " --set eagle_architecture_config.head_dim=65536", REQUEST,
        ["takes more than the", "GB of memory that are free", "outrider mode show"]),
    # Each matrix would fit.
    "draft of many layers beyond memory": (
        CONVERT + " --set eagle_architecture_config.intermediate_size=16777216"
        " --set eagle_architecture_config.num_hidden_layers=64", REQUEST,
        ["takes more than the", "GB of memory that are free: ", " million parameters of ",
         ", the largest in ", "_proj.weight [", "outrider mode show"]),
    "unknown weights": (CONVERT + " --weights {batch}", MODELS,
                        ["unknown name: attention_mask", "unknown name: input_ids"]),
    "export of a base": ("export {base} --out {out}", MODELS,
                         ["no draft to export", "outrider convert"]),
    "training of a base": ("train {base} --data {shards} --out {out}", MODELS,
                           ["no draft attached", "outrider convert"]),
    "token outside the vocabulary": (FORWARD + "{outside}", MODELS,
                                     ["outside the vocabulary of 128 tokens"]),
    "negative token": (FORWARD + "{negative}", MODELS, ["outside the vocabulary"]),
    "one token": ("forward {eagle} --train --out {out} --batch {one}", MODELS,
                  ["at least two tokens"]),
    "newer format": ("export {newer} --out {out}", MODELS,
                     ["format_version 2", "reads versions up to 1", "newer Outrider"]),
    "uncalibrated draft vocabulary": ("train {uncalibrated} --data {shards} --out {out}", MODELS,
                                      ["the draft vocabulary of 8 tokens was never chosen",
                                       "outrider data calibrate"]),
    "uncalibrated in forward": ("forward {uncalibrated} --train --out {out} --batch {batch}",
                                MODELS, ["was never chosen", "--draft-vocab"]),
    "data of another vocabulary": ("train {eagle} --data {large_shards} --out {out}", MODELS,
                                   ["vocabulary of 49152, the model has 128"]),
    "absurd sizes": ("convert {absurd} --out {out} --mode eagle", MODELS,
                     ["config.json describes", "parameters, the tensors hold 24544"]),
    # --- plugins
    "missing plugin": ("export {no_plugin} --out {out}", PLUGINS,
                       ["no plugin 'nebula' in range ^1.0", "installed are eagle 0.1.0"]),
    "unknown plugin shown": ("plugin show nebula", PLUGINS, ["nebula"]),
}


@pytest.fixture(scope="module")
def places(convert, shards, tmp_path_factory):
    """What the commands name in braces."""
    root = tmp_path_factory.mktemp("broken")
    small = ("--mode", "eagle", "--preset", "eagle3",
             "--set", "eagle_architecture_config.eagle_aux_hidden_state_layer_ids=[0,2]")
    eagle = convert(BASE, *small)
    found = {
        "base": BASE, "batch": BATCH, "eagle": eagle,
        "medusa": convert(BASE, "--mode", "medusa"),
        "uncalibrated": convert(
            BASE, *small, "--set", "eagle_architecture_config.draft_vocab_size=8"),
        "large_shards": shards / "train"}

    def folder(name, source=BASE, **contents):
        found[name] = root / name
        shutil.copytree(source, root / name)
        for file, change in contents.items():
            path = root / name / f"{file}.json"
            if isinstance(change, str):
                path.write_text(change)
            else:
                content = json.loads(path.read_text())
                change(content)
                path.write_text(json.dumps(content))
        return root / name

    def batch(name, **arrays):
        found[name] = root / f"{name}.safetensors"
        save_file({key: np.asarray(array) for key, array in arrays.items()}, found[name])

    (folder("no_tensors") / "model.safetensors").unlink()
    pickled = folder("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    for name, size in (("truncated", 50000), ("cut_header", 100)):
        with open(folder(name) / "model.safetensors", "r+b") as file:
            file.truncate(size)
    folder("full")
    folder("no_json", config="{'a': 1}")
    folder("deep_config", config='{"a":' * 100000)
    folder("other", config=lambda c: c.update(architectures=["LlamaForCausalLN"]))
    folder("absurd", config=lambda c: c.update(
        hidden_size=2**20, vocab_size=2**24, intermediate_size=2**20, num_hidden_layers=4096))
    folder("corrupt", eagle,
           outrider_state=(eagle / "outrider_state.json").read_text()[:300])
    folder("deep_state", eagle, outrider_state="[" * 100000)
    folder("newer", eagle, outrider_state=lambda s: s.update(format_version=2))
    folder("no_plugin", eagle, outrider_state=lambda s: s["modes"][0]["plugin"].update(
        name="nebula", range="^1.0", sha256=""))

    def malform(state):
        del state["written_by"]
        state["extra"] = 1
        state["modes"][0]["config"] = []
        state["modes"][0]["plugin"]["range"] = "about 1"

    folder("malformed", eagle, outrider_state=malform)
    batch("shape", input_ids=[[1, 2, 3]], attention_mask=[[1, 1]])
    batch("empty", input_ids=np.zeros((1, 0), np.int64))
    batch("flat", input_ids=[1, 2, 3])
    batch("no_ids", labels=[[1, 2, 3]])
    batch("fractions", input_ids=np.float32([[1.5, 2.5]]))
    batch("outside", input_ids=[[1, 2, 128]])
    batch("negative", input_ids=[[1, -1]])
    batch("one", input_ids=[[1]])
    found["list"] = root / "list.json"
    found["list"].write_text("[1]")
    found["shards"] = root / "shards"
    found["shards"].mkdir()
    save_file({"input_ids": np.arange(20, dtype=np.int32), "loss_mask": np.ones(20, np.uint8),
               "offsets": np.asarray([0, 10, 20])}, found["shards"] / "shard-00000.safetensors")
    description = json.loads((shards / "train/shards.json").read_text())
    description.update(conversations=2, tokens=20, trained_tokens=20, vocab_size=128)
    shard = found["shards"] / "shard-00000.safetensors"
    description["shards"] = [{"file": shard.name, "conversations": 2, "tokens": 20,
                              "sha256": hashlib.sha256(shard.read_bytes()).hexdigest()}]
    (found["shards"] / "shards.json").write_text(json.dumps(description))
    return found


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", CASES)
def test_one_clear_error_and_nothing_left_behind(outrider, places, name, tmp_path):
    command, status, texts = CASES[name]
    inputs = places["list"].parent
    before = listing(inputs)
    arguments = [part.format(**places, tmp=tmp_path, out=tmp_path / "out")
                 for part in command.split()]
    done = outrider(*arguments, status=status)
    lines = done.stderr.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1, done.stderr
    assert done.stderr.count("error: ") == 1
    for text in texts:
        assert text in done.stderr
    assert done.stdout == ""
    assert listing(tmp_path) == []
    assert listing(inputs) == before


def test_the_unbroken_inputs_are_accepted(outrider, places, tmp_path):
    """Else the cases above might fail for another reason than theirs."""
    outrider("forward", places["base"], "--batch", BATCH, "--out", tmp_path / "a")
    outrider("forward", places["eagle"], "--batch", BATCH, "--train", "--out", tmp_path / "b")
    outrider("export", places["eagle"], "--out", tmp_path / "c")
    outrider("train", places["eagle"], "--data", places["shards"], "--out", tmp_path / "d",
             "--max-steps", 1)
    outrider("convert", places["eagle"], "--mode", "medusa", "--out", tmp_path / "e")


def test_no_cuda_device_is_a_matter_of_the_machine(outrider, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = outrider("forward", BASE, "--batch", BATCH, "--out", tmp_path / "out",
                    "--device", "cuda", status=MACHINE)
    assert "error: --device cuda: no CUDA device" in done.stderr
    assert done.stdout == "" and listing(tmp_path) == []


def test_control_characters_of_a_file_do_not_reach_the_terminal(outrider, edited, tmp_path):
    folder = edited(BASE, "config.json", lambda c: c.update(architectures=["\x1b[2J\nerror: x"]))
    done = outrider("convert", folder, "--mode", "medusa", "--out", tmp_path / "out", status=MODELS)
    assert "\x1b" not in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1


def test_all_problems_of_a_config_json_are_told_at_once(outrider, edited, tmp_path):
    folder = edited(BASE, "config.json", lambda c: c.update(
        hidden_size=2**40, vocab_size=-1, num_hidden_layers="three"))
    done = outrider("convert", folder, "--mode", "medusa", "--out", tmp_path / "out",
                    status=REQUEST)
    for text in ("'hidden_size' is 1099511627776, expected 1 to 1048576", "'vocab_size' is -1",
                 "'num_hidden_layers' is \"three\", expected an integer"):
        assert text in done.stderr
    assert done.stderr.count("error: ") == 1 and listing(tmp_path) == []


def test_every_unknown_meaning_of_a_config_json_is_told_at_once(outrider, edited, tmp_path):
    folder = edited(BASE, "config.json", lambda c: c.update(
        hidden_act="gelu", attn_logit_softcapping=30.0, layer_types=["full_attention", "linear"]))
    done = outrider("convert", folder, "--mode", "medusa", "--out", tmp_path / "out", status=MODELS)
    for text in ("'hidden_act' is \"gelu\", supported is \"silu\" or \"swish\"",
                 "'attn_logit_softcapping' is 30.0, supported is null",
                 "'layer_types' is [\"full_attention\",\"linear\"]",
                 "these keys change what the model computes"):
        assert text in done.stderr
    assert done.stderr.count("error: ") == 1 and listing(tmp_path) == []
