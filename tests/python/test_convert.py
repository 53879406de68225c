"""What convert() makes of a model: the right tensors reach the plugin, and gradients come back."""

import copy
import shutil

import pytest
import torch
from conftest import TEST_PLUGINS
from safetensors.torch import load_file, save_file
from small_models import EAGLE, FAMILIES, batch, gemma2, gpt2, llama, made

import outrider.speculative as mtsp
from outrider import OutriderError
from outrider.speculative.base_parts import base_parts
from outrider.speculative.base_pass import Request, run_base

BOTH = [("eagle", EAGLE), ("medusa", {})]


def drafts_of(model):
    return [getattr(model, name)._attached for name in ("eagle_module", "medusa_heads")]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_caught_is_what_transformers_returns(family):
    model, inputs = made(FAMILIES[family]), batch()
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True)
    mtsp.convert(model, BOTH)
    base_forward = type(model)._outrider_base_class.forward.__get__(model)
    caught = run_base(base_forward, base_parts(model), Request(drafts_of(model)), False,
                      {**inputs, "use_cache": False})
    seen = inputs["attention_mask"].bool()
    assert list(caught.layer_outputs) == [1, 3, 4]
    for layer, hidden in caught.layer_outputs.items():
        assert torch.equal(hidden[seen], expected.hidden_states[layer + 1][seen])
    assert torch.equal(caught.input_embeddings[seen], expected.hidden_states[0][seen])
    logits = torch.nn.functional.linear(caught.last_hidden, caught.head_weight)
    torch.testing.assert_close(logits[seen], expected.logits[seen])
    assert not caught.last_hidden.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_its_drafts_alone(family):
    model = mtsp.convert(made(FAMILIES[family]), BOTH).train()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    output = model(**batch())
    output.loss.backward()
    optimizer.step()
    changed = {name.partition(".")[0] for name, tensor in model.named_parameters()
               if not torch.equal(tensor, before[name])}
    assert changed == {"eagle_module", "medusa_heads"}
    torch.testing.assert_close(output.loss, sum(output.draft_losses.values()))


@pytest.mark.parametrize("mode", [[("eagle", EAGLE)], "medusa", BOTH])
def test_losses_and_gradients_are_the_programs(mode, outrider, tmp_path):
    model, inputs = made(llama), batch()
    model.save_pretrained(tmp_path / "base")
    mtsp.convert(model, mode).train()
    model.save_pretrained(tmp_path / "converted")
    output = model(**inputs)
    output.loss.backward()
    save_file(inputs, tmp_path / "batch.safetensors")
    outrider("forward", tmp_path / "converted", "--batch", tmp_path / "batch.safetensors", "--out",
             tmp_path / "out.safetensors", "--train", "--gradients")
    expected = load_file(tmp_path / "out.safetensors")
    torch.testing.assert_close(output.loss, expected["loss"].reshape(()), rtol=1e-6, atol=1e-6)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[f"grad.{name}"], rtol=1e-4, atol=1e-6)


def test_a_gradient_is_the_slope_of_the_loss():
    model = mtsp.convert(made(llama).double(), [("eagle", EAGLE)]).train()
    inputs, weight = batch(), model.eagle_module.fc.weight
    model(**inputs).loss.backward()
    direction = torch.randn_like(weight, generator=None) / weight.numel() ** 0.5

    def loss_at(step):
        with torch.no_grad():
            weight.add_(direction, alpha=step)
            value = model(**inputs).loss.item()
            weight.sub_(direction, alpha=step)
        return value

    slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    assert slope == pytest.approx((weight.grad * direction).sum().item(), rel=1e-3)


def test_a_base_that_trains_gets_its_gradients():
    model = mtsp.convert(made(llama), [("medusa", {"medusa_freeze_base_model": False})]).train()
    inputs = batch()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    output = model(**inputs, labels=labels)
    expected = made(llama)(**inputs, labels=labels).loss
    torch.testing.assert_close(output.lm_loss, expected)
    output.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(output.loss, output.lm_loss + output.draft_losses["medusa_heads"])


def test_all_mode_forms_and_the_same_object():
    for mode in ("medusa", ["medusa"], [("medusa", {"medusa_num_heads": 2})],
                 {"algorithm": "medusa", "config": {}}, [("medusa", mtsp.MedusaConfig())]):
        model = made(llama)
        assert mtsp.convert(model, mode) is model
        assert len(list(model.medusa_heads.children())) == 2
    model = made(llama)
    assert mtsp.convert(model, "") is model and not hasattr(model, "medusa_heads")


@pytest.mark.parametrize(("mode", "code"), [
    ("medusas", "UnknownMode"), ([("medusa", {"heads": 1})], "InvalidConfig"),
    (7, "InvalidArgument"), ([("eagle", {**EAGLE, "eagle_offline": True})], "Unsupported")])
def test_a_refused_conversion_changes_nothing(mode, code):
    model = made(llama)
    with pytest.raises(OutriderError) as caught:
        mtsp.convert(model, mode)
    assert caught.value.code == code
    assert type(model).forward is type(made(llama)).forward
    assert all(p.requires_grad for p in model.parameters())


def test_what_cannot_be_trained_on_is_named():
    with pytest.raises(OutriderError, match="final_logit_softcapping"):
        mtsp.convert(made(gemma2), "medusa")
    with pytest.raises(OutriderError, match="Linear has no token embedding"):
        mtsp.convert(torch.nn.Linear(2, 2), "medusa")
    model = mtsp.convert(made(llama), "medusa").train()
    with pytest.raises(OutriderError, match="already"):
        mtsp.convert(model, "medusa")
    with pytest.raises(OutriderError, match="neither the tokens"):
        model(**batch(), labels=batch(seed=5)["input_ids"])
    positions = torch.arange(24).repeat(2, 1)
    with pytest.raises(OutriderError, match="more than one conversation"):
        model(batch()["input_ids"], position_ids=positions % 12)
    assert torch.equal(model(**batch(), position_ids=positions).loss, model(**batch()).loss)
    with pytest.raises(OutriderError, match="input_ids are missing"):
        model(inputs_embeds=torch.zeros(1, 4, 32))


def test_labels_choose_tokens_in_both_conventions():
    model = mtsp.convert(made(llama), "medusa").train()
    inputs = batch()
    ids = inputs["input_ids"]
    chosen = torch.zeros_like(ids)
    chosen[:, 8:16] = 1
    expected = model(**inputs, loss_mask=chosen).loss
    own = torch.where(chosen == 1, ids, -100)
    following = torch.roll(own, -1, 1)
    following[:, -1] = -100
    assert torch.equal(model(**inputs, labels=own).loss, expected)
    assert torch.equal(model(**inputs, labels=following).loss, expected)
    assert not torch.equal(model(**inputs).loss, expected)


def test_generation_is_the_bases():
    model, prompt = made(llama), batch()["input_ids"][:, :6]
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    expected = model.generate(prompt, **options)
    mtsp.convert(model, BOTH)
    assert torch.equal(model.eval().generate(prompt, **options), expected)


UNSEEN = """
from small_models import batch, gpt_oss, made
import outrider.speculative as mtsp
assert "tiny" in mtsp.modes()
model = mtsp.convert(made(gpt_oss), "tiny").train()
model(**batch()).loss.backward()
assert [n for n, p in model.named_parameters() if p.grad is not None] == ["tiny_module.weight"]
"""


def test_a_plugin_that_nobody_here_has_seen(python, outrider, tmp_path):
    shutil.copy(TEST_PLUGINS / "tiny.outrider.so", tmp_path)
    outrider("plugin", "lock", tmp_path)
    python("-c", UNSEEN, OUTRIDER_PLUGIN_PATH=str(tmp_path))


class TestAsAnyModule:
    """A converted model goes through what modules go through."""

    @pytest.fixture
    def model(self):
        return mtsp.convert(made(llama), BOTH).train()

    def test_copies_are_apart(self, model, tmp_path):
        expected = model(**batch()).loss
        torch.save(model, tmp_path / "model.pt")
        drawn = torch.get_rng_state()
        copies = (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False))
        assert torch.equal(torch.get_rng_state(), drawn)
        for other in copies:
            assert torch.equal(other(**batch()).loss, expected)
            other.eagle_module.fc.weight.data.zero_()
            assert not torch.equal(other(**batch()).loss, expected)
        assert torch.equal(model(**batch()).loss, expected)

    def test_state_dict_round_trip(self, model):
        other = mtsp.convert(made(llama, seed=3), BOTH, seed=4).train()
        assert not torch.equal(other(**batch()).loss, model(**batch()).loss)
        other.load_state_dict(model.state_dict(), assign=True)
        assert torch.equal(other(**batch()).loss, model(**batch()).loss)

    def test_types(self, model):
        expected = model(**batch()).loss
        assert model.bfloat16()(**batch()).loss.item() == pytest.approx(expected.item(), rel=0.02)
        model.double()(**batch()).loss.backward()
        assert model.eagle_module.fc.weight.grad.dtype == torch.float64

    def test_autocast(self, model):
        expected = model(**batch()).loss
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch()).loss
        loss.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=0.02)
        assert model.eagle_module.fc.weight.grad.dtype == torch.float32

    def test_two_passes_one_backward(self, model):
        weight = model.eagle_module.fc.weight
        singly = []
        for seed in (1, 2):
            model(**batch(seed=seed)).loss.backward()
            singly.append(weight.grad.clone())
            weight.grad = None
        (model(**batch(seed=1)).loss + model(**batch(seed=2)).loss).backward()
        torch.testing.assert_close(weight.grad, sum(singly))

    def test_frozen_base_is_in_evaluation(self):
        model = mtsp.convert(made(gpt2), "medusa").train()  # has dropout
        assert model.medusa_heads.training and not model.transformer.training
        assert torch.equal(model(**batch()).loss, model(**batch()).loss)

    def test_evaluation_needs_no_graph(self, model):
        with torch.no_grad():
            assert not model(**batch()).loss.requires_grad
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        assert not model(**batch()).loss.requires_grad

    def test_hooks_and_nothing_left_behind(self, model):
        calls = []
        model.eagle_module.register_forward_hook(lambda *_: calls.append(1))
        before = [len(module._forward_hooks) for module in model.modules()]
        model(**batch())
        assert calls == [1]
        assert [len(module._forward_hooks) for module in model.modules()] == before

    def test_meta(self):
        with torch.device("meta"):
            model = llama()
        mtsp.convert(model, BOTH)
        assert {p.device.type for p in model.parameters()} == {"meta"}
        model.to_empty(device="cpu")
        model.load_state_dict(mtsp.convert(made(llama), BOTH).state_dict())
        other = mtsp.convert(made(llama), BOTH).train()
        # The rotary embedding's buffers are no part of a state: they are taken over.
        model.model.rotary_emb = other.model.rotary_emb
        assert torch.equal(model.train()(**batch()).loss, other(**batch()).loss)
