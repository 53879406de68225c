"""The program against what ModelOpt and transformers computed: see tests/fixtures/README.md."""

import json

import numpy as np
import pytest
from compare import differences
from conftest import REFERENCE
from safetensors.numpy import load_file, save_file

BASES = sorted(p.name for p in REFERENCE.glob("base_*"))
DRAFTS = sorted(p.name for p in REFERENCE.iterdir() if p.name not in BASES)
EXPORTS = [name for name in DRAFTS if (REFERENCE / name / "export").is_dir()]


def expectation(name):
    masks = REFERENCE / name / "masks.safetensors"
    return (load_file(REFERENCE / name / "expected.safetensors"),
            load_file(masks) if masks.exists() else {})


@pytest.fixture(scope="module")
def converted(convert, tmp_path_factory):
    """converted(case): its base, converted as the reference was."""
    done = {}

    def run(name):
        if name in done:
            return done[name]
        folder = REFERENCE / name
        case = json.loads((folder / "case.json").read_text())
        config = tmp_path_factory.mktemp("config") / "config.json"
        config.write_text(json.dumps(case["config_passed"] | case.get("config_extensions", {})))
        numerics = case["versions"]["modelopt"].rsplit(".", 1)[0]
        done[name] = convert(
            folder / "base", "--mode", case["mode"], "--config", config,
            "--reference-numerics", numerics, "--weights", folder / "converted.safetensors")
        return done[name]

    return run


def test_the_fixtures_are_there():
    assert len(BASES) >= 11 and len(DRAFTS) >= 30 and len(EXPORTS) >= 17


@pytest.mark.parametrize("name", BASES)
def test_a_base_computes_as_transformers(forward, name):
    expected, masks = expectation(name)
    assert {"logits", "hidden_states.0", "hidden_states.last_prenorm"} <= set(expected)
    found = forward(REFERENCE / name / "base", REFERENCE / name / "inputs.safetensors",
                    "--hidden-states")
    assert not differences(expected, found, masks)


@pytest.mark.parametrize("name", DRAFTS)
def test_a_draft_trains_as_the_reference(forward, converted, name):
    expected, masks = expectation(name)
    assert "loss" in expected and any(n.startswith("grad.") for n in expected)
    found = forward(converted(name), REFERENCE / name / "inputs.safetensors",
                    "--train", "--gradients")
    assert not differences(expected, found, masks)
    gradients = [{n for n in tensors if n.startswith("grad.")} for tensors in (expected, found)]
    assert gradients[0] == gradients[1]


@pytest.mark.parametrize("name", [n for n in DRAFTS if n.startswith("generate_eagle")])
def test_acceptance_is_the_references(outrider, forward, converted, name, jsonl):
    expected, _ = expectation(name)
    assert any(value > 1.5 for key, value in expected.items() if key.startswith("ar.validate."))
    prompts = load_file(REFERENCE / name / "inputs.safetensors")["ar.input_ids"].tolist()
    file = jsonl(*({"input_ids": ids, "category": "ab"[i % 2]} for i, ids in enumerate(prompts)), name="prompts.jsonl")
    for steps in (1, 3):
        result = outrider("eval", converted(name), "--prompts", file, "--reference-acceptance", steps,
                          "--max-new-tokens", 16, "--json").json()["models"][0]
        for kind in ("validate", "validate_online"):
            rates = [float(expected[f"ar.{kind}.steps_{steps}.{i}"]) for i in range(len(prompts))]
            assert result[kind] == pytest.approx(np.mean(rates), abs=1e-6)
            assert result["categories"]["a"][kind] == pytest.approx(np.mean(rates[::2]), abs=1e-6)


@pytest.mark.parametrize("ids, said", [
    ([[1, 2], [3, 64]], "generate.input_ids has ids outside the vocabulary of 64 tokens"),
    ([[1], [2]], "generate.input_ids: expected rows [B,S] of at least two tokens")])
def test_wrong_prompts_are_refused(outrider, converted, tmp_path, ids, said):
    inputs = load_file(REFERENCE / "generate_eagle3/inputs.safetensors")
    save_file(inputs | {"generate.input_ids": np.array(ids)}, tmp_path / "batch.safetensors")
    failed = outrider("forward", converted("generate_eagle3"), "--batch", tmp_path / "batch.safetensors", "--out",
                      tmp_path / "out.safetensors", status=4)
    assert said in failed.stderr and not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_equals_the_references(outrider, converted, name, tmp_path):
    expected = REFERENCE / name / "export"
    outrider("export", converted(name), "--format", "hf", "--out", tmp_path / "export")
    config, reference = (json.loads((folder / "config.json").read_text())
                         for folder in (tmp_path / "export", expected))
    assert reference.pop("torch_dtype") == "bfloat16"  # whatever the tensors are
    assert config.pop("torch_dtype") == "float32"
    assert config == reference
    if not (expected / "model.safetensors").exists():
        return
    found, wanted = (load_file(folder / "model.safetensors")
                     for folder in (tmp_path / "export", expected))
    assert sorted(found) == sorted(wanted)
    for tensor, value in wanted.items():
        assert found[tensor].dtype == value.dtype
        assert np.array_equal(found[tensor], value), tensor


@pytest.fixture
def expected():
    return expectation("eagle3_d2t")


class TestTheComparison:
    """It must reject what is wrong, tensor by tensor of a real case."""

    def test_accepts_itself_and_more(self, expected):
        tensors, masks = expected
        assert not differences(tensors, {**tensors, "extra": np.zeros(3)}, masks)

    def test_rejects_each_missing_or_misshapen_tensor(self, expected):
        tensors, masks = expected
        for name, value in tensors.items():
            others = {n: v for n, v in tensors.items() if n != name}
            assert differences(tensors, others, masks) == [f"{name}: missing"]
            [line] = differences(tensors, {**others, name: value[None]}, masks)
            assert line.startswith(f"{name}: shape ")

    @pytest.mark.parametrize("change", [
        lambda v, largest: v + max(1e-3 * largest, 2e-4), lambda v, largest: np.nan],
        ids=["perturbed", "no number"])
    def test_rejects_each_wrong_value(self, expected, change):
        tensors, masks = expected
        for name, value in tensors.items():
            wrong = value.copy()
            rows = np.argwhere(masks[name]) if name in masks else np.zeros((1, wrong.ndim), int)
            at = tuple(rows[-1]) + (0,) * (wrong.ndim - rows.shape[1])
            wrong[at] = change(wrong[at], np.abs(value).max())
            [line] = differences(tensors, {**tensors, name: wrong}, masks)
            assert line.startswith(f"{name}: 1 of ")

    def test_ignores_what_the_mask_hides(self, expected):
        tensors, masks = expected
        hidden = np.argwhere(masks["logits.step_1"] == 0)
        wrong = tensors["logits.step_1"].copy()
        wrong[tuple(hidden[0])] += 1
        assert not differences(tensors, {**tensors, "logits.step_1": wrong}, masks)
        assert differences(tensors, {**tensors, "logits.step_1": wrong})

    def test_rejects_integers_for_numbers(self, expected):
        tensors, masks = expected
        [line] = differences(tensors, {**tensors, "loss": np.array(7)}, masks)
        assert line == "loss: dtype int64, expected float32"
