"""Reference vectors from PyTorch and transformers, for tests/kernels/test_vectors.c and tests/model/test_parity.c.

    tests/vectors/ops.safetensors             each operator of src/kernels/ops.h: inputs in f32, results computed in f64 and rounded once
    tests/vectors/optimizer.safetensors       Muon's updates (tools/make_optimizer_vectors.py)
    tests/vectors/zloss.safetensors           gradients of two of the models below with a z-loss
    tests/vectors/<model>/config.json, model.safetensors       a tiny random model as transformers saves it
    tests/vectors/<model>/expected.safetensors                 its logits, every parameter's gradient and 50 AdamW losses, in f32

Everything is a function of the seeds below: a second run writes the same files (on the same versions of the libraries).
Run it by `./dev vectors`. tools/interop.py calls models() to make other models of the same kind, live.
"""

import argparse
import os

import numpy as np
import torch
import torch.nn.functional as F
from gguf import GGMLQuantizationType, quants
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config,
                          SmolLM3Config)
from transformers.utils import logging

import expert_models
import make_optimizer_vectors

logging.disable_progress_bar()

HYPER = dict(lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, clip=1.0)
BATCHES, B, T = 4, 2, 70  # T crosses attention's chunk of 64 keys; a step uses batch (step mod BATCHES)
STEPS = 50
V = 61


# ---- operators


class Cases:
    """Named tensors; inputs are drawn in f32, the mathematics runs on their f64 copies."""

    def __init__(self, seed):
        self.tensors = {}
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, name, *shape, std=1.0, mean=0.0, grad=True):
        x = (torch.randn(*shape, generator=self.generator) * std + mean).float()
        self.tensors[name] = x
        return x.double().requires_grad_(grad)

    def ids(self, name, values):
        self.tensors[name] = torch.as_tensor(values, dtype=torch.int32)
        return self.tensors[name].long()

    def keep(self, name, x):
        self.tensors[name] = x.detach().float().contiguous()

    def grads(self, prefix, y, dy, **leaves):
        for (name, _), g in zip(leaves.items(), torch.autograd.grad(y, list(leaves.values()), dy)):
            self.keep(f"{prefix}.d{name}", g)


def operators(seed):
    c = Cases(seed)

    # y = x·Wᵀ + b, K across the product's block of 256.
    R, K, N = 7, 300, 19
    x, W, b, dy = c.draw("linear.x", R, K), c.draw("linear.W", N, K), c.draw("linear.b", N), c.draw("linear.dy", R, N, grad=False)
    y = F.linear(x, W, b)
    c.keep("linear.y", y)
    c.grads("linear", y, dy, x=x, W=W, b=b)
    # dW sums over rows: rows across the block too.
    R, K, N = 270, 5, 9
    x, W, dy = c.draw("tall.x", R, K), c.draw("tall.W", N, K), c.draw("tall.dy", R, N, grad=False)
    b = torch.zeros(N, dtype=torch.float64, requires_grad=True)
    c.grads("tall", F.linear(x, W, b), dy, W=W, b=b)

    ids, pos = c.ids("embed.token", [3, 0, 9, 3, 10, 3]), c.ids("embed.pos", [0, 1, 2, 0, 1, 2])
    E, P = c.draw("embed.E", 11, 24), c.draw("embed.P", 3, 24)
    dx = c.draw("embed.dx", 6, 24, grad=False)
    x = F.embedding(ids, E) + F.embedding(pos, P)
    c.keep("embed.x", x)
    c.grads("embed", x, dx, E=E, P=P)

    R, C = 9, 43
    for norm in ("rmsnorm", "layernorm"):
        x, y = c.draw(f"{norm}.x", R, C, mean=0.3), c.draw(f"{norm}.y", R, C, grad=False)
        gain, dout = c.draw(f"{norm}.gain", C, std=0.2, mean=1.0), c.draw(f"{norm}.dout", R, C, grad=False)
        bias = c.draw(f"{norm}.bias", C, std=0.2)
        s = x + y
        out = F.rms_norm(s, (C,), gain, 1e-5) if norm == "rmsnorm" else F.layer_norm(s, (C,), gain, bias, 1e-5)
        c.keep(f"{norm}.sum", s)
        c.keep(f"{norm}.out", out)
        c.grads(norm, out, dout, x=x, gain=gain, **({} if norm == "rmsnorm" else {"bias": bias}))

    # Rotation as in Hugging Face Llama: the table's angles are f32 products, as the contract says.
    heads, D = 3, 16
    pos = c.ids("rope.pos", [0, 1, 2, 7, 100, 1000])
    x, dy = c.draw("rope.x", 6, heads * D), c.draw("rope.dy", 6, heads * D, grad=False)
    inv_freq = 1.0 / (10000.0 ** (torch.arange(0, D, 2).float() / D))
    angle = pos.float()[:, None] * inv_freq[None, :]
    cos, sin = angle.double().cos(), angle.double().sin()
    c.keep("rope.cos_sin", torch.cat([cos, sin], 1))
    h = x.view(6, heads, D)
    a, b = h[..., : D // 2], h[..., D // 2 :]
    y = torch.cat([a * cos[:, None] - b * sin[:, None], b * cos[:, None] + a * sin[:, None]], -1).reshape(6, -1)
    c.keep("rope.y", y)
    c.grads("rope", y, dy, x=x)

    # Two sequences, 5 and 150 rows (three chunks of keys), four query heads over two key heads.
    lengths, H, Hkv, D = [5, 150], 4, 2, 12
    R = sum(lengths)
    c.ids("attention.lengths", lengths)
    q, k, v = c.draw("attention.q", R, H * D), c.draw("attention.k", R, Hkv * D), c.draw("attention.v", R, Hkv * D)
    dout = c.draw("attention.dout", R, H * D, grad=False)
    outs, first = [], 0
    for n in lengths:
        qs = q[first : first + n].view(1, n, H, D).transpose(1, 2)
        ks, vs = (z[first : first + n].view(1, n, Hkv, D).transpose(1, 2) for z in (k, v))
        o = F.scaled_dot_product_attention(qs, ks, vs, is_causal=True, enable_gqa=True)
        outs.append(o.transpose(1, 2).reshape(n, H * D))
        first += n
    out = torch.cat(outs)
    c.keep("attention.out", out)
    c.grads("attention", out, dout, q=q, k=k, v=v)

    x, dy = c.draw("gelu.x", 211, std=3.0), c.draw("gelu.dy", 211, grad=False)
    y = F.gelu(x, approximate="tanh")
    c.keep("gelu.y", y)
    c.grads("gelu", y, dy, x=x)

    gu, dy = c.draw("swiglu.gu", 5, 2 * 37, std=2.0), c.draw("swiglu.dy", 5, 37, grad=False)
    y = F.silu(gu[:, :37]) * gu[:, 37:]
    c.keep("swiglu.y", y)
    c.grads("swiglu", y, dy, gu=gu)

    logits, target = c.draw("loss.logits", 6, 101, std=4.0), c.ids("loss.target", [0, 100, -1, 50, 7, 7])
    logp = F.log_softmax(logits, -1)
    kept = torch.where(target >= 0, logp.gather(1, target.clamp(min=0)[:, None])[:, 0], torch.zeros(6, dtype=torch.float64))
    c.keep("loss.logp", kept)
    c.grads("loss", kept, torch.full((6,), -0.25, dtype=torch.float64), logits=logits)

    x = c.draw("squares.x", 10007, grad=False)
    c.tensors["squares.sum"] = (x * x).sum().reshape(1)

    # Three steps, gradients shrunk by 0.5 as clipping does.
    w = c.draw("adamw.w", 67)
    g = c.draw("adamw.g", 3, 67, grad=False)
    optimizer = torch.optim.AdamW([w], lr=HYPER["lr"], betas=(HYPER["beta1"], HYPER["beta2"]), eps=HYPER["eps"],
                                  weight_decay=HYPER["weight_decay"])
    for step in range(3):
        w.grad = 0.5 * g[step]
        optimizer.step()
    c.keep("adamw.w_after", w)
    c.keep("adamw.m_after", optimizer.state[w]["exp_avg"])
    c.keep("adamw.v_after", optimizer.state[w]["exp_avg_sq"])

    # Drawn after all the others, so that those stay what they were.
    # Windows within a chunk of keys and across two, a soft-cap, and both.
    lengths, H, Hkv, D = [5, 90], 2, 1, 8
    R = sum(lengths)
    c.ids("form.lengths", lengths)
    q, k, v = c.draw("form.q", R, H * D), c.draw("form.k", R, Hkv * D), c.draw("form.v", R, Hkv * D)
    dout = c.draw("form.dout", R, H * D, grad=False)
    for name, window, cap in (("window", 20, 0.0), ("wide", 70, 0.0), ("cap", 0, 1.5), ("both", 33, 2.0)):
        outs, first = [], 0
        for n in lengths:
            qs = q[first : first + n].view(n, H, D).transpose(0, 1)
            ks, vs = (z[first : first + n].view(1, n, D) for z in (k, v))
            s = qs @ ks.transpose(1, 2) / D**0.5
            s = cap * torch.tanh(s / cap) if cap else s
            back = torch.arange(n)[:, None] - torch.arange(n)[None, :]
            s = s.masked_fill((back < 0) | (back >= (window or n)), float("-inf"))
            outs.append((s.softmax(-1) @ vs).transpose(0, 1).reshape(n, H * D))
            first += n
        out = torch.cat(outs)
        c.keep(f"form.{name}.out", out)
        c.grads(f"form.{name}", out, dout, q=q, k=k, v=v)

    ids = c.tensors["embed.token"].long()
    E, dx = c.draw("scaled.E", 11, 24), c.tensors["embed.dx"].double()
    x = F.embedding(ids, E) * torch.tensor(24.0).sqrt().double()  # √C rounded to f32, as Gemma scales
    c.keep("scaled.x", x)
    c.grads("scaled", x, dx, E=E)

    # Gains as their distance from 1; then heads of a row, 270 slices, across a block of 256.
    R, C = 9, 43
    x, gain, dout = c.draw("plus.x", R, C), c.draw("plus.gain", C, std=0.2), c.draw("plus.dout", R, C, grad=False)
    out = F.rms_norm(x, (C,), 1 + gain, 1e-5)
    c.keep("plus.out", out)
    c.grads("plus", out, dout, x=x, gain=gain)
    R, heads, D = 90, 3, 12
    x, gain = c.draw("head.x", R, heads * D, mean=0.2), c.draw("head.gain", D, std=0.2)
    dout = c.draw("head.dout", R, heads * D, grad=False)
    out = F.rms_norm(x.view(R, heads, D), (D,), 1 + gain, 1e-6).reshape(R, heads * D)
    c.keep("head.out", out)
    c.grads("head", out, dout, x=x, gain=gain)

    gu, dy = c.draw("geglu.gu", 5, 2 * 37, std=2.0), c.draw("geglu.dy", 5, 37, grad=False)
    y = F.gelu(gu[:, :37], approximate="tanh") * gu[:, 37:]
    c.keep("geglu.y", y)
    c.grads("geglu", y, dy, gu=gu)

    x = c.draw("softcap.x", 211, std=4.0)
    c.keep("softcap.y", 3.0 * torch.tanh(x / 3.0))

    logits, target = c.draw("zloss.logits", 6, 101, std=4.0), c.tensors["loss.target"].long()
    for name, z_coef, cap in (("plain", 0.01, 0.0), ("cap", 0.0, 5.0), ("both", 0.02, 5.0)):
        z = cap * torch.tanh(logits / cap) if cap else logits
        seen = target >= 0
        logz = torch.where(seen, torch.logsumexp(z, -1), torch.zeros(6, dtype=torch.float64))
        logp = torch.where(seen, z.gather(1, target.clamp(min=0)[:, None])[:, 0] - logz, torch.zeros(6, dtype=torch.float64))
        c.keep(f"zloss.{name}.logp", logp)
        c.keep(f"zloss.{name}.logz", logz)
        c.grads(f"zloss.{name}", 0.25 * (z_coef * logz * logz - logp).sum(), None, logits=logits)

    # Keys and values kept in fewer bits: PyTorch's halves, gguf-py's Q8_0 of rows filled up with zeros (a group of 32 and one of 8).
    R, D = 70, 40
    q, k, v = c.draw("kept.q", R, D, grad=False), c.draw("kept.k", R, D, grad=False), c.draw("kept.v", R, D, grad=False)
    for name, keep in (("F16", lambda x: x.half()), ("BF16", lambda x: x.bfloat16()), ("Q8_0", q8_0)):
        ks, vs = (keep(z.float()).double()[None] for z in (k, v))
        c.keep(f"kept.{name}.out", F.scaled_dot_product_attention(q[None], ks, vs, is_causal=True)[0])
    return c.tensors


def q8_0(x):
    rows = np.pad(x.numpy(), ((0, 0), (0, -x.shape[1] % 32)))
    kept = quants.dequantize(quants.quantize(rows, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
    return torch.from_numpy(kept[:, : x.shape[1]].copy())


# ---- whole models


def configurations(vocab=V):
    """One of each family, the ones that are kept. T = 70 crosses every window and every number of original positions here."""
    llama = dict(vocab_size=vocab, hidden_size=32, intermediate_size=40, max_position_embeddings=96, rms_norm_eps=1e-5,
                 bos_token_id=0, eos_token_id=0, pad_token_id=None, attn_implementation="eager")
    gpt2 = dict(vocab_size=vocab, n_embd=32, n_head=4, n_positions=96, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0,
                embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager")
    grouped = dict(llama, num_attention_heads=4, num_key_value_heads=2)
    return {
        "gpt2-tied": GPT2Config(n_layer=2, **gpt2),
        "gpt2-untied": GPT2Config(n_layer=1, n_inner=56, tie_word_embeddings=False, **gpt2),
        "llama-tied": LlamaConfig(**dict(llama, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True)),
        "llama-gqa": LlamaConfig(num_hidden_layers=2, rope_theta=500000.0, tie_word_embeddings=False, **grouped),
        # Wavelengths below, between and above 32/4 and 32/1: each of the rule's three cases.
        "llama3": LlamaConfig(num_hidden_layers=2, head_dim=12, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
                              rope_parameters=dict(rope_type="llama3", rope_theta=1000.0, factor=4.0, low_freq_factor=1.0,
                                                   high_freq_factor=4.0, original_max_position_embeddings=32), **grouped),
        "smollm3": SmolLM3Config(num_hidden_layers=3, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=20,
                                 tie_word_embeddings=True, **grouped),
        "mistral": MistralConfig(num_hidden_layers=2, head_dim=12, sliding_window=24, tie_word_embeddings=False,
                                 rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.5), **grouped),
        "qwen2": Qwen2Config(num_hidden_layers=3, use_sliding_window=True, sliding_window=17, max_window_layers=1, tie_word_embeddings=False,
                             rope_parameters=dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=24),
                             **grouped),
        "qwen3": Qwen3Config(num_hidden_layers=2, head_dim=16, tie_word_embeddings=True, **grouped),
        "gemma2": Gemma2Config(num_hidden_layers=2, head_dim=16, query_pre_attn_scalar=24, sliding_window=24, attn_logit_softcapping=1.5,
                               final_logit_softcapping=4.0, **grouped),
        "gemma3": Gemma3TextConfig(num_hidden_layers=3, head_dim=16, query_pre_attn_scalar=16, sliding_window=20, sliding_window_pattern=3,
                                   rope_parameters=dict(full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0),
                                                        sliding_attention=dict(rope_type="default", rope_theta=1e4)),
                                   **dict(grouped, num_key_value_heads=1)),
        **expert_models.configurations(vocab),
    }


def odd_configurations(vocab=V):
    """Another of each family that has but one above: ragged widths, the other tie, windows at 64 and beside it, the keys that the first ones leave out."""
    base = dict(vocab_size=vocab, max_position_embeddings=100, rms_norm_eps=1e-6, bos_token_id=0, eos_token_id=0, pad_token_id=None,
                attn_implementation="eager")

    def shape(hidden, heads, kv, inner, layers):
        return dict(base, hidden_size=hidden, num_attention_heads=heads, num_key_value_heads=kv, intermediate_size=inner,
                    num_hidden_layers=layers)

    return {
        **expert_models.odd_configurations(vocab),
        "llama3": LlamaConfig(tie_word_embeddings=True, rope_parameters=dict(rope_type="linear", rope_theta=5000.0, factor=3.0),
                              **shape(36, 6, 3, 50, 2)),
        # Without RoPE a bias of keys moves all scores of a row alike: its gradient is zero but for rounding, and is not compared.
        "smollm3": SmolLM3Config(no_rope_layers=[0, 1, 1, 0], mlp_bias=True, tie_word_embeddings=False,
                                 rope_parameters=dict(rope_type="yarn", rope_theta=2e6, factor=2.0, original_max_position_embeddings=32,
                                                      beta_fast=16.0, beta_slow=2.0, attention_factor=1.25, truncate=False),
                                 **shape(40, 5, 1, 44, 4)),
        "mistral": MistralConfig(sliding_window=None, tie_word_embeddings=True, rope_theta=1e6, **shape(36, 6, 2, 44, 2)),
        "qwen2": Qwen2Config(use_sliding_window=True, sliding_window=65, layer_types=["full_attention", "sliding_attention"],
                             tie_word_embeddings=True,
                             rope_parameters=dict(rope_type="yarn", rope_theta=1e6, factor=8.0, original_max_position_embeddings=12,
                                                  mscale=1.5, mscale_all_dim=0.5), **shape(42, 3, 1, 38, 2)),
        "qwen3": Qwen3Config(head_dim=10, attention_bias=True, use_sliding_window=True, sliding_window=33, max_window_layers=0,
                             tie_word_embeddings=False, **shape(36, 4, 4, 46, 3)),
        "gemma2": Gemma2Config(head_dim=10, query_pre_attn_scalar=10, sliding_window=64, attn_logit_softcapping=None,
                               final_logit_softcapping=6.0, attention_bias=True, tie_word_embeddings=False,
                               layer_types=["full_attention", "sliding_attention", "sliding_attention"], **shape(36, 6, 3, 46, 3)),
        "gemma3": Gemma3TextConfig(head_dim=12, query_pre_attn_scalar=20, sliding_window=3, final_logit_softcapping=5.0,
                                   rope_theta=2e5, rope_local_base_freq=500.0, rope_scaling=dict(rope_type="linear", factor=4.0),
                                   tie_word_embeddings=True, **shape(36, 4, 2, 46, 6)),
    }


def drawn(config, seed):
    """A random model, weights drawn far from the usual initialisation, so that each of them matters to the result."""
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).float()
    assert model.config._attn_implementation == "eager", config.model_type
    with torch.no_grad():
        for key, p in model.named_parameters():
            ones = p.dim() == 1 and key.endswith("weight") and "gemma" not in config.model_type  # Gemma keeps gains less one
            std = 0.5 if expert_models.is_router(key) else 0.12 if p.dim() >= 2 else 0.1
            p.copy_(torch.randn(p.shape, generator=generator) * std + (1.0 if ones else 0.0))
    return model


def models(seed, vocab=V, odd=False):
    """(name, model)"""
    chosen = configurations(vocab) | (odd_configurations(vocab) if odd else {})
    for i, (name, config) in enumerate(chosen.items()):
        yield name, drawn(config, seed + i)


def loss_of(model, tokens, router_z=None):
    """(logits, cross-entropy, what is trained on: with experts, their routers' two losses too, and least distance of a choice from a tie)."""
    ids, targets = tokens[:, :-1].long(), tokens[:, 1:].reshape(-1).long()
    if not expert_models.has_experts(model):
        logits = model(input_ids=ids, use_cache=False).logits
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets)
        return logits, loss, loss, float("inf")
    logits, balance, z, gap = expert_models.forward(model, ids)
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets)
    return logits, loss, loss + model.router_aux_loss_coef * balance + (expert_models.z_of(model) if router_z is None else router_z) * z, gap


def optimizer_of(model, hyper=HYPER):
    """AdamW; weight decay on matrices and embeddings only."""
    groups = [{"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": hyper["weight_decay"]},
              {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=hyper["lr"], betas=(hyper["beta1"], hyper["beta2"]), eps=hyper["eps"])


def train(model, batches, steps, hyper=HYPER, lr_of_step=None, router_z=None, gaps=None):
    """Losses of `steps` AdamW steps; step i takes batches[i mod n]. gaps: a list that receives each step's least distance from a tie of experts."""
    optimizer, losses = optimizer_of(model, hyper), []
    for step in range(steps):
        if lr_of_step:
            for group in optimizer.param_groups:
                group["lr"] = lr_of_step(step)
        optimizer.zero_grad()
        _, loss, objective, gap = loss_of(model, batches[step % len(batches)], router_z)
        if gaps is not None:
            gaps.append(gap)
        objective.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), hyper["clip"])
        optimizer.step()
        losses.append(loss.item())
    return losses


Z_LOSS, Z_LOSS_OF = 1e-2, ("llama-tied", "gemma2")  # the second caps its logits; a coefficient large enough to be seen


def z_loss_gradients(name, model, tokens):
    """Gradients of the loss with a z-loss (Chowdhery et al. 2022, PaLM §5), and what it adds."""
    model.zero_grad()
    logits, loss, *_ = loss_of(model, tokens)
    z_loss = Z_LOSS * (logits.logsumexp(-1) ** 2).mean()
    (loss + z_loss).backward()
    found = {f"{name}.grad.{key}": p.grad.detach().clone() for key, p in model.named_parameters()}
    return found | {f"{name}.z_loss": z_loss.detach().reshape(1), f"{name}.coefficient": torch.tensor([Z_LOSS])}


def expectation(model, tokens):
    """What a test compares with, and how near a choice of experts came to a tie on the way. Leaves the model trained."""
    logits, loss, objective, gap = loss_of(model, tokens[0])
    objective.backward()
    expected = {"tokens": tokens, "logits": logits.detach().reshape(B * T, V), "loss": loss.detach().reshape(1)}
    named = expert_models.gradients(model) if expert_models.has_experts(model) else ((key, p.grad) for key, p in model.named_parameters())
    expected.update(("grad." + key, g.detach().clone()) for key, g in named)
    if expert_models.has_experts(model):
        _, balance, z, _ = expert_models.forward(model, tokens[0][:, :-1].long())
        expected["router"] = torch.stack([torch.tensor(expert_models.z_of(model)), balance.detach(), z.detach()])
    gaps = [gap]
    expected["losses"] = torch.tensor(train(model, tokens, STEPS, gaps=gaps))
    expected["hyper"] = torch.tensor([HYPER[k] for k in ("lr", "beta1", "beta2", "eps", "weight_decay", "clip")])
    return expected, min(gaps)


def whole_models(folder, seed, odd=False):
    said, z_losses = [], {}
    for name, model in models(seed, odd=odd):
        where = os.path.join(folder, name)
        start = {key: p.clone() for key, p in model.state_dict().items()}
        model.save_pretrained(where)
        os.remove(os.path.join(where, "generation_config.json"))
        generator = torch.Generator().manual_seed(seed)
        # Token frequencies fall, as in a language, so that there is something to learn.
        odds = 1.0 / torch.arange(1, V + 1).float()
        tokens = torch.multinomial(odds, BATCHES * B * (T + 1), replacement=True, generator=generator)
        tokens = tokens.reshape(BATCHES, B, T + 1).int()
        if name in Z_LOSS_OF:
            z_losses.update(z_loss_gradients(name, model, tokens[0]))
            model.zero_grad()
        expected, gap = expectation(model, tokens)
        while gap < expert_models.NEAREST_TIE:  # undecidable in f32: other tokens
            model.load_state_dict(start)
            tokens = torch.multinomial(odds, tokens.numel(), replacement=True, generator=generator).reshape(tokens.shape).int()
            model.zero_grad()
            expected, gap = expectation(model, tokens)
        save_file({k: v.contiguous() for k, v in expected.items()}, os.path.join(where, "expected.safetensors"))
        losses = expected["losses"]
        said.append(f"{name}: {sum(p.numel() for p in model.parameters())} parameters, loss {losses[0]:.3f} → {losses[-1]:.3f}")
    save_file(z_losses, os.path.join(folder, "zloss.safetensors"))
    return said


def write_all(folder, seed, odd=False):
    os.makedirs(folder, exist_ok=True)
    save_file(operators(seed), os.path.join(folder, "ops.safetensors"))
    save_file(make_optimizer_vectors.vectors(seed), os.path.join(folder, "optimizer.safetensors"))
    return whole_models(folder, 100 * seed, odd)


def main():
    default = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "vectors")
    parser = argparse.ArgumentParser(description="write the reference vectors of tests/vectors")
    parser.add_argument("--out", default=default)
    parser.add_argument("--seed", type=int, default=1, help="1 is the seed of the vectors that are kept")
    args = parser.parse_args()
    for line in write_all(args.out, args.seed):
        print(line)
    total = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(args.out) for f in fs)
    print(f"{os.path.normpath(args.out)}: {total / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
