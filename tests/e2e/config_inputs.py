"""Configs to hold Outrider's classes and ModelOpt's against: the same ones in every run."""

import itertools
import random

EAGLE_FIELDS = {
    "eagle_offline": bool, "eagle_hidden_state_distillation": bool,
    "eagle_self_logit_distillation": bool, "eagle_freeze_base_model": bool,
    "eagle_report_acc": bool, "eagle_reuse_base_decoder": bool, "eagle_loss_decay_factor": float,
    "eagle_architecture_config": dict, "eagle_decoder_type": str, "eagle_ttt_steps": int,
    "eagle_mix_hidden_states": bool, "eagle_use_torch_compile": bool, "eagle_enable_nvtx": bool,
    "eagle_export_rope_scaling": dict, "eagle_base_lora": bool, "eagle_base_lora_rank": int,
    "eagle_base_lora_alpha": float, "eagle_base_lora_target_modules": list,
    "eagle_base_lora_preservation_loss_weight": float, "eagle_base_lora_warmup_steps": int,
    "eagle_base_lora_start_layer": int, "eagle_base_lora_logits_detach_prob": float}
MEDUSA_FIELDS = {"medusa_num_heads": int, "medusa_num_layers": int}
FIELDS = [("eagle", name) for name in EAGLE_FIELDS] + [("medusa", name) for name in MEDUSA_FIELDS]

VALUES = [
    None, True, False,
    0, 1, -1, 2, 3, 7, 64, 65, 10**6, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64, 10**30,
    0.0, -0.0, 1.0, 3.0, -1.0, 0.5, -1.5, 0.1, 1e3, 1e18, 1e19, -1e19, 1e300, 5e-324,
    "", " ", "0", "1", "2", "7", "-7", "+7", "+-7", " 7 ", "\t7\n", "007", "-0", "7.", "7.0", " 7.00 ",
    "7.5", ".0", ".5", "1e3", "7e0", "1e", "1e400", "1e-400", "1_000", "1__0", "_1", "1_", "1_0.0",
    "1.0_0", "0x10", "7a", "- 7", "9223372036854775807", "9223372036854775808", "1" * 5000,
    "inf", "-Infinity", "nan", "٣", "7\u00a0", "\u20037\u3000 ", "\u00857", "\x1c7", "7\u200b", "\ufeff7",
    "true", "True", "TRUE", "tRuE", "false", "False", "t", "F", "y", "N", "yes", "No", "on", "OFF",
    " on", "on ", "1.0", "0.0", "oui", "é", "llama", "kimik2", "Llama", "null", "[]", "{}",
    [], [1], ["q_proj", "v_proj"], [None, {"a": 1}], [[]], {}, {"a": None}, {"0": [1, {"b": 2}]},
    {"rope_type": "default"}, {"num_hidden_layers": "two"}, {"nested": {"keys": {"any": 1}}}]

SCALINGS = [None, {}, {"rope_type": "default"}, {"rope_type": "llama3", "factor": 8.0},
            {"rope_type": "yarn"}, {"type": "linear"}, {"type": "default"},
            {"rope_type": "default", "type": "linear"}, {"rope_type": "linear", "type": "default"},
            {"rope_type": None}, {"rope_type": None, "type": "linear"}, {"rope_type": ""},
            {"rope_type": "", "type": "linear"}, {"rope_type": "Default"}, {"factor": 2.0}]
EXPORTS = [None, {}, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}]


def one_field():
    return [(mode, {name: value}) for mode, name in FIELDS for value in VALUES]


def unknown_keys():
    for mode, name in FIELDS:
        for key in (name[:-1], name + "s", name.upper(), name.replace("_", "-"), " " + name,
                    name.split("_", 1)[1]):
            yield mode, {key: 1}
            yield mode, {name: 1, key: 1}
    yield from (("eagle", {"medusa_num_heads": 2}), ("medusa", {"eagle_ttt_steps": 2}))
    yield from (("eagle", {key: 1}) for key in ("", "\x00", "\n", "self", "model_config", "é", "a/b~c"))


def roots():
    for mode in ("eagle", "medusa"):
        yield from ((mode, root) for root in ({}, [], [1], [["eagle_ttt_steps", 3]], None, True, 3, "", "{}"))


def ropes():
    """The one rule between fields: a rope for export, and the one of training."""
    for rope, export in itertools.product([*SCALINGS, "absent"], EXPORTS):
        config = {"eagle_architecture_config": {} if rope == "absent" else {"rope_scaling": rope}}
        yield "eagle", config if export is None else config | {"eagle_export_rope_scaling": export}


def several_fields(count=300, odd=True):
    draw = random.Random(5)
    usual = {bool: [True, False, 0, "no", "Y"], int: [1, 3, "4", 5.0], float: [0.5, 1, "0.25", "1e-2"],
             str: ["llama"], list: [None, ["q_proj"], []],
             dict: [{}, {"rope_type": "default"}, {"num_hidden_layers": 2}]}
    for _ in range(count):
        names = draw.sample(sorted(EAGLE_FIELDS), draw.randint(2, 8))
        config = {name: draw.choice(usual[EAGLE_FIELDS[name]]) for name in names}
        if odd and draw.random() < 0.3:
            config[draw.choice(names)] = draw.choice(VALUES)
        yield "eagle", config


def classes_alone():
    return [*one_field(), *unknown_keys(), *roots(), *several_fields()]
