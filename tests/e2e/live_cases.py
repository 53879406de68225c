"""Draws what the live comparison with the reference runs: bases, drafts and batches, from a seed."""

import random
from dataclasses import asdict, dataclass, field

FAMILIES = ["Llama", "Mistral", "Qwen2", "Qwen3", "Phi3"]
OWN_HEAD_DIM = {"Llama", "Mistral", "Qwen3"}  # head_dim is not hidden_size / heads
MAX_POSITIONS = 128
# What is fixed of each case, so that no seed leaves it out; a release computes each of its kinds.
KINDS = {
    "0.47": ["eagle3"] * 8 + ["mix"] * 2 + ["offline"] * 3 + ["unfrozen"] * 3 + ["hidden"] * 2 +
            ["hidden unfrozen"] + ["medusa"] * 2 + ["medusa unfrozen"],
    "0.42": ["eagle3"] * 2 + ["offline"] + ["eagle1"] * 3 + ["mtp"] + ["parallel"] * 3 +
            ["parallel eagle1", "medusa", "unfrozen", "parallel unfrozen", "eagle1 unfrozen"],
}


@dataclass
class Case:
    """Plain data: its JSON goes to the reference, and into the message when the comparison fails."""

    name: str
    seed: int  # of the weights and the tokens
    numerics: str
    mode: str
    family: str
    base: dict  # fields of the base's config
    rope: dict
    config: dict  # of the mode, in the reference's names
    call: dict = field(default_factory=dict)  # further arguments of the reference's forward
    d2t: str = ""  # "sorted" or "shuffled" draft vocabulary
    offline: dict = field(default_factory=dict)
    batch: dict = field(default_factory=dict)

    def extensions(self):
        """The call's arguments as Outrider's fields."""
        names = {"freeze_base_model": "medusa_freeze_base_model"}
        return {names.get(name, name): value for name, value in self.call.items()}

    def as_dict(self):
        return asdict(self)


def _rope(draw, family):
    # Of the other types Phi3's config class accepts longrope alone.
    kinds = ["default"] + ["linear", "dynamic", "llama3", "yarn"] * (family != "Phi3")
    kind = draw.choice(kinds)
    factor = draw.choice([2.0, 4.0, 8.0])
    rope = {"rope_type": kind, "rope_theta": draw.choice([1e3, 1e4, 5e5])}
    if kind != "default":
        rope["factor"] = factor
    if kind in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = 16
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return rope


def _heads(draw, choices):
    heads = draw.choice(choices)
    return heads, draw.choice([n for n in range(1, heads + 1) if heads % n == 0])


def _base(draw, family):
    heads, keys = _heads(draw, [1, 2, 3, 4, 6])
    per_head = draw.choice([4, 6, 8, 10, 12])
    config = {
        "vocab_size": draw.randint(24, 120), "hidden_size": heads * per_head,
        "intermediate_size": draw.randint(8, 48), "num_hidden_layers": draw.randint(1, 6),
        "num_attention_heads": heads, "num_key_value_heads": keys,
        "rms_norm_eps": draw.choice([1e-6, 1e-5, 1e-3]),
        "tie_word_embeddings": draw.random() < 0.3, "max_position_embeddings": MAX_POSITIONS}
    if family in OWN_HEAD_DIM:
        config["head_dim"] = draw.choice([4, 8, 14, 16])
    if family in ("Llama", "Qwen3"):
        config["attention_bias"] = draw.random() < 0.3
    if family == "Llama":
        config["mlp_bias"] = draw.random() < 0.3
    if family == "Mistral":
        config["sliding_window"] = draw.choice([None, 4, 7])
    return config


def _aux_layers(draw, layers):
    if layers > 1 and draw.random() < 0.4:
        return []  # the default: 1, L/2-1 and L-4
    return draw.sample(range(layers), draw.randint(1, min(3, layers)))


def _draft(draw, family, base, kind):
    hidden = base["hidden_size"]
    # A Llama's config class refuses head counts that do not divide its hidden size.
    choices = [n for n in range(1, 7) if family != "Llama" or hidden % n == 0]
    heads, keys = _heads(draw, choices)
    draft = {
        "num_hidden_layers": draw.choice([1, 1, 1, 2]), "intermediate_size": draw.randint(8, 48),
        "num_attention_heads": heads, "num_key_value_heads": keys,
        "head_dim": draw.choice([4, 8, 14, 16]), "rms_norm_eps": draw.choice([1e-6, 1e-5, 1e-3]),
        "attention_bias": draw.random() < 0.2, "mlp_bias": draw.random() < 0.2,
        "use_aux_hidden_state": not any(word in kind for word in ("hidden", "eagle1", "mtp")),
        "use_mtp_layernorm": kind in ("hidden", "mtp"),
        "use_last_layernorm": "eagle1" not in kind and draw.random() < 0.8}
    if draft["use_aux_hidden_state"]:
        draft["eagle_aux_hidden_state_layer_ids"] = _aux_layers(draw, base["num_hidden_layers"])
    if "parallel" in kind:
        draft["parallel_draft_step"] = draw.choice([2, 3, 4])
        draft["parallel_draft_heads_num_layers"] = draw.choice([1, 2])
    return draft


def _draft_vocabulary(draw, base, draft):
    choice = draw.choice(["", "", "sorted", "shuffled", "own head"])
    if choice == "own head":
        draft["has_lm_head"] = True
    elif choice:
        draft["draft_vocab_size"] = draw.randint(8, base["vocab_size"] - 1)
        return choice
    return ""


def _draft_rope(draw, case, draft):
    if draw.random() < 0.5:
        return  # the release's default
    # 0.47 makes the draft's config with the base's class.
    rope = _rope(draw, case.family if case.numerics == "0.47" else "")
    draft["rope_theta"] = rope.pop("rope_theta")
    draft["rope_scaling"] = rope
    if case.numerics == "0.47":
        case.config["eagle_export_rope_scaling"] = {}


def _eagle(draw, case, kind):
    draft = _draft(draw, case.family, case.base, kind)
    case.config = {"eagle_loss_decay_factor": draw.choice([1.0, 0.9, 0.6]),
                   "eagle_freeze_base_model": "unfrozen" not in kind,
                   "eagle_offline": kind == "offline", "eagle_architecture_config": draft}
    if case.numerics == "0.47":
        case.config |= {"eagle_ttt_steps": draw.randint(1, 5),
                        "eagle_mix_hidden_states": kind == "mix"}
    # Neither has an effect in the reference.
    case.config |= {"eagle_self_logit_distillation": draw.random() < 0.8,
                    "eagle_reuse_base_decoder": draw.random() < 0.2}
    case.d2t = _draft_vocabulary(draw, case.base, draft)
    _draft_rope(draw, case, draft)
    if kind == "offline":
        case.offline = {name: draw.random() < 0.5 for name in ("logits", "embeds")}
        case.offline["prenorm"] = (case.numerics == "0.47" and not case.offline["logits"] and
                                   draw.random() < 0.5)


def _medusa(draw, case, kind):
    case.config = {"medusa_num_heads": draw.randint(1, 4),
                   "medusa_num_layers": draw.randint(0, 3)}
    if draw.random() < 0.5:
        case.call = {"medusa_heads_coefficient": draw.choice([0.1, 0.5]),
                     "medusa_decay_coefficient": draw.choice([0.5, 1.0])}
    if "unfrozen" in kind:
        case.call["freeze_base_model"] = False


def _batch(draw, case):
    is_eagle = case.mode == "eagle"
    # ModelOpt has no loss of an unfrozen base without labels, which its trainer always gives.
    trains_base = not case.config.get("eagle_freeze_base_model", True)
    return {"rows": draw.randint(1, 3), "length": draw.randint(8, 18),
            "mask": draw.choice(["none", "full", "right", "right", "hole"]),
            "loss_mask": is_eagle and draw.random() < 0.5,
            "labels": not is_eagle or trains_base or draw.random() < 0.6,
            "positions": draw.random() < 0.2}


def draw_case(seed, numerics, number, kind):
    draw = random.Random(f"{seed} {numerics} {number}")
    family = FAMILIES[number % len(FAMILIES)]
    case = Case(name=f"{numerics}-{number}-{family}-{kind.replace(' ', '_')}",
                seed=draw.randrange(2**31), numerics=numerics, mode=kind.split()[0], family=family,
                base=_base(draw, family), rope=_rope(draw, family), config={})
    if case.mode == "medusa":
        _medusa(draw, case, kind)
    else:
        case.mode = "eagle"
        _eagle(draw, case, kind)
    case.batch = _batch(draw, case)
    return case


def draw_cases(seed):
    return [draw_case(seed, numerics, number, kind)
            for numerics, kinds in KINDS.items() for number, kind in enumerate(kinds)]


# Where Outrider differs by default: the rules of draft_formula.Rules that say so, by release.
SWITCHES = {
    "double norm": {"0.47": ["norms_twice"], "0.42": ["norms_twice"]},
    "last position": {"0.47": ["wraps"]},
    "no mask given": {"0.47": ["mask"], "0.42": ["mask"]},
    "loss mask": {"0.47": ["gate"], "0.42": ["gate"]},
    "padding keys": {"0.47": ["masks_padding"], "0.42": ["masks_padding"]},
    "input": {"0.47": ["merges"], "0.42": ["merges"]},
    "steps": {"0.42": ["steps"]},
    "rope": {"0.42": ["rope"]},
}


def switch_case(numerics, switch):
    """A case in which the switch decides."""
    base = {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
            "max_position_embeddings": MAX_POSITIONS}
    draft = {"num_hidden_layers": 1, "intermediate_size": 20, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5,
             "use_aux_hidden_state": switch != "input", "use_last_layernorm": True,
             "use_mtp_layernorm": switch == "input"}
    if switch != "input":
        draft["eagle_aux_hidden_state_layer_ids"] = [0, 1]
    config = {"eagle_loss_decay_factor": 0.8, "eagle_freeze_base_model": True,
              "eagle_ttt_steps": 3, "eagle_mix_hidden_states": switch == "last position",
              "eagle_architecture_config": draft}
    masks = {"padding keys": "hole", "no mask given": "right"}
    return Case(name=f"{numerics}-switch-{switch.replace(' ', '_')}", seed=11, numerics=numerics,
                mode="eagle", family="Llama", base=base,
                rope={"rope_type": "default", "rope_theta": 10000.0}, config=config,
                batch={"rows": 2, "length": 14, "mask": masks.get(switch, "full"),
                       "loss_mask": switch in ("loss mask", "padding keys"),
                       "labels": switch == "no mask given", "positions": False})
