"""llama.cpp's tokens a second as bench/bench_infer.c measures Trilith's: the same arbitrary ids, sessions begun anew, the
median of the trials.

    python tools/bench_llama.py MODEL.gguf [--threads N] [--prompt N] [--tokens N] [--trials N]

Needs llama-cpp-python. llama_decode is called as llama-bench calls it: a prompt in batches of 512, logits of the last
row; then one token at a time, the largest logit taken."""
import argparse
import ctypes
import time

import llama_cpp as ll

p = argparse.ArgumentParser()
p.add_argument("model")
p.add_argument("--threads", type=int, default=2)
p.add_argument("--prompt", type=int, default=512)
p.add_argument("--tokens", type=int, default=128)
p.add_argument("--trials", type=int, default=5)
o = p.parse_args()

quiet = ll.llama_log_callback(lambda level, text, user: None)
ll.llama_log_set(quiet, ctypes.c_void_p(0))
start = time.perf_counter()
ll.llama_backend_init()
model = ll.llama_model_load_from_file(o.model.encode(), ll.llama_model_default_params())
c = ll.llama_context_default_params()
c.n_ctx, c.n_batch, c.n_ubatch = o.prompt + o.tokens, 512, 512
c.n_threads = c.n_threads_batch = o.threads
ctx = ll.llama_init_from_model(model, c)
vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
ids = (ctypes.c_int32 * o.prompt)(*[i * 7919 % vocab for i in range(o.prompt)])


def decode(tokens, n):
    assert ll.llama_decode(ctx, ll.llama_batch_get_one(tokens, n)) == 0


def largest():
    import numpy as np

    z = ll.llama_get_logits_ith(ctx, -1)
    return int(np.argmax(np.ctypeslib.as_array(z, (vocab,))))


decode(ids, min(5, o.prompt))
largest()
first = time.perf_counter() - start
prefill, steps = [], []
for _ in range(o.trials):
    ll.llama_memory_clear(ll.llama_get_memory(ctx), True)
    t0 = time.perf_counter()
    for at in range(0, o.prompt, 512):
        n = min(512, o.prompt - at)
        decode((ctypes.c_int32 * n)(*ids[at : at + n]), n)
    token = (ctypes.c_int32 * 1)(largest())
    t1 = time.perf_counter()
    for _ in range(o.tokens - 1):
        decode(token, 1)
        token[0] = largest()
    prefill.append(o.prompt / (t1 - t0))
    steps.append((o.tokens - 1) / (time.perf_counter() - t1))
prefill.sort(), steps.sort()
m = o.trials // 2
print(
    f"{o.model} llama.cpp: prefill of {o.prompt} {prefill[m]:.0f} ({prefill[0]:.0f} to {prefill[-1]:.0f}), decode of "
    f"{o.tokens} {steps[m]:.1f} ({steps[0]:.1f} to {steps[-1]:.1f}) tokens/s, first token {first:.3f} s"
)
