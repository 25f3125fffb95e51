"""PyTorch's optimizers: vectors for tests/kernels/test_muon.c (tests/vectors/optimizer.safetensors), and whole runs for tools/interop.py.

torch.optim.Muon itself makes them, in f64. Its Newton–Schulz rounds to bf16 whatever it is given, so that one function is replaced by the same
polynomial in the gradient's own type; momentum, decay and the rate's factor stay PyTorch's. What bf16 leaves of agreement between the two is
checked here, each time.
"""

import re

import torch
from torch.optim import _muon

COEFFICIENTS = (_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C)
HYPER = dict(lr=0.02, weight_decay=0.1, momentum=0.95)
CLIP = 0.5  # every gradient is shrunk, as clipping does
STEPS = 3
in_bf16 = _muon._zeropower_via_newtonschulz


def newton_schulz(gradient, coefficients=COEFFICIENTS, steps=5, eps=1e-7):
    """X ← (a·I + b·A + c·A²)·X with A = X·Xᵀ, in the type of `gradient`."""
    a, b, c = coefficients
    x = gradient.T if gradient.shape[0] > gradient.shape[1] else gradient
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if gradient.shape[0] > gradient.shape[1] else x


def muon(params, lr, weight_decay, momentum):
    """torch.optim.Muon with the rate matched to AdamW's and Newton–Schulz in the parameters' type."""
    _muon._zeropower_via_newtonschulz = newton_schulz
    return torch.optim.Muon(params, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=True, adjust_lr_fn="match_rms_adamw")


def gain(singular_values, steps=5):
    """How much Newton–Schulz enlarges a small error of its input, at worst over these singular values: |p'| along the iterations, and for errors
    that turn the singular vectors the divided difference of p, which is bounded by its slope at zero."""
    a, b, c = COEFFICIENTS
    s, worst = singular_values.clone(), torch.ones_like(singular_values)
    for _ in range(steps):
        slope = (a + 3 * b * s**2 + 5 * c * s**4).abs()
        quotient = (a + b * s**2 + c * s**4).abs()
        worst = worst * torch.maximum(slope, quotient)
        s = a * s + b * s**3 + c * s**5
    return worst.max().item()


def check_bf16(generator):
    """PyTorch's own function on a matrix whose singular values are all alike, where bf16 leaves most: each of its five iterations makes an error of
    three products rounded to bf16 (2^-9 of their largest), enlarged by what follows; 8 singular values from 0.8 to 1."""
    q, _ = torch.linalg.qr(torch.randn(24, 8, dtype=torch.float64, generator=generator))
    r, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=generator))
    values = torch.linspace(0.8, 1.0, 8, dtype=torch.float64)
    x = q @ torch.diag(values) @ r
    ours, theirs = newton_schulz(x), in_bf16(x, COEFFICIENTS, 5, 1e-7).double()
    distance = torch.linalg.matrix_norm(ours - theirs, 2).item()
    tolerance = 3 * 2**-9 * gain(values / values.norm())
    assert distance <= tolerance, f"PyTorch's Newton–Schulz is {distance:.3f} away, beyond {tolerance:.3f}"
    wrong = torch.linalg.matrix_norm(newton_schulz(x, steps=4) - theirs, 2).item()
    assert wrong > tolerance, f"one step fewer would pass: {wrong:.3f} within {tolerance:.3f}"
    return distance, tolerance


def vectors(seed):
    generator = torch.Generator().manual_seed(seed)
    check_bf16(generator)
    tensors = {"muon.hyper": torch.tensor([HYPER["lr"], HYPER["weight_decay"], HYPER["momentum"], CLIP])}
    # Wide, tall, square; the wide one's sums cross the product's block of 256.
    for name, rows, cols in (("wide", 12, 270), ("tall", 40, 17), ("square", 24, 24)):
        w = (torch.randn(rows, cols, generator=generator) * 0.1).float()
        g = torch.randn(STEPS, rows, cols, generator=generator).float()
        tensors[f"muon.{name}.w"], tensors[f"muon.{name}.g"] = w, g
        p = w.double().requires_grad_()
        optimizer = muon([p], **HYPER)
        for step in range(STEPS):
            p.grad = CLIP * g[step].double()
            optimizer.step()
        tensors[f"muon.{name}.w_after"] = p.detach().float()
        tensors[f"muon.{name}.m_after"] = optimizer.state[p]["momentum_buffer"].float()
    assert all(torch.isfinite(t).all() for t in tensors.values())
    return {k: v.contiguous() for k, v in tensors.items()}


# ---- whole models


def parts_of(model):
    """The matrices of the layers: (parameter, which part of it, leaf); GPT-2's fused c_attn as its three, experts one by one, their gate and up apart."""
    for name, p in model.named_parameters():
        if p.dim() < 2 or not re.search(r"\.(layers|h)\.\d+\.", name):
            continue
        if p.dim() == 3:
            height = p.shape[1] // 2 if name.endswith("gate_up_proj") else p.shape[1]
            parts = [(e, slice(first, first + height)) for e in range(p.shape[0]) for first in range(0, p.shape[1], height)]
        else:
            width = p.shape[1] // 3 if name.endswith("c_attn.weight") else p.shape[1]
            parts = [(slice(None), slice(first, first + width)) for first in range(0, p.shape[1], width)]
        for part in parts:
            yield p, part, p.detach()[part].clone()


def train(model, batches, steps, hyper, loss_of, lr_of_step, router_z=None, gaps=None):
    """Losses of `steps` steps with Muon on the matrices of the layers and AdamW on the rest; step i takes batches[i mod n]."""
    parts = list(parts_of(model))
    taken = {id(p) for p, _, _ in parts}
    rest = [p for p in model.parameters() if id(p) not in taken]
    matrices = muon([leaf for _, _, leaf in parts], hyper["lr"], hyper["weight_decay"], hyper["muon_momentum"])
    groups = [{"params": [p for p in rest if p.dim() == 2], "weight_decay": hyper["weight_decay"]},
              {"params": [p for p in rest if p.dim() != 2], "weight_decay": 0.0}]
    others = torch.optim.AdamW(groups, lr=hyper["lr"], betas=(hyper["beta1"], hyper["beta2"]), eps=hyper["eps"])
    losses = []
    for step in range(steps):
        for group in matrices.param_groups + others.param_groups:
            group["lr"] = lr_of_step(step)
        model.zero_grad()
        _, loss, objective, gap = loss_of(model, batches[step % len(batches)], router_z)
        if gaps is not None:
            gaps.append(gap)
        objective.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), hyper["clip"])
        for p, part, leaf in parts:
            leaf.grad = p.grad[part].clone()
        matrices.step()
        with torch.no_grad():
            for p, part, leaf in parts:
                p[part] = leaf
        others.step()
        losses.append(loss.item())
    return losses
