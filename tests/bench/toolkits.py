"""A step of EAGLE-3 training in each Python toolkit, on a Llama of a given shape with random weights.

A toolkit is made of (shape, steps, draft_vocabulary) and takes token ids [rows, length]: base, loss, backward, clipping
and optimizer, as its own recipe does, in bfloat16. They are imported and called as they come, where they are installed:
nvidia-modelopt, specforge, nemo-automodel (their versions: docs/performance.md).
"""

import copy
import json
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
WORKLOADS = json.loads((ROOT / "host/src/bench/workloads.json").read_text())
DEVICE = torch.device("cuda")
DTYPE = torch.bfloat16


def aux_layers(shape):
    """Whose outputs the draft reads: EAGLE-3's default."""
    count = shape["num_hidden_layers"]
    return sorted({1, count // 2 - 1, count - 4})


def llama_config(shape, **changes):
    from transformers import LlamaConfig

    fields = {name: value for name, value in shape.items() if name not in ("architectures", "rope_theta")}
    rope = {"rope_type": "default", "rope_theta": shape["rope_theta"]}
    return LlamaConfig(**(fields | {"rope_parameters": rope} | changes))


def make_base(shape):
    from transformers import LlamaForCausalLM

    config = llama_config(shape)
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPE)
    try:
        with DEVICE:
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def draft_ids(shape, count):
    """Evenly spread over the vocabulary."""
    return torch.tensor([i * shape["vocab_size"] // count for i in range(count)], device=DEVICE)


def kept_tokens(shape, ids):
    kept = torch.zeros(shape["vocab_size"], dtype=torch.bool, device=DEVICE)
    kept[ids] = True
    return kept


def modelopt_config(shape, steps, vocabulary):
    """Of its EAGLE-3 for a base of this shape."""
    import modelopt.torch.speculative as mtsp

    config = copy.deepcopy(mtsp.EAGLE3_DEFAULT_CFG["config"])
    config["eagle_architecture_config"].update(
        {name: shape[name] for name in ("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")},
        draft_vocab_size=vocabulary)
    return config | {"eagle_ttt_steps": steps, "eagle_use_torch_compile": False}


class ModelOpt:
    """mtsp.convert on transformers' Llama; autocast, fused AdamW on the draft in bfloat16, gradients clipped to 1."""

    package = "nvidia-modelopt"

    def __init__(self, shape, steps, vocabulary):
        import modelopt.torch.speculative as mtsp

        torch.backends.cuda.matmul.allow_tf32 = True
        model = make_base(shape)
        config = modelopt_config(shape, steps, vocabulary)
        with DEVICE:
            mtsp.convert(model, [("eagle", config)])
        ids = draft_ids(shape, vocabulary)
        model.eagle_module.d2t.copy_(ids - torch.arange(vocabulary, device=DEVICE))
        self.model = model.train()
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, weight_decay=0.0, fused=True)

    def step(self, ids):
        with torch.autocast("cuda", dtype=DTYPE):
            loss = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def pytorch_flash_attention(q, k, v, softmax_scale=None, causal=False, return_attn_probs=True):
    """flash_attn_func of the flash-attn package, which often cannot be installed, by PyTorch's copy of the kernel."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=softmax_scale)[:2]
    return out.transpose(1, 2), lse, None


class AutoModel:
    """Its target model, draft and trainer module, with FlashAttention-2 and a compiled draft, its fastest here."""

    package = "nemo-automodel"

    def __init__(self, shape, steps, vocabulary):
        from nemo_automodel.components.speculative.eagle import draft_llama
        from nemo_automodel.components.speculative.eagle.core import Eagle3TrainerModule
        from nemo_automodel.components.speculative.eagle.registry import resolve_eagle3_draft_spec
        from nemo_automodel.components.speculative.eagle.target import HFEagle3TargetModel
        from nemo_automodel.recipes.llm._spec_train_utils import apply_draft_compile, make_warmup_cosine_schedule

        model = make_base(shape).requires_grad_(False)
        ids = draft_ids(shape, vocabulary)
        self.target = HFEagle3TargetModel(model, aux_layers(shape))
        config = llama_config(shape, draft_vocab_size=vocabulary, target_hidden_size=shape["hidden_size"],
                              architectures=["LlamaEagle3DraftModel"], tie_word_embeddings=False, fc_norm=False,
                              norm_output=False, parallel_drafting=False)
        with DEVICE:
            draft = resolve_eagle3_draft_spec(["LlamaForCausalLM"]).draft_cls(config)
        draft.to(device=DEVICE, dtype=DTYPE)
        draft.copy_embeddings_from_target(self.target.get_input_embeddings())
        draft.set_vocab_mapping(ids)
        draft.freeze_embeddings()
        draft.model.layers[0].self_attn.attn_implementation = "flash_attention_2"
        if not draft_llama._HAS_FA:
            draft_llama._flash_attn_func = pytorch_flash_attention
        apply_draft_compile(draft, {"enabled": True, "mode": "default"})
        self.trainer = Eagle3TrainerModule(draft, selected_token_ids=ids, selected_token_mask=kept_tokens(shape, ids),
                                           ttt_steps=steps).to(DEVICE)
        self.trained = [p for p in self.trainer.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=2e-4, betas=(0.9, 0.95), weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, make_warmup_cosine_schedule(312, 6250, 0.1))

    def step(self, ids):
        ones = torch.ones_like(ids)
        batch = self.target.generate_batch(input_ids=ids, attention_mask=ones, loss_mask=ones)
        self.trainer(**batch.to_trainer_inputs()).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)


class BaseFeatures:
    """The frozen base's outputs that a draft reads, by hooks: those of three layers side by side, and the last one."""

    def __init__(self, shape):
        model = make_base(shape).requires_grad_(False)
        self.body, self.head, self.found = model.model, model.lm_head, {}
        self.layers = aux_layers(shape)
        for layer in self.layers:
            self.body.layers[layer].register_forward_hook(self.keep(layer))

    def keep(self, layer):
        def hook(_module, _inputs, output):
            self.found[layer] = output if isinstance(output, torch.Tensor) else output[0]
        return hook

    @torch.no_grad()
    def of(self, ids):
        last = self.body(input_ids=ids, use_cache=False).last_hidden_state
        return torch.cat([self.found.pop(layer) for layer in self.layers], dim=-1), last


class SpecForge:
    """Its strategy, online model, head and optimizer with masters in float32, flex_attention. It has no base of its own in
    the process: transformers' outputs feed it."""

    package = "specforge"

    def __init__(self, shape, steps, vocabulary):
        from specforge.algorithms.eagle3.model import OnlineEagle3Model
        from specforge.modeling.auto import AutoDraftModel
        from specforge.modeling.target.target_head import TargetHead
        from specforge.optimizer import BF16Optimizer
        from specforge.runtime.contracts import TrainBatch
        from specforge.training.backend import FSDPTrainingBackend, ParallelConfig
        from specforge.training.strategies.base import Eagle3TrainStrategy

        self.batch_of, self.base = TrainBatch, BaseFeatures(shape)
        config = llama_config(shape, num_hidden_layers=1, tie_word_embeddings=False,
                              architectures=["LlamaForCausalLMEagle3"], draft_vocab_size=vocabulary)
        attention = {"attention_backend": "flex_attention"}
        with DEVICE:
            draft = AutoDraftModel.from_config(config, torch_dtype=DTYPE, **attention)
        ids = draft_ids(shape, vocabulary)
        with torch.no_grad():
            draft.embed_tokens.weight.copy_(self.base.body.embed_tokens.weight)
        draft.t2d.copy_(kept_tokens(shape, ids))
        draft.d2t.copy_(ids - torch.arange(vocabulary, device=DEVICE))
        draft.freeze_embedding()
        online = OnlineEagle3Model(draft_model=draft, length=steps, **attention).to(device=DEVICE, dtype=DTYPE)
        self.strategy = Eagle3TrainStrategy(online, target_head=self.head_of(TargetHead, shape))
        self.backend = FSDPTrainingBackend(ParallelConfig(), optimizer_factory=lambda m: BF16Optimizer(m, lr=1e-4))
        self.backend.prepare_model(online, wrap=False, optimizer_target=draft)
        online.train()

    def head_of(self, kind, shape):
        with tempfile.TemporaryDirectory() as folder:
            config = llama_config(shape).to_dict() | {"model_type": "llama"}
            (Path(folder) / "config.json").write_text(json.dumps(config))
            with torch.device("meta"):
                head = kind(folder)
        head.fc.weight = torch.nn.Parameter(self.base.head.weight.detach(), requires_grad=False)
        head.freeze_weights()
        return head.eval()

    def step(self, ids):
        features, last = self.base.of(ids)
        ones = torch.ones_like(ids)
        tensors = {"input_ids": ids, "attention_mask": ones, "loss_mask": ones, "hidden_state": features, "target": last}
        names = [str(i) for i in range(len(ids))]
        batch = self.batch_of(sample_ids=names, strategy="eagle3", tensors=tensors,
                              metadata={"target_repr": "hidden_state"})
        self.backend.backward(self.strategy.forward_loss(batch).loss)
        self.backend.step()


TOOLKITS = {"modelopt": ModelOpt, "automodel": AutoModel, "specforge": SpecForge}
