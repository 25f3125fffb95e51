"""Reference vectors from PyTorch and transformers, for tests/kernels/test_vectors.c and tests/model/test_parity.c.

    tests/vectors/ops.safetensors             each operator of src/kernels/ops.h: inputs in f32, results computed in f64 and rounded once
    tests/vectors/<model>/config.json, model.safetensors       a tiny random model as transformers saves it
    tests/vectors/<model>/expected.safetensors                 its logits, every parameter's gradient and 50 AdamW losses, in f32

Everything is a function of the seeds below: a second run writes the same files (on the same versions of the libraries).
Run it by `./dev vectors`. tools/interop.py calls models() to make other models of the same kind, live.
"""

import argparse
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

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
    return c.tensors


# ---- whole models


def configurations(vocab=V):
    llama = dict(vocab_size=vocab, hidden_size=32, intermediate_size=40, max_position_embeddings=96, rms_norm_eps=1e-5,
                 bos_token_id=0, eos_token_id=0, attn_implementation="eager")
    gpt2 = dict(vocab_size=vocab, n_embd=32, n_head=4, n_positions=96, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0,
                embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="eager")
    return {
        "gpt2-tied": GPT2Config(n_layer=2, **gpt2),
        "gpt2-untied": GPT2Config(n_layer=1, n_inner=56, tie_word_embeddings=False, **gpt2),
        "llama-tied": LlamaConfig(num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
                                  tie_word_embeddings=True, **llama),
        "llama-gqa": LlamaConfig(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rope_theta=500000.0,
                                 tie_word_embeddings=False, **llama),
    }


def models(seed, vocab=V):
    """(name, model), weights drawn far from the usual initialisation, so that each of them matters to the result."""
    for i, (name, config) in enumerate(configurations(vocab).items()):
        generator = torch.Generator().manual_seed(seed + i)
        model = (GPT2LMHeadModel if config.model_type == "gpt2" else LlamaForCausalLM)(config).float()
        with torch.no_grad():
            for key, p in model.named_parameters():
                gain = p.dim() == 1 and key.endswith("weight")
                p.copy_(torch.randn(p.shape, generator=generator) * (0.12 if p.dim() == 2 else 0.1) + (1.0 if gain else 0.0))
        yield name, model


def loss_of(model, tokens):
    logits = model(input_ids=tokens[:, :-1].long(), use_cache=False).logits
    return logits, F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1).long())


def optimizer_of(model, hyper=HYPER):
    """AdamW; weight decay on matrices and embeddings only."""
    groups = [{"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": hyper["weight_decay"]},
              {"params": [p for p in model.parameters() if p.dim() != 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=hyper["lr"], betas=(hyper["beta1"], hyper["beta2"]), eps=hyper["eps"])


def train(model, batches, steps, hyper=HYPER, lr_of_step=None):
    """Losses of `steps` AdamW steps; step i takes batches[i mod n]."""
    optimizer, losses = optimizer_of(model, hyper), []
    for step in range(steps):
        if lr_of_step:
            for group in optimizer.param_groups:
                group["lr"] = lr_of_step(step)
        optimizer.zero_grad()
        _, loss = loss_of(model, batches[step % len(batches)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), hyper["clip"])
        optimizer.step()
        losses.append(loss.item())
    return losses


def whole_models(folder, seed):
    said = []
    for name, model in models(seed):
        where = os.path.join(folder, name)
        model.save_pretrained(where)
        os.remove(os.path.join(where, "generation_config.json"))
        generator = torch.Generator().manual_seed(seed)
        # Token frequencies fall, as in a language, so that there is something to learn.
        odds = 1.0 / torch.arange(1, V + 1).float()
        tokens = torch.multinomial(odds, BATCHES * B * (T + 1), replacement=True, generator=generator)
        tokens = tokens.reshape(BATCHES, B, T + 1).int()
        logits, loss = loss_of(model, tokens[0])
        loss.backward()
        expected = {"tokens": tokens, "logits": logits.detach().reshape(B * T, V), "loss": loss.detach().reshape(1)}
        for key, p in model.named_parameters():
            expected["grad." + key] = p.grad.detach().clone()
        expected["losses"] = torch.tensor(train(model, tokens, STEPS))
        expected["hyper"] = torch.tensor([HYPER[k] for k in ("lr", "beta1", "beta2", "eps", "weight_decay", "clip")])
        save_file({k: v.contiguous() for k, v in expected.items()}, os.path.join(where, "expected.safetensors"))
        losses = expected["losses"]
        said.append(f"{name}: {sum(p.numel() for p in model.parameters())} parameters, loss {losses[0]:.3f} → {losses[-1]:.3f}")
    return said


def write_all(folder, seed):
    os.makedirs(folder, exist_ok=True)
    save_file(operators(seed), os.path.join(folder, "ops.safetensors"))
    return whole_models(folder, 100 * seed)


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
