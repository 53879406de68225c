"""Small random models of many families, and the config of a draft that fits them."""

import torch
import transformers as hf

SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
         "max_position_embeddings": 128, "initializer_range": 0.2}
EAGLE = {"eagle_architecture_config": {
    "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "use_aux_hidden_state": True, "use_last_layernorm": True}}


def llama(**changes):
    return hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES | changes))


def qwen3():
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZES))


def gpt_oss():
    return hf.GptOssForCausalLM(hf.GptOssConfig(
        **SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=16))


def gemma3():
    return hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**SIZES, sliding_window=16))


def gemma2():
    return hf.Gemma2ForCausalLM(hf.Gemma2Config(**SIZES))


def qwen3_moe():
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32))


def deepseek_v3():
    return hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(
        **SIZES | {"num_key_value_heads": 4}, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, moe_intermediate_size=32, first_k_dense_replace=1, q_lora_rank=16,
        kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8))


def gpt2():
    return hf.GPT2LMHeadModel(hf.GPT2Config(
        vocab_size=96, n_embd=32, n_layer=8, n_head=4, n_positions=128))


def gemma3_with_pictures():
    return hf.Gemma3ForConditionalGeneration(hf.Gemma3Config(
        text_config=hf.Gemma3TextConfig(**SIZES, sliding_window=16),
        vision_config=hf.SiglipVisionConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=8, num_attention_heads=2,
            image_size=28, patch_size=14),
        mm_tokens_per_image=4, image_token_index=90))


FAMILIES = {make.__name__: make for make in (
    llama, qwen3, gpt_oss, gemma3, qwen3_moe, deepseek_v3, gpt2, gemma3_with_pictures)}


def made(make, seed=0):
    torch.manual_seed(seed)
    return make().eval()


def batch(rows=2, length=24, seed=1):
    """Tokens, and a mask whose last row ends four tokens early."""
    ids = torch.randint(0, 80, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[-1, -4:] = 0
    return {"input_ids": ids, "attention_mask": mask}
