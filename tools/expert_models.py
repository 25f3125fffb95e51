"""What mixtures of experts need of a reference beside a dense model: their configurations, the losses of their routers, the names that a checkpoint
has for the gradients of fused experts, and how near a choice of experts came to a tie.

tools/make_vectors.py and tools/interop.py use it.
"""

import torch
from transformers import MixtralConfig, OlmoeConfig, Qwen3MoeConfig

# Where two logits are nearer than this in some of 50 steps, rounding may choose the other expert: there is no one right answer to compare with. Starting
# from weights one unit in the last place away, PyTorch moves the nearest distance of OLMoE from 4e-5 to 9e-5 itself.
NEAREST_TIE = 1e-4


def common(vocab):
    return dict(vocab_size=vocab, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=96, rms_norm_eps=1e-5,
                bos_token_id=0, eos_token_id=0, pad_token_id=None, attn_implementation="eager")


def configurations(vocab):
    """One a family, with its load-balance loss."""
    return {
        "mixtral": MixtralConfig(intermediate_size=24, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.02,
                                 rope_theta=10000.0, tie_word_embeddings=False, **common(vocab)),
        "qwen3-moe": Qwen3MoeConfig(intermediate_size=40, moe_intermediate_size=20, num_key_value_heads=2, head_dim=12, num_experts=6, num_experts_per_tok=3,
                                    norm_topk_prob=True, mlp_only_layers=[0], router_aux_loss_coef=0.02, tie_word_embeddings=True, **common(vocab)),
        "olmoe": OlmoeConfig(intermediate_size=12, num_key_value_heads=4, num_experts=7, num_experts_per_tok=2, norm_topk_prob=False, router_aux_loss_coef=0.02,
                             tie_word_embeddings=False, **common(vocab)),
    }


def odd_configurations(vocab):
    """Another of each, without it."""
    return {
        "mixtral": MixtralConfig(intermediate_size=20, num_key_value_heads=4, num_local_experts=3, num_experts_per_tok=2, router_aux_loss_coef=0.0,
                                 sliding_window=24, tie_word_embeddings=True, **common(vocab)),
        "qwen3-moe": Qwen3MoeConfig(intermediate_size=40, moe_intermediate_size=16, num_key_value_heads=4, head_dim=8, num_experts=5, num_experts_per_tok=2,
                                    norm_topk_prob=False, decoder_sparse_step=2, router_aux_loss_coef=0.0, attention_bias=True, use_sliding_window=True,
                                    sliding_window=33, tie_word_embeddings=False, **common(vocab)),
        "olmoe": OlmoeConfig(intermediate_size=16, num_key_value_heads=2, num_experts=5, num_experts_per_tok=3, norm_topk_prob=True, router_aux_loss_coef=0.0,
                             tie_word_embeddings=True, **common(vocab)),
    }


def has_experts(model):
    return hasattr(model, "router_aux_loss_coef")


def is_router(key):
    return key.endswith("mlp.gate.weight")


def z_of(model):
    """The z-loss's coefficient, which no config.json holds: with the load-balance loss, or not at all."""
    return 0.003 if model.router_aux_loss_coef > 0 else 0.0


def forward(model, ids):
    """(logits, load-balance loss, z-loss, least distance of a choice from a tie): both losses as means over the rows of all layers, no coefficient."""
    out = model(input_ids=ids, use_cache=False, output_router_logits=True)
    rows = torch.cat(out.router_logits)
    order, k = rows.detach().sort(-1, descending=True).values, model.config.num_experts_per_tok
    gap = (order[:, k - 1] - order[:, k]).min().item() if k < order.shape[1] else float("inf")
    return out.logits, out.aux_loss, (rows.logsumexp(-1) ** 2).mean(), gap


def gradients(model):
    """(name in the file, gradient): experts that transformers holds in one tensor are separate there."""
    mixtral = model.config.model_type == "mixtral"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    for key, p in model.named_parameters():
        name = key.replace(".mlp.", ".block_sparse_moe.") if mixtral else key
        if key.endswith("experts.gate_up_proj"):
            for e, expert in enumerate(p.grad):
                for which, g in zip((gate, up), expert.chunk(2)):
                    yield name.replace("gate_up_proj", f"{e}.{which}.weight"), g
        elif key.endswith("experts.down_proj"):
            for e, g in enumerate(p.grad):
                yield name.replace("down_proj", f"{e}.{down}.weight"), g
        else:
            yield name, p.grad
