"""What transformers leaves of random logits: settings, ids seen, logits and the ids that survive, for tests/infer/test_sampler.c.

    make_sampler_vectors.py [--seed N] >tests/vectors/sampler.txt

A line a case: temperature, top-k, top-p, min-p, typical-p, repetition, presence and frequency penalty; how many ids of the prompt and of the answer, then
those; V logits; V bits. Repetition and the cuts are transformers' own processors in the order of its generate; presence and frequency, which
it lacks, are OpenAI's formula. A case whose set hangs on rounding, or that leaves an id with less than 1 in 200, is drawn again.
"""

import argparse

import numpy as np
import torch
from transformers.generation import logits_process as lp

V, CASES, LEAST = 24, 160, 1 / 200


def steered(z, ids, n_prompt, repetition, presence, frequency):
    if repetition != 1:
        z = lp.RepetitionPenaltyLogitsProcessor(repetition)(torch.tensor([ids]), z)
    counts = torch.tensor(np.bincount(ids[n_prompt:], minlength=V), dtype=z.dtype)
    return z - (counts > 0) * presence - counts * frequency


def survivors(z, temperature, top_k, top_p, min_p, typical_p):
    cuts = [lp.TemperatureLogitsWarper(temperature)] if temperature != 1 else []
    cuts += [lp.TopKLogitsWarper(top_k)] if top_k else []
    cuts += [lp.TopPLogitsWarper(top_p)] if top_p < 1 else []
    cuts += [lp.MinPLogitsWarper(min_p)] if min_p else []
    cuts += [lp.TypicalLogitsWarper(typical_p)] if typical_p < 1 else []
    for cut in cuts:
        z = cut(None, z)
    return z


def draw(rng):
    pick = lambda *values: float(rng.choice(values))
    how = [round(pick(0.7, 1, 1.5), 2), int(pick(0, 0, 3, 12)), pick(1, 0.9, 0.5), pick(0, 0, 0.1, 0.4), pick(1, 0.9, 0.4),
           pick(1, 1.5, 0.8), pick(0, 0.5, -0.5), pick(0, 0.25, -0.25)]
    ids = rng.integers(0, V, 2 * int(rng.integers(1, 9))).tolist()
    n_prompt = len(ids) // 2
    logits = rng.normal(0, 1, V).astype(np.float32)
    z = steered(torch.tensor(logits)[None], ids, n_prompt, *how[5:])
    left = survivors(z, *how[:5])
    kept = torch.isfinite(left[0])
    sure = all(torch.equal(kept, torch.isfinite(survivors(z, how[0], how[1], *(x if x in (0, 1) else x * (1 + e) for x in how[2:5]))[0])) for e in (-1e-4, 1e-4))
    if not sure or left.softmax(-1)[0][kept].min() < LEAST:
        return None
    numbers = [f"{x:g}" for x in how] + [str(n_prompt), str(len(ids) - n_prompt)] + [str(i) for i in ids]
    return " ".join(numbers + [f"{x:.9g}" for x in logits] + [str(int(k)) for k in kept])


def main():
    ask = argparse.ArgumentParser()
    ask.add_argument("--seed", type=int, default=1)
    rng = np.random.default_rng(ask.parse_args().seed)
    made = 0
    while made < CASES:
        case = draw(rng)
        if case:
            print(case)
            made += 1


if __name__ == "__main__":
    main()
