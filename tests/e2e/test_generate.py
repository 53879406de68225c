"""`outrider generate` against transformers' greedy generate, token by token."""

import json

import numpy as np
import pytest
from runs import write_shards_of

PROMPTS = [[1, 57, 90, 31, 8], [4], [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20], [99, 98]]
COUNT = 40
CLOSE = 1e-4  # of two logits, either is right


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """name → folder of a small random model that transformers saved."""
    import torch
    import transformers as hf

    sizes = dict(
        vocab_size=300, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.3, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, tie_word_embeddings=False)
    made = {
        "llama": hf.LlamaForCausalLM(hf.LlamaConfig(**sizes)),
        "mistral": hf.MistralForCausalLM(hf.MistralConfig(**sizes, sliding_window=9)),
        "qwen2": hf.Qwen2ForCausalLM(hf.Qwen2Config(
            **sizes, use_sliding_window=True, sliding_window=7, max_window_layers=1)),
        "qwen3": hf.Qwen3ForCausalLM(hf.Qwen3Config(**sizes, head_dim=16)),
        "phi3": hf.Phi3ForCausalLM(hf.Phi3Config(**sizes))}
    folders = {}
    for i, (name, model) in enumerate(made.items()):
        torch.manual_seed(i)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.3)
        folders[name] = tmp_path_factory.mktemp("families") / name
        model.save_pretrained(folders[name])
    return folders


def greedy(folder, prompts, count):
    """(tokens, logits before each) of transformers' generate for each prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for prompt in prompts:
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True)
        found.append((out.sequences[0, len(prompt):].tolist(), torch.cat(out.logits)))
    return found


def check_same(answers, expected):
    assert len(answers) == len(expected)
    for answer, (tokens, logits) in zip(answers, expected):
        ids = answer["token_ids"]
        for at, (ours, theirs) in enumerate(zip(ids, tokens)):
            if ours != theirs:
                assert logits[at, theirs] - logits[at, ours] < CLOSE, (at, ids, tokens)
                break  # from here on another text
        else:
            assert len(ids) == len(tokens)


@pytest.fixture
def generate(outrider, jsonl):
    """generate(folder, prompts, *options): the objects that are printed."""

    def run(folder, prompts, *options):
        file = jsonl(*({"input_ids": ids} for ids in prompts), name="prompts.jsonl")
        done = outrider("generate", folder, "--prompts", file, "--json", *options)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "phi3"])
def test_tokens_are_those_of_transformers(generate, families, family):
    expected = greedy(families[family], PROMPTS, COUNT)
    for batch in (1, 3):
        answers = generate(families[family], PROMPTS, "--max-new-tokens", COUNT, "--batch-size", batch)
        check_same(answers, expected)
        assert all(answer["acceptance_length"] == 1 for answer in answers)
        assert "text" not in answers[0]


SHAPES = [("chain", "--num-draft-tokens", 4), ("static-tree",), ("dynamic-tree", "--draft-depth", 3)]


@pytest.mark.parametrize("mode", [
    ("eagle", "--preset", "eagle3"), ("eagle", "--set", "eagle_architecture_config.use_aux_hidden_state=false"),
    ("medusa", "--preset", "medusa")], ids=["eagle3", "eagle1", "medusa"])
def test_drafting_changes_no_token(generate, convert, families, mode):
    folder = convert(families["llama"], "--mode", *mode)
    expected = greedy(families["llama"], PROMPTS, COUNT)
    for shape in SHAPES:
        for batch in (1, 4):
            answers = generate(folder, PROMPTS, "--max-new-tokens", COUNT, "--draft-shape", *shape,
                               "--batch-size", batch)
            check_same(answers, expected)
            assert all(sum(answer["drafted"]) > 0 for answer in answers)
    plain = generate(folder, PROMPTS, "--max-new-tokens", COUNT, "--no-draft")
    check_same(plain, expected)
    assert all(answer["drafted"] == [] for answer in plain)


@pytest.fixture(scope="module")
def trained(outrider, convert, families, tmp_path_factory):
    """A draft that has learned by heart what the base says, in part."""
    folder = tmp_path_factory.mktemp("trained")
    lines = [json.dumps({"input_ids": ids}) for ids in PROMPTS]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    said = outrider("generate", families["llama"], "--prompts", folder / "prompts.jsonl", "--max-new-tokens",
                    COUNT, "--json").stdout.splitlines()
    texts = [json.loads(prompt)["input_ids"] + json.loads(answer)["token_ids"] for prompt, answer in zip(lines, said)]
    model = convert(families["llama"], "--mode", "eagle", "--preset", "eagle3", "--set", "eagle_ttt_steps=4")
    outrider("train", model, "--data", write_shards_of(folder / "shards", 300, texts), "--out", folder / "run",
             "--max-steps", 60, "--learning-rate", 3e-3)
    return folder / "run/final"


def accepted_by_training(logits, tokens, begin, count):
    """(rounds, accepted at each position) of a greedy loop whose draft is what training computes.

    logits[k]: of step k at each position; tokens: prompt and answer, of which `begin` is the prompt."""
    rounds, accepted, last = 0, [0] * len(logits), begin  # the last token that is emitted
    while last + 1 < begin + count:
        rounds += 1
        hits = 0
        while hits < len(logits) and last + 1 + hits < len(tokens) and (
                logits[hits][last - 1 + hits].argmax() == tokens[last + 1 + hits]):
            accepted[hits] += 1
            hits += 1
        last += 1 + hits
    return rounds, accepted


def test_acceptance_is_what_the_training_forward_says(generate, forward, trained):
    """The draft that decodes with keys and values of its own is the one that was trained."""
    prompts = [*PROMPTS, [33, 44, 55]]
    answers = generate(trained, prompts, "--max-new-tokens", COUNT, "--num-draft-tokens", 3, "--batch-size", 3)
    total = 0
    for prompt, answer in zip(prompts, answers):
        # More of the answer than was asked for: the last round looks beyond its end.
        longer, = generate(trained, [prompt], "--max-new-tokens", COUNT + 8, "--no-draft")
        tokens = prompt + longer["token_ids"]
        assert answer["token_ids"] == longer["token_ids"][:len(answer["token_ids"])]
        found = forward(trained, {"input_ids": [tokens]}, "--train")
        logits = [found[f"logits.step_{k}"][0] for k in range(3)]
        rounds, accepted = accepted_by_training(logits, tokens, len(prompt), len(answer["token_ids"]))
        assert (answer["rounds"], answer["accepted"]) == (rounds, accepted)
        total += sum(accepted)
    assert total > 20


def test_a_trained_draft_changes_no_token(generate, families, trained):
    expected = greedy(families["llama"], PROMPTS, COUNT)
    for shape in SHAPES:
        answers = generate(trained, PROMPTS, "--max-new-tokens", COUNT, "--draft-shape", *shape)
        check_same(answers, expected)
        assert sum(sum(answer["accepted"]) for answer in answers) > 20


def test_prompt_lookup_changes_no_token(generate, families):
    prompts = [prompt * 3 for prompt in PROMPTS]
    answers = generate(families["llama"], prompts, "--max-new-tokens", COUNT, "--drafter", "prompt-lookup")
    check_same(answers, greedy(families["llama"], prompts, COUNT))
    assert max(sum(answer["accepted"]) for answer in answers) > 0


def test_statistics_say_what_was_emitted(generate, families):
    prompts = [prompt * 3 for prompt in PROMPTS]
    for answer in generate(families["llama"], prompts, "--max-new-tokens", COUNT, "--drafter", "prompt-lookup"):
        assert answer["acceptance_length"] == pytest.approx((len(answer["token_ids"]) - 1) / answer["rounds"])
        assert len(answer["token_ids"]) <= 1 + answer["rounds"] + sum(answer["accepted"])
        assert answer["tokens_per_second"] > 0


def test_a_stop_token_ends_an_answer_and_is_in_it(generate, families, edited):
    tokens, _ = greedy(families["llama"], PROMPTS[:1], 12)[0]
    stop = next(token for token in tokens[4:] if token not in tokens[:4])
    folder = edited(families["llama"], "generation_config.json",
                    lambda config: config.update(eos_token_id=[299, stop]))
    answer, = generate(folder, PROMPTS[:1], "--max-new-tokens", COUNT)
    assert answer["token_ids"] == tokens[:tokens.index(stop) + 1] and answer["stopped"]
    answer, = generate(folder, PROMPTS[:1], "--max-new-tokens", 3)
    assert answer["token_ids"] == tokens[:3] and not answer["stopped"]


def test_a_seed_decides_what_is_drawn(generate, families):
    def drawn(seed, *options):
        return [answer["token_ids"] for answer in generate(
            families["llama"], PROMPTS[:2], "--max-new-tokens", 10, "--temperature", 1.5, "--seed", seed, *options)]

    assert drawn(1) == drawn(1) != drawn(2)
    greedily = [answer["token_ids"] for answer in generate(families["llama"], PROMPTS[:2], "--max-new-tokens", 10)]
    assert drawn(3, "--top-k", 1) == greedily


CHAT = [{"role": "user", "content": "Name three colours."}]


def test_text_goes_through_the_chat_template(outrider, model, tokenizer, jsonl):
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    (tokens, _), = greedy(model, [ids], 12)
    prompts = jsonl({"messages": [*CHAT, {"role": "assistant", "content": "?"}]},
                    {"turns": [CHAT[0]["content"], "And more?"]}, {"input_ids": ids})
    options = "--max-new-tokens", 12, "--dtype", "float32"
    lines = outrider("generate", model, "--prompts", prompts, "--json", *options).stdout.splitlines()
    for answer in map(json.loads, lines):
        assert answer["token_ids"] == tokens
        assert answer["text"] == tokenizer.decode(tokens, skip_special_tokens=True)
    shown = outrider("generate", model, "--prompt", CHAT[0]["content"], *options)
    assert shown.stdout == tokenizer.decode(tokens, skip_special_tokens=True) + "\n"
    assert "12 tokens in" in shown.stderr


def test_raw_text_and_characters_of_several_tokens(outrider, model, tokenizer):
    text = "日本語の文章"
    (tokens, _), = greedy(model, [tokenizer(text)["input_ids"]], 16)
    shown = outrider("generate", model, "--prompt", text, "--raw", "--max-new-tokens", 16, "--dtype", "float32")
    assert shown.stdout.rstrip("\n") == tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd\n")


def test_comparing_says_how_much_faster_it_was(outrider, families, jsonl):
    prompts = jsonl({"input_ids": PROMPTS[2] * 2})
    done = outrider("generate", families["llama"], "--prompts", prompts, "--drafter", "prompt-lookup",
                    "--max-new-tokens", 30, "--compare", "--json")
    assert json.loads(done.stdout)["speed_up"] > 0
    done = outrider("generate", families["llama"], "--prompts", prompts, "--max-new-tokens", 5, "--compare")
    assert "times as fast as plain decoding" in done.stderr


@pytest.mark.parametrize("lines, message", [
    ([{"input_ids": [1, 300]}], "token 300 is outside the vocabulary of 300"),
    ([{"input_ids": []}], "prompt 1 has no tokens"),
    ([{"input_ids": "ab"}], "prompt 1: 'input_ids' must be a list of integers"),
    (["[1]"], "line 1: expected an object"), (["{"], "line 1"), ([""], "holds no prompts")])
def test_wrong_prompts_are_refused_in_words(outrider, families, jsonl, lines, message):
    status = 2 if "vocabulary" in message or "no tokens" in message else 3
    done = outrider("generate", families["llama"], "--prompts", jsonl(*lines), status=status)
    assert message in done.stderr


def test_wrong_arguments_are_refused_in_words(outrider, families, tmp_path):
    folder = families["llama"]
    assert "one of --prompt and --prompts" in outrider("generate", folder, status=2).stderr
    prompt = "--prompts", tmp_path / "none.jsonl"
    assert "no such file" in outrider("generate", folder, *prompt, status=3).stderr
    asked = "--prompt", "hi"
    assert "no usable tokenizer" in outrider("generate", folder, *asked, status=3).stderr
