"""Files of another project that are wrong, or mean what a draft here cannot do."""

import json

import numpy as np
import pytest
from exchanged_drafts import (
    ALL, LLAMA3, change_maps, recorded, without_record)
from safetensors.numpy import load_file, save_file


def break_tensors(tensors):
    del tensors["norm.weight"], tensors["midlayer.mlp.up_proj.weight"]
    tensors["midlayer.mlp.gate_proj.weight"] = np.zeros((48, 31), np.float32)
    tensors["layers.0.extra.weight"] = np.zeros(3, np.float32)
    tensors["surprise\x1b[2J"] = np.zeros(3, np.float32)
    tensors["t2d"] = np.roll(tensors["t2d"], 1)
    tensors["embed_tokens.weight"] = np.ones((64, 32), np.float32)


@pytest.mark.parametrize("format", ["eagle", "sglang"])
def test_everything_wrong_with_the_tensors_is_named_at_once(draft, exported, outrider, llama,
                                                            tmp_path, format):
    folder = without_record(exported(draft("vocabulary"), format), break_tensors)
    text = outrider("import", folder, "--base", llama, "--out", tmp_path / "out", status=4).stderr
    for part in ("missing: norm.weight", "missing: midlayer.mlp.up_proj.weight",
                 "midlayer.mlp.gate_proj.weight is [48,31] Float, expected [48,32] Float",
                 "unexpected: layers.0.extra.weight", "unexpected: surprise\\x1b[2J",
                 "d2t and t2d disagree: t2d marks 24 tokens, d2t names 24; draft id ",
                 "differs from the base's, which a draft here cannot replace: embed_tokens.weight"):
        assert part in text, text
    assert "\x1b" not in text
    assert not (tmp_path / "out").exists()


MAPS = {
    "a token less in t2d": (
        change_maps(t2d=lambda t: t & (np.arange(64) != np.flatnonzero(t)[-1])),
        "t2d marks 23 tokens, d2t names 24; one is the beginning of the other"),
    "out of order": (change_maps(d2t=lambda d: d[::-1].copy()), "must be increasing token ids below"),
    "outside": (change_maps(d2t=lambda d: d + 64), "must be increasing token ids below 64"),
    "negative": (change_maps(d2t=lambda d: d - 64), "must be increasing token ids below 64"),
    "short d2t": (change_maps(d2t=lambda d: d[:9].copy()), "d2t is [9] Long, expected [24] Long"),
    "d2t of floats": (change_maps(d2t=lambda d: d.astype(np.float32)), "d2t is [24] Float"),
    "t2d of numbers": (change_maps(t2d=lambda t: t.astype(np.int64)), "t2d is [64] Long, expected"),
    "no t2d": (lambda tensors: tensors.pop("t2d"), "missing: t2d"),
    "no d2t": (lambda tensors: tensors.pop("d2t"), "missing: d2t"),
}


@pytest.mark.parametrize("case", MAPS)
def test_vocabulary_maps_that_disagree_are_refused(draft, exported, outrider, llama, tmp_path, case):
    change, expected = MAPS[case]
    folder = without_record(exported(draft("vocabulary"), "vllm"), change)
    text = outrider("import", folder, "--base", llama, "--out", tmp_path / "out", status=4).stderr
    assert expected in text


CONFIGS = {
    "mistyped residual": ("vllm", lambda c: c.update(norm_before_residual="yes"), 4,
                          ["'norm_before_residual' is neither true nor false"]),
    "normed residual": ("sglang", lambda c: c.update(norm_before_residual=True), 4,
                        ["'norm_before_residual' is true, which no reader of this format knows"]),
    "unsaid residual": ("vllm", lambda c: c.pop("norm_before_residual"), 4,
                        ["speculators reads as false and vLLM as true"]),
    "all flags": ("vllm", lambda c: c.update(norm_before_fc=True, fc_norm=True, norm_output=True), 4,
                  ["'norm_before_fc'", "'fc_norm'", "'norm_output'"]),
    "another algorithm": ("vllm", lambda c: c.update(speculators_model_type="dflash"), 4,
                          ['is "dflash", supported is "eagle3"']),
    "another decoder": ("vllm", lambda c: c["transformer_layer_config"].update(model_type="qwen3"), 4,
                        ['model_type\' is "qwen3"']),
    "layer 0's input": ("vllm", lambda c: c.update(eagle_aux_hidden_state_layer_ids=[0, 2, 4]), 4,
                        ["is [0,2,4], expected increasing layer numbers from 1 on"]),
    "unordered layers": (
        "sglang", lambda c: c["eagle_config"].update(eagle_aux_hidden_state_layer_ids=[4, 2, 1]), 4,
        ["is [4,2,1], expected increasing layer numbers from 0 on"]),
    "a layer that is not there": (
        "sglang", lambda c: c["eagle_config"].update(eagle_aux_hidden_state_layer_ids=[1, 2, 8]), 2,
        ["eagle reads the layers [1, 2, 8], but the base has 8 layers"]),
    "SpecForge's flags": ("sglang", lambda c: c.update(fc_norm=True, norm_output=False), 4,
                          ["'fc_norm'", "no norm before the head"]),
    "two embeddings": (
        "sglang", lambda c: c.update(rope_scaling={"rope_type": "linear", "factor": 2.0}), 4,
        ["'rope_scaling' and 'rope_parameters' describe different rotary embeddings"]),
    "unknown key": ("hf", lambda c: c["eagle_config"].update(mixer="x"), 4,
                    ["'eagle_config.mixer' is not known"]),
    "a rope it never had": ("eagle", lambda c: c.update(rope_scaling=LLAMA3), 4,
                            ["EAGLE's program knows null and the types linear and dynamic"]),
    "sliding window": ("eagle", lambda c: c.update(sliding_window=16), 4, ["'sliding_window' is 16"]),
    "another base's width": ("eagle", lambda c: c.update(target_hidden_size=96), 4,
                             ["fc.weight reads 96 columns, which are not the usual three layers"]),
    "huge": ("hf", lambda c: c["eagle_config"].update(parallel_draft_step=65536), 4,
             ["far larger than the tensors beside it"]),
    "mistyped": ("eagle", lambda c: c.update(num_attention_heads="4", intermediate_size=-1), 2,
                 ["num_attention_heads", "intermediate_size"]),
    "mistyped vocabulary": ("hf", lambda c: c.update(draft_vocab_size="65"), 2,
                            ["'draft_vocab_size' is \"65\", expected an integer from 1 to 64"]),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_mean_something_else_are_refused(draft, exported, outrider, llama, tmp_path,
                                                      edited, case):
    format, change, status, parts = CONFIGS[case]
    folder = edited(exported(draft("plain"), format), "config.json", change)
    text = outrider("import", folder, "--base", llama, "--format", format, "--out", tmp_path / "out",
                    status=status).stderr
    for part in parts:
        assert part in text, text
    assert not (tmp_path / "out").exists()


def test_the_config_wins_over_our_record(draft, exported, imported, edited):
    folder = edited(exported(draft("plain"), "sglang"), "config.json",
                    lambda c: c["eagle_config"].update(eagle_aux_hidden_state_layer_ids=[0, 2, 5]))
    mode = recorded(imported(folder))
    assert mode["metadata"]["aux_layer_ids"] == [0, 2, 5]
    assert mode["config"]["eagle_ttt_steps"] == 2


@pytest.mark.parametrize("record", ["[]", "{", '{"config": {"eagle_ttt_steps": "x"}, "metadata": {}}'])
def test_a_record_that_is_none_is_refused(draft, exported, outrider, llama, tmp_path, record):
    folder = exported(draft("plain"), "eagle")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors",
              metadata={"outrider_draft": record})
    done = outrider("import", folder, "--base", llama, "--out", tmp_path / "out",
                    status=2 if "ttt" in record else 3)
    assert ("eagle_ttt_steps" if "ttt" in record else "outrider_draft") in done.stderr


# --- which format, which base


def test_the_format_is_recognized(draft, exported, outrider, llama, tmp_path):
    for format in sorted(ALL):
        found = outrider("import", exported(draft("plain"), format), "--base", llama, "--json",
                         "--out", tmp_path / format).json()
        assert (found["mode"], found["format"]) == ("eagle", format)


def test_a_folder_of_no_format_is_refused(outrider, llama, tmp_path):
    text = outrider("import", llama, "--base", llama, "--out", tmp_path / "out", status=2).stderr
    assert "looks like no format that can be imported" in text
    assert "known are: eagle, hf, medusa, sglang, vllm" in text
    text = outrider("import", llama, "--base", llama, "--format", "vlm", "--out", tmp_path / "out",
                    status=2).stderr
    assert "there is no format 'vlm' to import" in text and "did you mean 'vllm'" in text
    (tmp_path / "empty").mkdir()
    text = outrider("import", tmp_path / "empty", "--base", llama, "--out", tmp_path / "out",
                    status=3).stderr
    assert "has no config.json" in text


def test_a_folder_that_fits_two_formats_is_refused(draft, exported, edited, outrider, llama,
                                                   tmp_path):
    folder = edited(exported(draft("plain"), "sglang"), "config.json",
                    lambda c: c.update(speculators_model_type="eagle3"))
    text = outrider("import", folder, "--base", llama, "--out", tmp_path / "out", status=2).stderr
    assert "fits several formats" in text
    assert "--mode eagle --format sglang" in text and "--mode eagle --format vllm" in text
