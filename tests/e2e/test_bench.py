"""outrider bench: what it says of a workload, on the CPU and a base of toy size."""

import json

import pytest

TINY = ("bench", "train", "--workload", "tiny-k3-64x2", "--steps", 3, "--warmup-steps", 1)


def operations(hidden=64, layers=8, heads=4, kv_heads=2, head_dim=16, mid=128, vocab=512, draft=128, steps=3,
               length=64, rows=2):
    """Of a step, by the published formula: base forward with its head, the draft's steps forward and backward."""
    queries, keys, tokens = heads * head_dim, kv_heads * head_dim, length * rows
    layer = hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * mid
    attention = 2 * length * queries
    base = tokens * (2 * (layers * layer + hidden * vocab) + layers * attention)
    step = 2 * hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * mid + hidden * draft
    return base + steps * tokens * (6 * step + 3 * attention) + tokens * 4 * 3 * hidden * hidden


def test_a_workload_is_measured(outrider):
    result = json.loads(outrider(*TINY, "--json").stdout)
    rate = result["tokens_per_second"]
    assert 0 < rate["least"] <= rate["median"] <= rate["most"]
    assert rate["median"] == pytest.approx(128 / result["step_seconds"])
    assert sum(result["share_of_time"].values()) == pytest.approx(1)
    limit = result["product_tflops"] * 1e12 / operations() * 128
    assert result["limit_tokens_per_second"] == pytest.approx(limit, rel=1e-9)
    assert result["share_of_limit"] == pytest.approx(rate["median"] / limit)
    said = outrider(*TINY).stdout
    assert "tiny-k3-64x2 on cpu in Float" in said
    assert "% of the limit" in said


@pytest.mark.parametrize("name", ["huge-k3-64x2", "tiny-64x2", "tiny-k0-64x2", "tiny-k3-4x2", "../x", ""])
def test_an_unknown_workload_names_the_known(outrider, name):
    said = outrider("bench", "train", "--workload", name, status=2).stderr
    assert "there is no workload" in said
    assert "1b, 8b, smollm2, tiny" in said


DECODE = ("bench", "decode", "--workload", "tiny-16x2", "--max-new-tokens", 8, "--repeats", 3)


def bytes_of_a_step(hidden=64, layers=8, heads=4, kv_heads=2, head_dim=16, mid=128, vocab=512, kept=16 + 4, rows=2):
    """float32: every weight but the embedding's once, with the keys and values of half the answer."""
    queries, keys = heads * head_dim, kv_heads * head_dim
    layer = hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * mid + 2 * hidden
    return 4 * (layers * layer + hidden * vocab + rows * layers * 2 * keys * kept)


def test_decoding_is_measured(outrider):
    result = json.loads(outrider(*DECODE, "--json").stdout)
    rate = result["tokens_per_second"]
    assert 0 < rate["least"] <= rate["median"] <= rate["most"]
    assert rate["median"] == pytest.approx(2 / result["step_seconds"])
    assert result["bytes_per_step"] == bytes_of_a_step()
    assert result["share_of_limit"] == pytest.approx(
        bytes_of_a_step() / result["copy_bytes_per_second"] / result["step_seconds"])
    assert [(r["draft_shape"], r["num_draft_tokens"]) for r in result["rounds"]] == [
        ("chain", 3), ("static-tree", 16), ("dynamic-tree", 16)]
    for round_ in result["rounds"]:
        whole = round_["draft_seconds"] + round_["base_seconds"]
        assert round_["acceptance_length_that_pays"] == pytest.approx(whole / result["step_seconds"])
    said = outrider(*DECODE).stdout
    assert "tiny-16x2 on cpu in Float" in said
    assert "% of the limit" in said


@pytest.mark.parametrize("name", ["huge-16x2", "tiny-k3-16x2", "tiny-0x1", "tiny-16x0", ""])
def test_an_unknown_workload_of_decoding_names_the_known(outrider, name):
    said = outrider("bench", "decode", "--workload", name, status=2).stderr
    assert "there is no workload" in said
    assert "BASE-LENGTHxROWS" in said
    assert "1b, 8b, smollm2, tiny" in said
