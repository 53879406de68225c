"""`outrider eval`: what it says against a count of what was emitted, and against `generate`."""

import json

import pytest

PROMPTS = [[1, 57, 90, 31, 8] * 4, [5, 6, 7, 8, 9, 10] * 3, [99, 98, 97] * 5, [4, 40, 44] * 4]
COUNT = 24


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=120, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3, bos_token_id=1, eos_token_id=2))
    folder = tmp_path_factory.mktemp("eval") / "base"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(base, convert):
    return [convert(base, "--mode", "eagle", "--preset", "eagle3"), convert(base, "--mode", "medusa")]


@pytest.fixture
def prompts(jsonl):
    return jsonl(*({"input_ids": ids, "category": "even" if i % 2 == 0 else "odd"}
                   for i, ids in enumerate(PROMPTS)), name="prompts.jsonl")


def test_ways_are_measured_side_by_side(outrider, folders, prompts):
    options = "--prompts", prompts, "--max-new-tokens", COUNT
    result = outrider("eval", *folders, *options, "--json").json()
    assert result["prompts"] == 4
    ways = {(way["model"], way["drafter"]): way for way in result["ways"]}
    eagle, medusa = map(str, folders)
    assert set(ways) == {(eagle, "eagle"), (eagle, "prompt-lookup"), (eagle, "none"), (medusa, "medusa"), (medusa, "none")}
    texts = [[answer["token_ids"] for answer in way["answers"]] for way in ways.values()]
    assert all(text == texts[0] for text in texts)
    for (folder, drafter), way in ways.items():
        answers = way["answers"]
        emitted = sum(len(a["token_ids"]) - 1 for a in answers)
        assert way["acceptance_length"] == pytest.approx(emitted / sum(a["rounds"] for a in answers))
        low, high = way["interval"]
        assert low <= way["acceptance_length"] <= high
        assert way["tokens_per_second"] == pytest.approx(
            sum(len(a["token_ids"]) for a in answers) / sum(way["seconds"].values()))
        plain = ways[folder, "none"]
        assert way["speed_up"] == pytest.approx(way["tokens_per_second"] / plain["tokens_per_second"])
        even = [a for a in answers[::2]]
        assert way["acceptance_length_by_category"]["even"] == pytest.approx(
            sum(len(a["token_ids"]) - 1 for a in even) / sum(a["rounds"] for a in even))
        positions = way["acceptance_by_position"]
        assert positions == ([] if drafter == "none" else pytest.approx(
            [sum(a["accepted"][k:k + 1][0] for a in answers if len(a["accepted"]) > k)
             / max(sum(a["drafted"][k] for a in answers if len(a["drafted"]) > k), 1) for k in range(len(positions))]))
    assert ways[eagle, "none"]["acceptance_length"] == 1 and ways[eagle, "none"]["seconds"]["draft"] == 0


def test_answers_are_those_of_generate(outrider, folders, prompts):
    options = "--prompts", prompts, "--max-new-tokens", COUNT, "--draft-shape", "dynamic-tree", "--json"
    way = outrider("eval", folders[0], *options, "--num-prompts", 2).json()["ways"][0]
    lines = outrider("generate", folders[0], *options).stdout.splitlines()
    for ours, theirs in zip(way["answers"], map(json.loads, lines[::2]), strict=True):
        assert all(ours[key] == theirs[key] for key in ours)


def test_the_table_says_which_is_fastest(outrider, base, prompts):
    shown = outrider("eval", base, "--prompts", prompts, "--max-new-tokens", 8)
    assert "tokens/pass" in shown.stdout and "prompt-lookup" in shown.stdout and "odd:" in shown.stdout
    assert "the fastest here is" in shown.stdout or "plain decoding is the fastest here" in shown.stdout
    assert "4 of 4 prompts" in shown.stderr
