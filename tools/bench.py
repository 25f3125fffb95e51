"""Trilith and its peers, measured in turn in one run on one machine; writes docs/benchmarks.md.

    bench.py --trilith build/trilith [--only WORD …] [--pairs N] [--steps N] [--llmc DIR] [--llama PYTHON] [--llama-server FILE] [--serve-models FILE …]
             [--threads N] [--quick]

A pair is one turn of Trilith and one of the peer, on the same model, batch, tokens and threads. Each turn's figure is the median over its steps; a
pair's figure is the ratio of the two; the table gives the geometric mean of the ratios with a 95 % interval (Student's t on their logarithms).
Pairs go on from --pairs to twenty where the two are within 30 % of each other; three do where one is twice the other. Nothing else should run on the machine meanwhile.

Sections (for --only): gpt2-t64, gpt2-t256, nano, moe, moe-t64, start, gemm, inference, avx2-inference, serve, tokenizer, the first five in bf16 (bf16-gpt2-t64, …), bf16-gemm, ranks, bf16-ranks, checkpoint, and waterfall. A section
measured alone replaces its part of the page and leaves the others as they were, each with its own date and machine.
"""

import argparse
import datetime
import json
import math
import os
import platform
import re
import shutil
import statistics
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time

from bench_page import AVX2, BF16, DECODE, PREFILL, TITLES, gib, page, ratio_of, ratio_text

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

SHAPES = {  # V, L, H, C, positions; nano's V is that of the bytes tokenizer
    "gpt2-124m": (50257, 12, 12, 768, 1024),
    "nano": (257, 6, 6, 384, 256),
}
MIXTRAL = {  # the preset moe-50m, for transformers
    "moe-50m": dict(vocab_size=257, hidden_size=384, intermediate_size=832, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6, head_dim=64,
                    num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=1024, rms_norm_eps=1e-5, rope_theta=10000.0, router_aux_loss_coef=0.01,
                    tie_word_embeddings=True),
}
COLUMNS = {  # section → preset, batch, sequence, measured steps a turn
    "gpt2-t64": ("gpt2-124m", 4, 64, 8),
    "gpt2-t256": ("gpt2-124m", 4, 256, 4),
    "nano": ("nano", 64, 256, 3),
    "moe": ("moe-50m", 16, 256, 4),
    "moe-t64": ("moe-50m", 4, 64, 8),
}
SECTIONS = [*COLUMNS, "start", "gemm", "inference", AVX2 + "inference", "serve", "tokenizer", *(BF16 + c for c in COLUMNS), BF16 + "gemm", "ranks", BF16 + "ranks", "checkpoint", "waterfall"]
RUN = "RUN"  # for the folder of a run, in the commands that are shown
WARM = 2  # steps left out at the beginning of a turn


# ---- turns in pairs


def take_pairs(ours, theirs, least, most):
    """[(a, b)]: alternately, the first turn changing sides; goes on to `most` while within 30 % of each other, and ends after three where all
    are beyond a factor of two."""
    pairs = []

    def wanted():
        if len(pairs) >= 3 and all(not 0.5 < a / b < 2 for a, b in pairs):
            return False
        return len(pairs) < least or (len(pairs) < most and 0.77 < ratio_of(pairs)[0] < 1.3)

    while wanted():
        if len(pairs) % 2:
            b = theirs()
            a = ours()
        else:
            a = ours()
            b = theirs()
        pairs.append((a, b))
    return pairs


# ---- turns


class Bench:
    def __init__(self, args, work):
        self.args, self.work, self.commands = args, work, {}
        self.trilith = os.path.abspath(args.trilith)
        self.runs = 0
        self.data = os.path.join(work, "text.txt")
        with open(self.data, "w", encoding="utf-8") as f:
            f.write(text_of_a_megabyte())

    def note(self, section, command):
        """Remember how a figure was made, as a reader would type it."""
        line = " ".join(map(str, command)).replace(self.trilith, "trilith").replace(self.work + "/", "").replace(HERE, "tools").replace(sys.executable, "python").replace(sysconfig.get_path("purelib") + "/", "")
        if line not in self.commands.setdefault(section, []):
            self.commands[section].append(line)

    def trilith_command(self, preset, batch, seq, steps, out, bf16=False, threads=None):
        # No validation and no samples; the checkpoint comes after the last step and so is in no figure.
        return [self.trilith, "train", "--data", self.data, "--out", out, "--model", preset, "--tokenizer", "bytes", "--batch", batch, "--seq", seq,
                "--steps", steps, "--threads", threads or self.args.threads, "--val-fraction", 0, "--sample-tokens", 0, "--quiet"] + (["--dtype", "bf16"] if bf16 else [])

    def out_folder(self):
        self.runs += 1
        return os.path.join(self.work, f"run-{self.runs}")

    def trilith_turn(self, section, preset, batch, seq, steps, facts, ranks=1, more=()):
        """Median tokens/s of a short run; peak memory and MFU go into facts, and of several ranks what plan.json says."""
        out = self.out_folder()
        command = self.trilith_command(preset, batch, seq, steps + WARM, out, section.startswith(BF16), 1 if ranks > 1 else None) + list(more)
        command = (["mpirun", "-quiet", "-n", ranks] if ranks > 1 else []) + command
        self.note(section, [RUN if c == out else c for c in command])
        peak = run_measured(command, os.path.join(self.work, "log"))[0]
        with open(os.path.join(out, "metrics.jsonl")) as f:
            rows = [json.loads(line) for line in f][WARM:]
        with open(os.path.join(out, "plan.json")) as f:
            facts["plan"] = json.load(f)
        shutil.rmtree(out)
        facts["peak_bytes"] = max(peak, facts.get("peak_bytes", 0))
        if all(row.get("mfu") for row in rows):
            facts.setdefault("mfu", []).append(statistics.median(row["mfu"] for row in rows))
        return statistics.median(row["tokens_per_second"] for row in rows)

    def torch_command(self, preset, batch, seq, compiled, experts=None, bf16=False, ranks=1, parallel=None):
        model = ["--mixtral", preset, "--experts", experts] if experts else ["--shape", ",".join(map(str, SHAPES[preset]))]
        return [sys.executable, os.path.join(HERE, "bench_torch.py"), *model, "--batch", str(batch),
                "--seq", str(seq), "--threads", str(1 if ranks > 1 else self.args.threads), "--data", self.data] + (["--ranks", str(ranks), "--parallel", parallel] if ranks > 1 else []) + (["--compile"] if compiled else []) + (["--bf16"] if bf16 else [])

    def torch_environment(self):
        return dict(os.environ, OMP_NUM_THREADS=str(self.args.threads), TORCHINDUCTOR_CACHE_DIR=tempfile.mkdtemp(dir=self.work))


class TorchWorker:
    """bench_torch.py kept alive between turns, so that compiling is paid once and counted nowhere."""

    def __init__(self, bench, section, preset, batch, seq, compiled, experts=None, **ranks):
        self.command = bench.torch_command(preset, batch, seq, compiled, experts, section.startswith(BF16), **ranks)
        bench.note(section, self.command)
        self.tokens = batch * seq
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(os.path.join(bench.work, "torch.log"), "ab"),
                                        text=True, env=dict(bench.torch_environment(), **({"OMP_NUM_THREADS": "1"} if ranks else {})))
        self.peak_bytes = self.read()["peak_bytes"]
        self.turn(WARM)

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: {' '.join(self.command)} ended with {self.process.wait()}")
        return json.loads(line)

    def turn(self, steps):
        self.process.stdin.write(f"steps {steps}\n")
        self.process.stdin.flush()
        said = self.read()
        self.peak_bytes = said["peak_bytes"]
        return self.tokens / statistics.median(said["seconds"])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def run_measured(command, log):
    """Run to the end: (peak resident bytes, seconds). Refuses a failure with what the program said."""
    began = time.perf_counter()
    with open(log, "wb") as f:
        process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=f, stderr=f)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        with open(log, errors="replace") as f:
            raise SystemExit(f"bench: {' '.join(map(str, command))} ended with {process.returncode}:\n{f.read()[-2000:]}")
    return usage.ru_maxrss * 1024, time.perf_counter() - began


def text_of_a_megabyte():
    """English that is wherever Python is."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[key] for key in sorted(topics))
    return (text * (1 + (1 << 20) // len(text)))[: 1 << 20].encode("ascii", "replace").decode()


# ---- llm.c, from a checkout that the user has


class LlmC:
    """karpathy/llm.c's train_gpt2.c: a copy with B, T and the number of steps set, validation and sampling left out, built as its Makefile does
    (gcc, -Ofast -march=native -fopenmp); the model file holds random weights."""

    def __init__(self, bench, section, preset, batch, seq, steps):
        self.folder = os.path.join(bench.work, f"llmc-{section}")
        self.threads, self.tokens, self.steps, self.peak_bytes = bench.args.threads, batch * seq, steps, 0
        shutil.copytree(bench.args.llmc, self.folder, ignore=shutil.ignore_patterns(".git", "*.bin"))
        with open(os.path.join(self.folder, "train_gpt2.c")) as f:
            source = f.read()
        for old, new in (("int B = 4;", f"int B = {batch};"), ("int T = 64;", f"int T = {seq};"), ("step <= 40", f"step < {steps + WARM}"),
                         ("if (step % 10 == 0) {", "if (0) {"), ("if (step > 0 && step % 20 == 0) {", "if (0) {"),
                         ('printf("step %d: train loss', 'fflush(stdout); printf("step %d: train loss')):
            if old not in source:
                raise SystemExit(f"bench: {bench.args.llmc}/train_gpt2.c has no '{old}'; this is not the llm.c that bench.py knows how to set up")
            source = source.replace(old, new)
        with open(os.path.join(self.folder, "train_gpt2.c"), "w") as f:
            f.write(source)
        build = ["gcc", "-Ofast", "-march=native", "-fopenmp", "-DOMP", "-Wno-unused-result", "-Wno-unknown-pragmas", "train_gpt2.c", "-lm", "-o", "train_gpt2"]
        subprocess.run(build, cwd=self.folder, check=True)
        bench.note(section, [f"OMP_NUM_THREADS={self.threads} ./train_gpt2", f"(llm.c, {' '.join(build[:4])}, B = {batch}, T = {seq})"])
        self.write_model(*SHAPES[preset])
        data = os.path.join(self.folder, "dev", "data", "tinyshakespeare")
        os.makedirs(data, exist_ok=True)
        with open(bench.data, "rb") as f:
            ids = f.read()
        for name in ("train", "val"):
            with open(os.path.join(data, f"tiny_shakespeare_{name}.bin"), "wb") as f:
                f.write(struct.pack("<256i", 20240520, 1, len(ids), *[0] * 253) + b"".join(struct.pack("<H", b) for b in ids))

    def write_model(self, V, L, H, C, positions):
        import numpy as np

        padded = -(-V // 128) * 128
        sizes = [(padded * C, 0), (positions * C, 0), (L * C, 1), (L * C, 0), (L * 3 * C * C, 0), (L * 3 * C, 0), (L * C * C, 0), (L * C, 0), (L * C, 1),
                 (L * C, 0), (L * 4 * C * C, 0), (L * 4 * C, 0), (L * 4 * C * C, 0), (L * C, 0), (C, 1), (C, 0)]
        random = np.random.default_rng(0)
        with open(os.path.join(self.folder, "gpt2_124M.bin"), "wb") as f:
            f.write(struct.pack("<256i", 20240326, 3, positions, V, L, H, C, padded, *[0] * 248))
            for count, mean in sizes:
                f.write((random.standard_normal(count, dtype=np.float32) * np.float32(0.02) + np.float32(mean)).tobytes())

    def environment(self):
        return dict(os.environ, OMP_NUM_THREADS=str(self.threads))

    def turn(self, _=None):
        with open(os.path.join(self.folder, "log"), "w+b") as log:
            process = subprocess.Popen(["./train_gpt2"], cwd=self.folder, stdout=log, stderr=log, env=self.environment())
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            text = log.read().decode(errors="replace")
        if process.returncode:
            raise SystemExit(f"bench: llm.c ended with {process.returncode}: {text[-1000:]}")
        self.peak_bytes = max(self.peak_bytes, usage.ru_maxrss * 1024)
        took = [float(x) / 1000 for x in re.findall(r"took ([0-9.]+) ms", text)][WARM:]
        return self.tokens / statistics.median(took)

    def first_step(self):
        """Seconds from start to its first line about a step."""
        began = time.perf_counter()
        process = subprocess.Popen(["stdbuf", "-oL", "./train_gpt2"], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self.environment())
        for line in process.stdout:
            if line.startswith(b"step 0"):
                took = time.perf_counter() - began
                break
        else:
            raise SystemExit("bench: llm.c did no step")
        process.kill()
        process.wait()
        return took

    def close(self):
        shutil.rmtree(self.folder)


# ---- sections


def throughput(bench, section):
    bf16 = section.startswith(BF16)
    preset, batch, seq, steps = COLUMNS[section.removeprefix(BF16)]
    steps = bench.args.steps or steps
    facts, peers = {}, []
    ours = lambda: bench.trilith_turn(section, preset, batch, seq, steps, facts)
    mode = "autocast bf16, " if bf16 else ""
    kinds = [(f"PyTorch {mode}eager", lambda: TorchWorker(bench, section, preset, batch, seq, False)),
             (f"PyTorch {mode}torch.compile", lambda: TorchWorker(bench, section, preset, batch, seq, True))]
    if preset in MIXTRAL:
        kinds = [(f"transformers, {mode}experts {form}", lambda form=form: TorchWorker(bench, section, preset, batch, seq, False, form)) for form in ("eager", "grouped_mm")]
    elif bench.args.llmc and not bf16:
        kinds.append(("llm.c", lambda: LlmC(bench, section, preset, batch, seq, steps)))
    figures = []
    for name, open_peer in kinds:
        peer = open_peer()
        pairs = take_pairs(ours, lambda: peer.turn(steps), bench.args.pairs, bench.args.most_pairs)
        figures += [a for a, _ in pairs]
        peers.append(dict(name=name, tokens_per_second=statistics.median(b for _, b in pairs), peak_bytes=peer.peak_bytes, pairs=pairs))
        peer.close()
        print(f"{section}: {name} {peers[-1]['tokens_per_second']:.0f} tokens/s, Trilith {statistics.median(figures):.0f}", flush=True)
    return dict(tokens_per_second=statistics.median(figures), peak_bytes=facts["peak_bytes"], mfu=statistics.median(facts["mfu"]) if facts.get("mfu") else None,
                peers=peers, steps=steps)


def start(bench):
    """From starting the process to the end of the first optimizer step, nano B4 T64."""
    preset, batch, seq = "nano", 4, 64

    def ours():
        out = bench.out_folder()
        command = bench.trilith_command(preset, batch, seq, 3, out)
        bench.note("start", command[:5] + ["RUN"] + command[6:])
        metrics = os.path.join(out, "metrics.jsonl")
        with open(os.path.join(bench.work, "log"), "wb") as log:
            began = time.perf_counter()
            process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            while process.poll() is None and not (os.path.exists(metrics) and os.path.getsize(metrics)):
                time.sleep(0.001)
            took = time.perf_counter() - began
            process.wait()
        with open(metrics) as f:
            rows = [json.loads(line) for line in f]
        step_seconds.append(rows[0]["seconds"]["wall"])
        shutil.rmtree(out)
        return took

    def torch_first(compiled):
        command = bench.torch_command(preset, batch, seq, compiled)
        bench.note("start", command)
        environment = bench.torch_environment()  # a cold compile cache each time
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        process.stdout.readline()
        took = time.perf_counter() - began
        process.stdin.close()
        process.wait()
        return took

    step_seconds, figures, peers = [], [], []
    kinds = [("PyTorch eager", lambda: torch_first(False), bench.args.pairs), ("PyTorch torch.compile", lambda: torch_first(True), min(3, bench.args.pairs))]
    llmc = LlmC(bench, "start", preset, batch, seq, 1) if bench.args.llmc else None
    if llmc:
        kinds.append(("llm.c", llmc.first_step, bench.args.pairs))
    for name, theirs, count in kinds:
        pairs = take_pairs(ours, theirs, count, bench.args.most_pairs)
        figures += [a for a, _ in pairs]
        peers.append(dict(name=name, seconds=statistics.median(b for _, b in pairs), pairs=pairs))
        print(f"start: {name} {peers[-1]['seconds']:.2f} s, Trilith {statistics.median(figures):.3f} s", flush=True)
    if llmc:
        llmc.close()
    return dict(seconds=statistics.median(figures), step_seconds=statistics.median(step_seconds), peers=peers)


def gemm(bench, section):
    """GFLOP/s of the products of a GPT-2 124M step, B4 T256, forward and backward, through `trilith bench` and torch.mm. In bf16 torch.mm is
    given bf16 matrices and writes one, whose rounding its caller has paid elsewhere; Trilith's reads f32, rounds as it packs and writes f32."""
    import torch

    bf16 = section.startswith(BF16)
    dtype = torch.bfloat16 if bf16 else torch.float32

    torch.set_num_threads(bench.args.threads)
    command = [bench.trilith, "bench", "--only", "qkv", "attention out", "mlp", "logits", "--batch", 4, "--seq", 256, "--seconds", 0.1 if bench.args.quick else 0.5,
               "--threads", bench.args.threads, "--json"] + (["--dtype", "bf16"] if bf16 else [])
    bench.note(section, command)
    shapes = {}

    def ours():
        said = json.loads(subprocess.run([str(c) for c in command], capture_output=True, check=True, text=True).stdout)
        products = [o for o in said["operators"] if len(o["shape"]) == 3]
        shapes.update((o["name"], o["shape"]) for o in products)
        return {o["name"]: 2e-9 * math.prod(o["shape"]) / o["median_seconds"] for o in products}

    def theirs():
        out = {}
        for name, (M, N, K) in shapes.items():
            # The layouts of the three products of a layer: y = x·Wᵀ, dx = dy·W, dW = dyᵀ·x.
            if name.endswith(" dx"):
                a, b = torch.randn(M, K).to(dtype), torch.randn(K, N).to(dtype)
            elif name.endswith(" dW"):
                a, b = torch.randn(K, M).to(dtype).T, torch.randn(K, N).to(dtype)
            else:
                a, b = torch.randn(M, K).to(dtype), torch.randn(N, K).to(dtype).T
            y, seconds, began = torch.empty(M, N, dtype=dtype), [], time.perf_counter()
            while len(seconds) < WARM + 3 or time.perf_counter() - began < (0.1 if bench.args.quick else 0.5):
                begin = time.perf_counter()
                torch.mm(a, b, out=y)
                seconds.append(time.perf_counter() - begin)
            out[name] = 2e-9 * M * N * K / statistics.median(seconds[WARM:])
        return out

    turns = []
    for _ in range(bench.args.pairs):
        a = ours()
        turns.append((a, theirs()))
    rows = [dict(name=name, shape=shape, pairs=[(a[name], b[name]) for a, b in turns]) for name, shape in shapes.items()]
    for row in rows:
        row.update(ours=statistics.median(a for a, _ in row["pairs"]), theirs=statistics.median(b for _, b in row["pairs"]))
        print(f"{section} {row['name']}: Trilith {row['ours']:.0f}, PyTorch {row['theirs']:.0f} GFLOP/s", flush=True)
    return dict(rows=rows)


def tokenizer(bench):
    """Training an 8,192-token byte-level BPE: MB of text a second, reading the file included."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    text, about = tokenizer_text(bench)
    path = os.path.join(bench.work, "tokenizer-text.txt")
    with open(path, "wb") as f:
        f.write(text)
    pattern = {}

    def ours():
        out = bench.out_folder()
        command = [bench.trilith, "tokenizer", "train", "--data", path, "--vocab", 8192, "--out", out, "--threads", bench.args.threads]
        bench.note("tokenizer", command[:8] + ["OUT"] + command[9:])
        seconds = run_measured(command, os.path.join(bench.work, "log"))[1]
        pattern["file"] = Tokenizer.from_file(os.path.join(out, "tokenizer.json"))
        shutil.rmtree(out)
        return len(text) / 1e6 / seconds

    def with_tokenizers():
        other = Tokenizer(models.BPE())
        other.pre_tokenizer = pattern["file"].pre_tokenizer
        begin = time.perf_counter()
        with open(path, encoding="utf-8") as f:
            whole = f.read()
        # Pieces of a megabyte, ended at a line, so that its threads have work: documents of their own, as a user would feed it.
        pieces = [p for p in re.findall(r"(?s).{1,1000000}(?:\n|$)", whole)]
        other.train_from_iterator(pieces, trainers.BpeTrainer(vocab_size=8192, special_tokens=["<|endoftext|>"], show_progress=False,
                                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        return len(text) / 1e6 / (time.perf_counter() - begin)

    os.environ["RAYON_NUM_THREADS"] = str(bench.args.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    kinds = [("tokenizers", with_tokenizers)]
    try:
        import rustbpe

        def with_rustbpe():
            begin = time.perf_counter()
            with open(path, encoding="utf-8") as f:
                whole = f.read()
            rustbpe.Tokenizer().train_from_iterator(iter(re.findall(r"(?s).{1,1000000}(?:\n|$)", whole)), 8192)
            return len(text) / 1e6 / (time.perf_counter() - begin)

        kinds.append(("rustbpe", with_rustbpe))
    except ImportError:
        pass
    peers, figures = [], []
    for name, theirs in kinds:
        pairs = take_pairs(ours, theirs, bench.args.pairs, bench.args.most_pairs)
        figures += [a for a, _ in pairs]
        peers.append(dict(name=name, mb_per_second=statistics.median(b for _, b in pairs), pairs=pairs))
        print(f"tokenizer: {name} {peers[-1]['mb_per_second']:.1f} MB/s, Trilith {statistics.median(figures):.1f}", flush=True)
    return dict(mb_per_second=statistics.median(figures), peers=peers, text=about)


INFERENCE = {  # row → the package that brings the GGUF file, and what llama.cpp's quantiser makes of it; None: as it is
    "SmolLM2-135M F32": ("smollm2", "F32"),
    "SmolLM2-135M F16": ("smollm2", "F16"),
    "SmolLM2-135M BF16": ("smollm2", "BF16"),
    "SmolLM2-135M Q8_0": ("smollm2", "Q8_0"),
    "SmolLM2-135M Q4_0": ("smollm2", "Q4_0"),
    "SmolLM2-135M Q4_1": ("smollm2", None),
    "SmolLM2-135M Q4_K_M": ("smollm2", "Q4_K_M"),
    "Gemma-3-270m Q4_K_M": ("gemma3", None),
}


class LlamaWorker:
    """bench_llama.py kept alive between turns."""

    def __init__(self, bench, section, path):
        self.command = [bench.args.llama, os.path.join(HERE, "bench_llama.py"), path, "--threads", str(bench.args.threads), "--positions", str(PREFILL + DECODE)]
        bench.note(section, self.command[1:])
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.opened = self.read()
        self.peak_bytes = 0

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: {' '.join(self.command)} ended with {self.process.wait()}")
        return json.loads(line)

    def turn(self, prefill, decode, repeat):
        self.process.stdin.write(f"turn {prefill} {decode} {repeat}\n")
        self.process.stdin.flush()
        said = self.read()
        self.peak_bytes = max(self.peak_bytes, said["peak_bytes"])
        return {k: statistics.median(said[k]) for k in ("prefill", "decode")}

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def model_file(bench, section, package, kind):
    """A small real model as a GGUF file, requantised by llama.cpp's own quantiser unless kind is None."""
    import real_models

    path = real_models.smollm2() if package == "smollm2" else real_models.gemma3(bench.work)
    if not kind:
        return path
    out = os.path.join(bench.work, f"{package}-{kind}.gguf")
    command = [bench.args.llama, os.path.join(HERE, "bench_llama.py"), path, "--quantise", kind, out]
    bench.note(section, command[1:])
    if not os.path.exists(out):
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return out


def inference(bench, section):
    """A prompt read and an answer written, beside llama.cpp on the same file; with AVX2 alone, both as on a machine that has no more."""
    if not bench.args.llama:
        print(f"bench: {section} is left out: it needs --llama PYTHON, one that has llama-cpp-python", file=sys.stderr)
        return None
    isa = isa_of(section)
    repeat, rows = 1 if bench.args.quick else 3, []
    for title, (package, kind) in INFERENCE.items():
        path = model_file(bench, section, package, kind)
        facts = dict(peak_bytes=0)
        command = [bench.trilith, "bench", "--model", path, "--prefill", PREFILL, "--decode", DECODE, "--repeat", repeat, "--threads", bench.args.threads, "--json"]
        bench.note(section, isa + command)

        def ours():
            log = os.path.join(bench.work, "log")
            facts["peak_bytes"] = max(facts["peak_bytes"], run_measured(["env", *isa, *command], log)[0])
            with open(log) as f:
                said = json.loads(f.read().splitlines()[-1])
            facts.setdefault("start", []).append(said["open_seconds"] + said["first_token_seconds"])
            return {k: said[k]["tokens_per_second"] for k in ("prefill", "decode")}

        peer, turns = LlamaWorker(bench, section, path), []
        if isa and any(more in peer.opened["system"] for more in ("AVX512", "AVX_VNNI")):
            peer.close()
            print(f"bench: {section} is left out: --llama's llama.cpp was built with more; CMAKE_ARGS='-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON' pip install llama-cpp-python", file=sys.stderr)
            return None
        for i in range(bench.args.pairs):
            if i % 2:
                b = peer.turn(PREFILL, DECODE, repeat)
                turns.append((ours(), b))
            else:
                a = ours()
                turns.append((a, peer.turn(PREFILL, DECODE, repeat)))
        peer.close()
        row = dict(title=title, bytes=os.path.getsize(path), start=statistics.median(facts["start"]), peak_bytes=facts["peak_bytes"], peer_peak_bytes=peer.peak_bytes)
        for k in ("prefill", "decode"):
            row[k] = dict(ours=statistics.median(a[k] for a, _ in turns), theirs=statistics.median(b[k] for _, b in turns), pairs=[(a[k], b[k]) for a, b in turns])
            print(f"{section}: {title} {k}: llama.cpp {row[k]['theirs']:.0f}, Trilith {row[k]['ours']:.0f} tokens/s, {ratio_text(row[k]['pairs'])}", flush=True)
        rows.append(row)
    return dict(rows=rows, peer=peer.opened["system"])


SERVED = ("SmolLM2-135M Q8_0", "SmolLM2-135M Q4_0", "SmolLM2-135M BF16", "Gemma-3-270m Q4_K_M")  # rows of INFERENCE
CROWDS = [(8, 0), (32, 0), (8, 1000)]  # clients, and tokens that all prompts begin with


def serve(bench):
    """A crowd of clients answered, beside llama-server on the same file."""
    import bench_serve

    args = bench.args
    if not args.llama_server or not (args.serve_models or args.llama):
        print("bench: serve is left out: it needs --llama-server FILE, and --serve-models FILE … or --llama PYTHON to make them", file=sys.stderr)
        return None
    models = [(os.path.basename(path), path) for path in args.serve_models or ()] or [(title, model_file(bench, "serve", *INFERENCE[title])) for title in SERVED]
    rows = []
    for title, path in models:
        for clients, shared in CROWDS[:1] if args.quick else CROWDS:
            turns = bench_serve.compare(bench.trilith, args.llama_server, path, clients, args.threads, 1 if args.quick else 4, min(args.pairs, 5), shared, bench.work,
                                        lambda line: print(f"serve: {line}", flush=True), lambda command: bench.note("serve", [os.path.basename(c) if c in (path, args.llama_server) else c for c in command]),
                                        more=("--kv-type", "f16"))  # as llama-server keeps them
            rows.append(dict(title=title, clients=clients, shared=shared, turns=turns))
    return dict(rows=rows, peer=bench_serve.llama_version(args.llama_server))


def waterfall(bench):
    """From the peak down to the model's FLOPs, sampled by perf (tools/waterfall.py)."""
    import waterfall as tool

    found = []
    for dtype in ("f32", "bf16"):
        for c in ("nano", "gpt2-t256"):
            preset, batch, seq, steps = COLUMNS[c]
            result = tool.measure(bench.trilith, bench.data, preset, batch, seq, 1 if bench.args.quick else steps, bench.args.threads, dtype)
            bench.note("waterfall", ["python", "tools/waterfall.py", "--data", "text.txt", "--model", preset, "--batch", batch, "--seq", seq, "--steps", steps, "--dtype", dtype])
            found.append(dict(result, title=f"{TITLES[c]}, {dtype}"))
            print(f"waterfall: {found[-1]['title']}: {100 * result['mfu']:.1f} % of the peak", flush=True)
    return dict(tables=found)


def ranks(bench, section):
    """Two ranks of one thread, each --shard: against one process of two threads, and against PyTorch's ways to share a step."""
    preset, batch, seq, steps = "gpt2-124m", 8, 256, bench.args.steps or 3
    if os.getuid() == 0:
        os.environ.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    alone, two, peers, figures, shards = {}, {}, [], [], []
    ours = lambda: bench.trilith_turn(section, preset, batch, seq, steps, two, 2)
    for name, parallel in (("one process of two threads", None), ("PyTorch DDP, gloo, 2 × 1 thread", "ddp"), ("the same with ZeroRedundancyOptimizer", "zero1")):
        peer = TorchWorker(bench, section, preset, batch, seq, False, ranks=2, parallel=parallel) if parallel else None
        theirs = (lambda: peer.turn(steps)) if peer else (lambda: bench.trilith_turn(section, preset, batch, seq, steps, alone))
        pairs = take_pairs(ours, theirs, bench.args.pairs, bench.args.most_pairs)
        figures += [a for a, _ in pairs]
        peers.append(dict(name=name, tokens_per_second=statistics.median(b for _, b in pairs), peak_bytes=peer.peak_bytes if peer else alone["peak_bytes"], pairs=pairs))
        if peer:
            peer.close()
        print(f"{section}: {name} {peers[-1]['tokens_per_second']:.0f} tokens/s, two ranks {statistics.median(figures):.0f}", flush=True)
    for shard in ("none", "zero1", "zero2", "zero3"):
        facts = {}
        speed = bench.trilith_turn(section, preset, batch, seq, steps, facts, 2, ["--shard", shard])
        predicted, happened = facts["plan"]["predicted"], facts["plan"]["happened"]
        shards.append(dict(shard=shard, tokens_per_second=speed, predicted_bytes=predicted["peak_bytes"], peak_bytes=happened["peak_bytes"],
                           exposed=happened["comm"]["exposed_seconds"], hidden=happened["comm"]["hidden_seconds"], step=happened["step_seconds"]))
        print(f"{section}: --shard {shard}: {speed:.0f} tokens/s, {gib(happened['peak_bytes'])}, predicted {gib(predicted['peak_bytes'])}", flush=True)
    return dict(tokens_per_second=statistics.median(figures), peak_bytes=two["peak_bytes"], peers=peers, shards=shards)


def checkpoint(bench):
    """GPT-2 124M with its moments, 1.5 GB, written behind short steps: how fast beside dd, and what the steps wait and lose."""
    preset, batch, seq = "gpt2-124m", 4, 64
    every, saves = 6, 1 if bench.args.quick else 4
    pairs, waits, losses, written = [], [], [], 0
    for _ in range(bench.args.pairs):
        out = bench.out_folder()
        command = bench.trilith_command(preset, batch, seq, every * (saves + 1), out) + ["--checkpoint-every", every, "--keep", 1]
        bench.note("checkpoint", [RUN if c == out else c for c in command])
        run_measured(command, os.path.join(bench.work, "log"))
        with open(os.path.join(out, "plan.json")) as f:
            did = json.load(f)["happened"]["checkpoints"]
        with open(os.path.join(out, "metrics.jsonl")) as f:
            wall = [json.loads(line)["seconds"]["wall"] for line in f]
        written = did["bytes"] / did["saves"]
        shutil.rmtree(out)
        # The save of step N goes on behind step N + 1 and those after it: what a round of steps takes beyond as many of its middle one.
        rounds = [wall[at : at + every] for at in range(every, len(wall), every)]
        loss = statistics.median(sum(r) - every * statistics.median(r) for r in rounds)
        seconds = did["write_seconds"] / did["saves"]
        waits.append(did["stalled_seconds"] / did["saves"] / seconds)
        losses.append(loss / seconds)
        target = os.path.join(bench.work, "dd")
        dd = ["dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={int(written) >> 20}", "conv=fsync"]
        bench.note("checkpoint", dd)
        took = run_measured(dd, os.path.join(bench.work, "log"))[1]
        os.unlink(target)
        pairs.append((written / seconds, (int(written) >> 20 << 20) / took))
        print(f"checkpoint: {pairs[-1][0] / 1e6:.0f} MB/s, dd {pairs[-1][1] / 1e6:.0f}; waited {100 * waits[-1]:.1f} % of it, steps longer by {100 * losses[-1]:.1f} %", flush=True)
    return dict(bytes=written, pairs=pairs, waits=waits, losses=losses)


def tokenizer_text(bench):
    import gzip

    if bench.args.data:
        with open(bench.args.data, "rb") as f:
            return f.read(), f"{os.path.basename(bench.args.data)}, {os.path.getsize(bench.args.data) / 1e6:.1f} MB"
    text, names = b"", []
    dictionary = "/usr/share/dictd/gcide.dict.dz"
    if os.path.exists(dictionary):
        with gzip.open(dictionary) as f:
            text += f.read().decode("utf-8", "replace").encode()
        names.append("GCIDE dictionary")
    if shutil.which("bible"):
        text += subprocess.run(["bible", "-f", "Gen1:1-Rev22:21"], capture_output=True, stdin=subprocess.DEVNULL).stdout.decode("utf-8", "replace").encode()
        names.append("King James Bible")
    if len(text) < 1 << 20:
        text, names = text_of_a_megabyte().encode(), ["Python's documentation"]
    if bench.args.quick:
        text = text[: 4 << 20]
    return text, f"{' and '.join(names)}, {len(text) / 1e6:.1f} MB"


# ---- where and with what it was measured


def isa_of(section):
    return ["TRILITH_ISA=avx2"] if section.startswith(AVX2) else []


def machine(args, isa):
    said = {}
    try:
        said = json.loads(subprocess.run(["env", *isa, args.trilith, "doctor", "--json"], capture_output=True, text=True, timeout=120).stdout).get("machine", {})
    except (ValueError, subprocess.TimeoutExpired):
        pass
    with open("/proc/cpuinfo") as f:
        cpu = re.search(r"model name\s*: (.*)", f.read())
    with open("/proc/meminfo") as f:
        memory = int(re.search(r"MemTotal:\s*(\d+)", f.read()).group(1)) * 1024
    rows = [(cpu.group(1) if cpu else platform.machine()).strip(), f"{args.threads} threads", f"{memory / 2**30:.0f} GiB"]
    for key, form, unit in (("f32_flops", "f32 {:.0f} GFLOP/s", 1e9), ("bf16_flops", "bf16 {:.0f} GFLOP/s", 1e9), ("int8_ops", "int8 {:.0f} Gop/s", 1e9),
                            ("read_bytes_per_second", "read {:.1f} GB/s", 1e9)):
        if said.get(key):
            rows.append(form.format(said[key] / unit))
    return ", ".join([*rows, f"{platform.system()} {platform.release()}", subprocess.run(["cc", "--version"], capture_output=True, text=True).stdout.splitlines()[0]])


def versions():
    from importlib.metadata import PackageNotFoundError, version

    out = []
    for name in ("torch", "transformers", "tokenizers", "rustbpe"):
        try:
            out.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            pass
    return out


def revision(folder):
    return subprocess.run(["git", "-C", folder, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description="measure Trilith and its peers in turn; write docs/benchmarks.md")
    parser.add_argument("--trilith", default=os.path.join(ROOT, "build", "trilith"))
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections alone")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of turns, at least (default 5)")
    parser.add_argument("--most-pairs", type=int, default=20, help="and at most, where the two are within 30 %% (default 20)")
    parser.add_argument("--steps", type=int, help="measured steps a turn (default: 8, 4 or 3 by section)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--llmc", metavar="DIR", help="a checkout of karpathy/llm.c, measured too")
    parser.add_argument("--llama", metavar="PYTHON", help="a Python that has llama-cpp-python, the peer in inference")
    parser.add_argument("--llama-server", metavar="FILE", help="llama.cpp's server, the peer in serving")
    parser.add_argument("--serve-models", metavar="FILE", nargs="+", help="GGUF files to serve, in place of those that --llama makes")
    parser.add_argument("--data", metavar="FILE", help="text for the tokenizer section")
    parser.add_argument("--out", default=os.path.join(ROOT, "docs", "benchmarks.md"))
    parser.add_argument("--quick", action="store_true", help="one short pair a section, to see that all works; figures mean nothing; writes to build/")
    args = parser.parse_args()
    if args.quick:
        args.pairs, args.most_pairs, args.steps = 1, 1, 1
        args.out = os.path.join(ROOT, "build", "bench-quick.md")
    busy = os.getloadavg()[0]
    if busy > 0.5 and not args.quick:
        print(f"bench: warning: the machine's load is {busy:.1f} already; figures want it idle", file=sys.stderr)
    results, old = {}, ""
    if os.path.exists(args.out):
        with open(args.out, encoding="utf-8") as f:
            old = f.read()
    with tempfile.TemporaryDirectory(prefix="trilith-bench-") as work:
        bench, machines = Bench(args, work), {}
        for section in args.only or SECTIONS:
            if section == "waterfall" and not shutil.which("perf"):
                print("bench: the waterfall is left out: it needs perf (Debian: linux-perf)", file=sys.stderr)
                continue
            isa = tuple(isa_of(section))
            if isa not in machines:  # before anything else has warmed it
                machines[isa] = machine(args, isa)
            plain = section.removeprefix(BF16)
            of_both_types = throughput if plain in COLUMNS else {"gemm": gemm, "ranks": ranks, "inference": inference}.get(plain.removeprefix(AVX2))
            result = of_both_types(bench, section) if of_both_types else globals()[section](bench)
            if result is None:
                continue
            result.update(date=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"), machine=machines[isa], commands=bench.commands.get(section, []), revision=revision(ROOT),
                          versions=[*versions(), *([f"llm.c {revision(args.llmc)}"] if args.llmc else [])])
            results[section] = result
            with open(args.out, "w", encoding="utf-8") as f:
                f.write(page(results, old))
    print(f"written: {os.path.relpath(args.out)}")


if __name__ == "__main__":
    main()
