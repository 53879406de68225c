"""SmolLM2's logits and hidden states against transformers'."""

import copy
import json

import numpy as np
import pytest
import torch

TOKENS = 500


@pytest.fixture(scope="module")
def text_ids(examples, tokenizer):
    """The tokens of held-out conversations, one after the other."""
    lines = (examples / "smollm2_self_validation.jsonl").read_text().splitlines()
    text = "\n".join(turn["content"] for line in lines[:40]
                     for turn in json.loads(line)["messages"])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > 2 * TOKENS
    return ids


@pytest.fixture(scope="module")
def transformers_model(model):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True)


def theirs(transformers_model, batch):
    with torch.no_grad():
        output = transformers_model(
            **{name: torch.as_tensor(rows) for name, rows in batch.items()},
            output_hidden_states=True, use_cache=False)
    return output.logits.float().numpy(), [h.float().numpy() for h in output.hidden_states]


def test_float32_logits_and_hidden_states_of_real_text(
        forward, model, text_ids, transformers_model):
    batch = {"input_ids": [text_ids[:TOKENS]]}
    found = forward(model, batch, "--dtype", "float32", "--hidden-states")
    logits, hidden = theirs(transformers_model, batch)
    assert found["logits"].shape == (1, TOKENS, 49152)
    assert np.abs(found["logits"] - logits).max() <= 1e-3
    assert sum(name.startswith("hidden_states.") for name in found) == len(hidden) + 1
    for i, expected in enumerate(hidden):
        off = np.abs(found[f"hidden_states.{i}"] - expected).max()
        assert off <= 1e-5 * max(1.0, np.abs(expected).max()), i


def cosines(a, b):
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def test_bfloat16_is_as_close_as_transformers_bfloat16(
        forward, model, text_ids, transformers_model):
    batch = {"input_ids": [text_ids[:TOKENS]]}
    found = forward(model, batch)["logits"]
    exact, _ = theirs(transformers_model, batch)
    rounded, _ = theirs(copy.deepcopy(transformers_model).to(torch.bfloat16), batch)
    assert not np.array_equal(found, exact)
    ours, reference = cosines(found, exact), cosines(rounded, exact)
    assert 1 - ours.mean() <= 1.5 * (1 - reference.mean())
    assert 1 - ours.min() <= 3 * (1 - reference.min())
    assert (found.argmax(-1) == exact.argmax(-1)).mean() > 0.9


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_rows(forward, model, text_ids, transformers_model, side):
    lengths = (40, 25, 33)
    ids, mask = np.full((3, 40), 2), np.zeros((3, 40), int)
    for row, length in enumerate(lengths):
        where = slice(0, length) if side == "right" else slice(40 - length, 40)
        ids[row, where], mask[row, where] = text_ids[row * 40:row * 40 + length], 1
    batch = {"input_ids": ids, "attention_mask": mask,
             "position_ids": np.maximum(mask.cumsum(1) - 1, 0)}
    found = forward(model, batch, "--dtype", "float32")["logits"]
    expected, _ = theirs(transformers_model, batch)
    assert np.isfinite(found).all()
    assert np.abs(found - expected)[mask == 1].max() <= 1e-3
    for row, length in enumerate(lengths):
        alone = forward(model, {"input_ids": [ids[row][mask[row] == 1]]}, "--dtype", "float32")
        assert np.abs(found[row][mask[row] == 1] - alone["logits"][0]).max() <= 1e-3
