"""EAGLE's training loss written down once more, in plain torch and float64, over whole sequences.

It knows Outrider's rules and, as values of Rules, those of ModelOpt's releases that differ. One
decoder layer without biases, the base's whole vocabulary. Embeddings and a head that the draft has itself
are used."""

from dataclasses import dataclass, field

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class Rules:
    """The defaults are Outrider's."""

    norms_twice: bool = False
    wraps: bool = False  # the end of a shifted sequence continues at its beginning
    gate: int = 2  # loss_mask[q + gate] gates the prediction made at q
    mask: str = "attention and labels"  # where no loss_mask is given; "attention", "ones"
    masks_padding: bool = True  # keys in steps after the first
    merges: str = "fc of norms"  # what EAGLE-MTP reads; "fc", "hidden"
    rope: dict = field(default_factory=lambda: DEFAULT_ROPE)
    steps: int = 0  # 0: the config's


RELEASES = {
    "0.47": Rules(norms_twice=True, wraps=True, gate=1, mask="attention", masks_padding=False,
                  merges="hidden"),
    "0.42": Rules(norms_twice=True, gate=1, mask="ones", masks_padding=False, merges="fc",
                  rope=LLAMA3_ROPE, steps=4)}


@dataclass
class Base:
    embeddings: torch.Tensor
    layers: list  # outputs; the last one's is not there, but normed
    last: torch.Tensor
    logits: torch.Tensor
    head: torch.Tensor


@torch.no_grad()
def run_base(folder, inputs):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    names = ("input_ids", "attention_mask")
    done = model(**{n: inputs[n] for n in names if n in inputs}, output_hidden_states=True)
    return Base(done.hidden_states[0], done.hidden_states[1:-1], done.hidden_states[-1], done.logits,
                model.lm_head.weight)


def shift_left(x, rules):
    return torch.cat((x[:, 1:], x[:, :1] if rules.wraps else torch.zeros_like(x[:, :1])), 1)


def shift_right(x, rules):
    return torch.cat((x[:, -1:] if rules.wraps else torch.zeros_like(x[:, -1:]), x[:, :-1]), 1)


def token_mask(inputs, rules):
    ones = torch.ones(inputs["input_ids"].shape, dtype=torch.bool)
    attention = inputs.get("attention_mask", ones) != 0
    if "loss_mask" in inputs:
        given = inputs["loss_mask"] != 0
        return given if rules.gate == 1 else given & attention
    if rules.mask == "ones":
        return ones
    if rules.mask == "attention" or "labels" not in inputs:
        return attention
    labelled = torch.cat((~ones[:, :1], inputs["labels"][:, :-1] != -100), 1)
    return attention & labelled


class Draft:
    def __init__(self, weights, architecture, rules):
        self.weights = {name.removeprefix("eagle_module."): t for name, t in weights.items()}
        self.a, self.rules = architecture, rules
        sizes = {n: architecture[n] for n in ("num_attention_heads", "num_key_value_heads",
                                              "head_dim", "hidden_size")}
        self.rotary = LlamaRotaryEmbedding(LlamaConfig(
            **sizes, max_position_embeddings=128, rope_parameters=dict(rules.rope)))

    def linear(self, name, x):
        return x @ self.weights[name + ".weight"].T

    def norm(self, name, x):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.a["rms_norm_eps"])
        return x * scale * self.weights[name + ".weight"]

    def start(self, base):
        if not self.a["use_aux_hidden_state"]:
            return base.last
        layers = [base.layers[i] for i in sorted(self.a["eagle_aux_hidden_state_layer_ids"])]
        return self.linear("fc", torch.cat(layers, -1))

    def merge(self, e, g):
        if self.a["use_aux_hidden_state"] or self.rules.merges == "hidden":
            return g
        if self.a["use_mtp_layernorm"] and self.rules.merges == "fc of norms":
            e, g = self.norm("enorm", e), self.norm("hnorm", g)
        return self.linear("fc", torch.cat((e, g), -1))

    def attention_input(self, e, x):
        normed = self.norm("layers.0.input_layernorm", x)
        if not self.a["use_aux_hidden_state"]:
            return normed
        hidden = self.norm("layers.0.hidden_norm", normed if self.rules.norms_twice else x)
        return torch.cat((self.norm("layers.0.input_layernorm", e), hidden), -1)

    def heads(self, name, x, count):
        x = self.linear(f"layers.0.self_attn.{name}_proj", x)
        return x.unflatten(-1, (count, self.a["head_dim"])).transpose(1, 2)

    def rotated(self, x):
        positions = torch.arange(x.shape[2]).unsqueeze(0)
        cos, sin = (t.unsqueeze(1) for t in self.rotary(x, positions))
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin

    def layer(self, e, g, cache, allowed):
        x = self.merge(e, g)
        read = self.attention_input(e, x)
        count, keys = self.a["num_attention_heads"], self.a["num_key_value_heads"]
        cache.append([t.repeat_interleave(count // keys, 1) for t in (
            self.rotated(self.heads("k", read, keys)), self.heads("v", read, keys))])
        k, v = (torch.cat(parts, 2) for parts in zip(*cache, strict=True))
        if self.a.get("norm_before_residual"):
            x = read[..., -x.shape[-1]:]
        scores = self.rotated(self.heads("q", read, count)) @ k.mT / self.a["head_dim"] ** 0.5
        scores = scores.masked_fill(~allowed.unsqueeze(1), -1e30)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + self.linear("layers.0.self_attn.o_proj", attended)
        y = self.norm("layers.0.post_attention_layernorm", x)
        gate = torch.nn.functional.silu(self.linear("layers.0.mlp.gate_proj", y))
        return x + self.linear("layers.0.mlp.down_proj", gate * self.linear("layers.0.mlp.up_proj", y))


def allowed_keys(keys_seen, step, rules):
    """[B,S,S·(step+1)]: the past up to q-step, then of each later step the row before it."""
    size = keys_seen.shape[1]
    q, j = torch.arange(size).unsqueeze(1), torch.arange(size).unsqueeze(0)
    blocks = torch.cat([j <= q - step] + [j == q - (step - i) for i in range(1, step + 1)], 1)
    if step > 0 and not rules.masks_padding:
        return blocks.expand(len(keys_seen), -1, -1)
    return blocks & keys_seen.repeat(1, step + 1).unsqueeze(1)


def step_loss(base, logits, mask, step, rules):
    size = mask.shape[1]
    gates = torch.cat((mask[:, rules.gate:], torch.zeros_like(mask[:, :rules.gate])), 1)
    weights = gates[:, step:size - 1].double()
    targets = base.logits[:, step + 1:].softmax(-1)
    losses = -(targets * logits[:, step:size - 1].log_softmax(-1)).sum(-1)
    return (losses * weights).sum() / (weights.sum() + 1e-5)


def mixed(g, output, uniforms, step):
    size = g.shape[1]
    chosen = uniforms.argsort(1)[:, :max(1, size // (2**step + 1))]
    replaced = torch.zeros(g.shape[:2], dtype=torch.bool).scatter(1, chosen, True)
    return torch.where(replaced.unsqueeze(-1), output, g)


def run(folder, weights, inputs, config, rules):
    """"loss", "loss.parallel_0_step_k" and "grad.NAME" as numpy arrays, named as Outrider does.

    weights: of the draft, under their full names. config: the mode's, with a complete architecture."""
    base = run_base(folder, inputs)
    weights = {n: t.double().requires_grad_() for n, t in weights.items()}
    architecture = config["eagle_architecture_config"] | {"hidden_size": base.last.shape[-1]}
    draft = Draft(weights, architecture, rules)
    own = draft.weights.get("embed_tokens.weight")
    embeddings = base.embeddings if own is None else own[inputs["input_ids"]]
    head = draft.weights.get("lm_head.weight", base.head)
    e, g, cache = shift_left(embeddings, rules), draft.start(base), []
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])) != 0
    seen, results, total = shift_left(mask, rules), {}, 0
    mixes = config.get("eagle_mix_hidden_states", False)
    for step in range(rules.steps or config["eagle_ttt_steps"]):
        output = draft.layer(e, g, [] if mixes else cache,
                             allowed_keys(seen, 0 if mixes else step, rules))
        logits = draft.norm("norm", output) @ head.T
        loss = step_loss(base, logits, token_mask(inputs, rules), step, rules)
        results[f"loss.parallel_0_step_{step}"] = loss
        total = total + config["eagle_loss_decay_factor"] ** step * loss
        output = shift_right(output, rules)
        g = mixed(g, output, inputs[f"mix.rand.step_{step}"], step) if mixes else output
    total.backward()
    results |= {"loss": total} | {f"grad.{n}": t.grad for n, t in weights.items() if t.grad is not None}
    return {name: t.detach().float().numpy() for name, t in results.items()}


def draft_weights(file):
    return {n: t for n, t in load_file(file).items() if n.startswith("eagle_module.")}
