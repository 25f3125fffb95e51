"""llama.cpp (llama-cpp-python) as bench.py's peer in inference: reads a GGUF file, then lines from standard input, one answer a line.

    bench_llama.py MODEL.gguf --threads N --positions N [--exact]
    bench_llama.py MODEL.gguf --quantise TYPE OUT.gguf      (by llama.cpp's own quantiser; no turns)

    turn PREFILL DECODE REPEAT  → {"prefill": [tokens/s …], "decode": [tokens/s …], "peak_bytes": N}
    score WINDOW                → reads token ids from the next line, answers {"logprobs": [...]}: of each token after the first of a window
    logits FILE                 → reads token ids from the next line, writes the logits of each, [tokens, vocabulary] of f32
    tokens                      → reads a text as JSON from the next line, answers {"ids": [...]}: names of special tokens are text, none is added

One repetition is a context begun anew: PREFILL tokens in one batch, the logits of the last alone, then DECODE tokens one by one, each the likeliest
after the one before: what `trilith bench --model` does. It calls libllama itself (llama_cpp.llama_*), so that no Python stands in a token's way but one
argmax by numpy. Physical batch and threads are set to what is asked; flash attention, KV type and all else stay as they come, but for --exact:
keys and values in f32, no flash attention, no weights repacked.
"""

import argparse
import ctypes
import json
import resource
import sys
import time

import llama_cpp as L
import numpy as np

TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q4_K_M": 15, "BF16": 32}  # llama.h, enum llama_ftype


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quantise", nargs=2, metavar=("TYPE", "OUT"))
    parser.add_argument("--positions", type=int, default=1024)
    parser.add_argument("--exact", action="store_true")
    args = parser.parse_args()
    quiet = L.llama_log_callback(lambda *_: None)
    L.llama_log_set(quiet, None)
    began = time.perf_counter()
    L.llama_backend_init()
    if args.quantise:
        params = L.llama_model_quantize_default_params()
        params.ftype, params.nthread, params.allow_requantize = TYPES[args.quantise[0]], args.threads, True
        if L.llama_model_quantize(args.model.encode(), args.quantise[1].encode(), ctypes.byref(params)):
            raise SystemExit(f"bench_llama: llama.cpp did not write {args.quantise[1]}")
        return
    how = L.llama_model_default_params()
    how.use_extra_bufts = not args.exact
    model = L.llama_model_load_from_file(args.model.encode(), how)
    if not model:
        raise SystemExit(f"bench_llama: llama.cpp does not load {args.model}")
    params = L.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = args.positions
    params.n_threads = params.n_threads_batch = args.threads
    if args.exact:
        params.type_k = params.type_v = 0  # ggml's number of F32
        params.flash_attn_type = 0  # none
    context = L.llama_init_from_model(model, params)
    memory = L.llama_get_memory(context)
    V = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))
    print(json.dumps(dict(open_seconds=time.perf_counter() - began, vocabulary=V, system=L.llama_print_system_info().decode())), flush=True)

    batch = L.llama_batch_init(args.positions, 0, 1)

    def decode(ids, first, all_logits=False):
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, first + i, 1, 0
            batch.logits[i] = all_logits or i == len(ids) - 1
        if L.llama_decode(context, batch):
            raise SystemExit("bench_llama: llama_decode failed")

    def row(i):
        return np.ctypeslib.as_array(L.llama_get_logits_ith(context, i), shape=(V,))

    def turn(prefill, steps, repeat):
        ids = [(i + 1) * 2654435761 % 2**32 % V for i in range(prefill)]
        out = dict(prefill=[], decode=[])
        for _ in range(repeat + 1):
            L.llama_memory_clear(memory, True)
            begin = time.perf_counter()
            decode(ids, 0)
            logits = row(-1)
            read = time.perf_counter()
            for i in range(steps):
                decode([int(logits.argmax())], prefill + i)
                logits = row(-1)
            end = time.perf_counter()
            out["prefill"].append(prefill / (read - begin))
            out["decode"].append(steps / (end - read))
        return {k: v[1:] for k, v in out.items()} | dict(peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def score(window, ids):
        out = []
        for first in range(0, len(ids), window):
            part = ids[first : first + window]
            L.llama_memory_clear(memory, True)
            decode(part, 0, all_logits=True)
            for i, token in enumerate(part[1:]):
                z = row(i).astype(np.float64)
                out.append(float(z[token] - z.max() - np.log(np.exp(z - z.max()).sum())))
        return dict(logprobs=out)

    def logits(path, ids):
        L.llama_memory_clear(memory, True)
        decode(ids, 0, all_logits=True)
        np.stack([row(i) for i in range(len(ids))]).tofile(path)
        return dict(rows=len(ids))

    def tokens(text):
        raw = text.encode()
        room = (L.llama_token * (len(raw) + 8))()
        n = L.llama_tokenize(L.llama_model_get_vocab(model), raw, len(raw), room, len(room), False, False)
        return dict(ids=list(room[:n]))

    for line in sys.stdin:
        word, *rest = line.split()
        if word == "turn":
            said = turn(*map(int, rest))
        else:
            given = json.loads(sys.stdin.readline())
            said = score(int(rest[0]), given) if word == "score" else logits(rest[0], given) if word == "logits" else tokens(given)
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
