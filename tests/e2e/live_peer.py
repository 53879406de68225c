"""Run by an environment of ModelOpt's: builds the bases of cases, converts and trains them.

Reads {"out": FOLDER, "cases": [case, …]} on stdin, cases as live_cases.Case has them. Writes, for
each, FOLDER/NAME/ with base/, converted.safetensors, inputs.safetensors and expected.safetensors,
named as `outrider forward` names them; prints one JSON object, name → what went wrong, or null."""

import contextlib
import copy
import json
import math
import sys
import traceback
from pathlib import Path
from unittest import mock

import modelopt.torch.speculative as mtsp
import torch
import transformers
from safetensors.torch import save_file

# The least distance of the two largest logits at which an accuracy is comparable: float32's
# rounding decides below.
CLEAR = 1e-4
DRAFT = ("eagle_module.", "medusa_heads.")
IS_OLD = hasattr(mtsp.config, "EAGLE1_DEFAULT_CFG")
if IS_OLD:
    import modelopt.torch.speculative.plugins.transformers as plugin

    plugin.enable_cp_ttt_patch = contextlib.nullcontext  # wants cuDNN's attention
else:
    import modelopt.torch.speculative.plugins.hf_eagle as plugin


def random_like(parameter, name, generator):
    noise = torch.randn(parameter.shape, generator=generator)
    if parameter.ndim == 1:
        return 0.3 * noise + ("norm" in name and not name.endswith("bias"))
    return noise if "embed_tokens" in name else noise / math.sqrt(parameter.shape[-1])


@torch.no_grad()
def randomize(model, chosen, generator):
    for name, parameter in model.named_parameters():
        if chosen(name):
            parameter.copy_(random_like(parameter, name, generator))


def make_base(case, generator):
    rope = dict(case["rope"])
    if transformers.__version__ >= "5":
        positions = {"rope_parameters": rope}
    else:
        theta = rope.pop("rope_theta")
        positions = {"rope_theta": theta,
                     "rope_scaling": rope if rope["rope_type"] != "default" else None}
    # No padding token: transformers would keep the gradient from its embedding.
    config = getattr(transformers, case["family"] + "Config")(
        **case["base"], **positions, bos_token_id=1, eos_token_id=2, pad_token_id=None)
    base = getattr(transformers, case["family"] + "ForCausalLM")(config).float()
    randomize(base, lambda _: True, generator)
    return base


def save_base(base, folder):
    base.save_pretrained(folder)
    base.config.dtype = torch.float32  # which saving has made a string


def config_of(case):
    """What convert is given. 0.42 merges no defaults: its callers pass all of a preset."""
    config = copy.deepcopy(case["config"])
    if case["mode"] == "medusa":
        return config
    if not IS_OLD:
        return config | {"eagle_use_torch_compile": False}
    for name in ("eagle_ttt_steps", "eagle_mix_hidden_states"):
        config.pop(name, None)  # which it does not know
    given = config["eagle_architecture_config"]
    presets = mtsp.config
    preset = presets.EAGLE1_DEFAULT_CFG["config"]["eagle_architecture_config"]
    if given["use_aux_hidden_state"]:
        preset = presets.eagle3_default_config
    config["eagle_architecture_config"] = copy.deepcopy(preset) | given
    return config


def attention_mask(batch, generator):
    shape = batch["rows"], batch["length"]
    mask = torch.ones(shape, dtype=torch.int64)
    for row in mask:
        size = int(torch.randint(1, batch["length"] // 3 + 1, (), generator=generator))
        if batch["mask"] == "right":
            row[batch["length"] - size:] = 0
        elif batch["mask"] == "hole":
            row[2:2 + size] = 0
    return mask


def make_inputs(case, generator):
    batch, vocabulary = case["batch"], case["base"]["vocab_size"]
    shape = batch["rows"], batch["length"]
    mask = attention_mask(batch, generator)
    ids = torch.where(mask != 0, torch.randint(3, vocabulary, shape, generator=generator), 0)
    inputs = {"input_ids": ids}
    if batch["mask"] != "none":
        inputs["attention_mask"] = mask
    if batch["loss_mask"]:
        kept = torch.rand(shape, generator=generator) < 0.7
        inputs["loss_mask"] = mask * kept
    if batch["labels"]:
        labels = torch.full(shape, -100)
        dropped = (mask[:, 1:] == 0) | (torch.rand(shape, generator=generator)[:, 1:] < 0.2)
        labels[:, :-1] = torch.where(dropped, -100, ids[:, 1:])
        inputs["labels"] = labels
    if batch["positions"]:
        starts = torch.randint(0, 40, (batch["rows"], 1), generator=generator)
        inputs["position_ids"] = starts + torch.arange(batch["length"])
    return inputs


@torch.no_grad()
def offline_outputs(base, inputs, case, layers):
    """What the base computes, as the reference wants it from disk."""
    before_norm = []
    hook = base.model.norm.register_forward_pre_hook(
        lambda module, arguments: before_norm.append(arguments[0]))
    after = [[] for _ in layers]
    hooks = [base.model.layers[layer].register_forward_hook(
        lambda module, arguments, output, to=to: to.append(
            output if isinstance(output, torch.Tensor) else output[0]))
        for layer, to in zip(layers, after, strict=True)]
    names = ("input_ids", "attention_mask", "position_ids")
    done = base(**{n: inputs[n] for n in names if n in inputs}, output_hidden_states=True)
    for registered in (hook, *hooks):
        registered.remove()
    outputs = {"aux_hidden_states": torch.cat([layer[0] for layer in after], -1)}
    prenorm = case["offline"]["prenorm"]
    outputs["base_model_hidden_states"] = before_norm[0] if prenorm else done.hidden_states[-1]
    if case["offline"]["logits"]:
        outputs["base_model_logits"] = done.logits
    if case["offline"]["embeds"]:
        outputs["base_model_input_embeds"] = done.hidden_states[0]
    return outputs | ({"base_hidden_prenorm": torch.ones(())} if prenorm else {})


def aux_layers(case):
    count = case["base"]["num_hidden_layers"]
    given = case["config"]["eagle_architecture_config"]["eagle_aux_hidden_state_layer_ids"]
    return sorted(given or {1, max(0, count // 2 - 1), max(0, count - 4)})


def clear(logits):
    """[B,S] bool: the largest logit is so by more than rounding."""
    first, second = logits.detach().topk(2, dim=-1).values.unbind(-1)
    return first - second > CLEAR


class Recorder:
    """Keeps what passes through the reference's loss and its random draws."""

    def __init__(self):
        self.steps, self.draws = [], []

    @contextlib.contextmanager
    def __call__(self):
        loss, rand = plugin.HFEagleModel._eagle_loss, torch.rand

        def kept_loss(model, *arguments):
            value, accuracy = loss(model, *arguments)
            self.steps.append((value.detach().clone(), float(accuracy), arguments))
            return value, accuracy

        def kept_rand(*arguments, **options):
            self.draws.append(rand(*arguments, **options))
            return self.draws[-1]

        with (mock.patch.object(plugin.HFEagleModel, "_eagle_loss", kept_loss),
              mock.patch.object(torch, "rand", kept_rand)):
            yield


def step_is_clear(arguments):
    students, mask = arguments[-2:]
    trained = mask[:, :students.shape[1]].bool()
    # 0.47 hands over the teacher's softmax, 0.42 its logits, of the whole vocabulary.
    teacher = arguments[0].log() if not IS_OLD else arguments[0]
    return bool((clear(students) & clear(teacher))[trained].all())


def eagle_expectation(case, model, inputs, call):
    recorder = Recorder()
    with recorder():
        loss = model(**call).loss
    loss.backward()
    expected = {"loss": loss.detach()}
    heads = case["config"]["eagle_architecture_config"].get("parallel_draft_step", 1)
    for number, (value, accuracy, arguments) in enumerate(recorder.steps):
        step, head = divmod(number, heads if IS_OLD else 1)
        if step > case["batch"]["length"] - 2:
            break  # a step without a position
        name = f"parallel_{head}_step_{step}"
        expected[f"loss.{name}"] = value
        if step_is_clear(arguments):
            expected[f"train_acc.{name}"] = torch.tensor(accuracy)
    for step, draw in enumerate(recorder.draws):
        inputs[f"mix.rand.step_{step}"] = draw
    return expected


@torch.no_grad()
def generated(model, inputs):
    """Greedy, so that a tie would make two answers right: the seed of the draw must have none."""
    inputs["generate.input_ids"] = inputs["input_ids"][:, :inputs["input_ids"].shape[1] // 2 + 1]
    model.eval()
    base, drafts = model.pseudo_speculative_generate(inputs["generate.input_ids"], steps=6)
    return {"generate.base_token": base, "generate.draft_tokens": drafts}


def medusa_expectation(case, model, inputs, call):
    output = model(**call)
    output.loss.backward()
    expected = {"loss": output.loss.detach()}
    length = case["batch"]["length"]
    for head, logits in enumerate(output.medusa_logits):
        rows, labels = logits[:, :length - 1 - head], inputs["labels"][:, 1 + head:]
        expected[f"loss.head_{head}"] = torch.nn.functional.cross_entropy(
            rows.flatten(0, 1), labels.flatten()).detach()
    return expected


def set_draft(model, case, generator):
    randomize(model, lambda name: name.startswith(DRAFT), generator)
    if case["d2t"]:
        d2t = model.eagle_module.d2t
        chosen = torch.randperm(case["base"]["vocab_size"], generator=generator)[:len(d2t)]
        if case["d2t"] == "sorted":
            chosen = chosen.sort().values
        d2t.copy_(chosen - torch.arange(len(d2t)))


def save(tensors, path):
    save_file({name: t.detach().clone().contiguous() for name, t in tensors.items()}, path)


def run(case, out):
    generator = torch.Generator().manual_seed(case["seed"])
    torch.manual_seed(case["seed"])
    base = make_base(case, generator)
    save_base(base, out / "base")
    inputs = make_inputs(case, generator)
    call = dict(inputs) | case["call"]
    if case["offline"]:
        outputs = offline_outputs(base, inputs, case, aux_layers(case))
        inputs |= {f"base_model_outputs.{name}": t for name, t in outputs.items()}
        call["base_model_outputs"] = outputs
    model = mtsp.convert(base, [(case["mode"], config_of(case))])
    set_draft(model, case, generator)
    save({n: t for n, t in model.state_dict().items() if n.startswith(DRAFT)},
         out / "converted.safetensors")
    model.train()
    expect = medusa_expectation if case["mode"] == "medusa" else eagle_expectation
    expected = expect(case, model, inputs, call)
    expected |= {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    # Parallel heads guess further tokens behind the last step, which no engine verifies.
    heads = case["config"].get("eagle_architecture_config", {}).get("parallel_draft_step", 1)
    if case["mode"] == "eagle" and not case["offline"] and heads == 1:
        expected |= generated(model, inputs)
    save(inputs, out / "inputs.safetensors")
    save(expected, out / "expected.safetensors")


def main():
    torch.set_num_threads(1)
    job = json.load(sys.stdin)
    errors = {}
    for case in job["cases"]:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                run(case, Path(job["out"]) / case["name"])
                errors[case["name"]] = None
            except Exception:
                errors[case["name"]] = traceback.format_exc()
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
