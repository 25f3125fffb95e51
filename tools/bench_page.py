"""docs/benchmarks.md: what bench.py found in each section, as a table above the commands that give it again."""

import math
import re
import statistics

TITLES = {"gpt2-t64": "GPT-2 124M, B4 T64", "gpt2-t256": "GPT-2 124M, B4 T256", "nano": "nano 10.8M, B64 T256", "moe": "Mixture of 8 experts, top-2, 50M, B16 T256",
          "moe-t64": "Mixture of 8 experts, top-2, 50M, B4 T64"}
BF16 = "bf16-"  # before a section: the same in bf16, --dtype bf16 against autocast
AVX2 = "avx2-"  # before a section: the same with TRILITH_ISA=avx2, beside a peer that has no more
PREFILL, DECODE = 512, 64  # tokens of a repetition


# ---- ratios


def t_quantile(freedom):
    """Two-sided 95 %."""
    table = [12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093]
    return table[freedom - 1] if freedom <= len(table) else 1.96 + 2.4 / freedom


def ratio_of(pairs):
    """Geometric mean of ours/theirs and its interval (None with one pair)."""
    logs = [math.log(a / b) for a, b in pairs]
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(mean), None, None
    half = t_quantile(len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def ratio_text(pairs, inverse=False):
    mean, low, high = ratio_of([(b, a) for a, b in pairs] if inverse else pairs)
    return f"**{mean:.2f}×**" + (f" ({low:.2f}–{high:.2f}, {len(pairs)} pairs)" if low else " (1 pair)")


def gib(n):
    return f"{n / 1e9:.2f} GB"


GPT2 = "GPT-2's architecture on bytes of English text. PyTorch: fused attention, fused AdamW, no dropout, no clipping (`tools/bench_torch.py`); Trilith clips.\nThe mixture of experts: transformers' MixtralForCausalLM, both of its forms of the experts' products."
TRAINING = [
    ("", "## Training, f32", GPT2),
    (BF16, "## Training, bf16", GPT2 + "\nPyTorch under autocast to bfloat16, Trilith with `--dtype bf16`; weights, gradients and moments are f32 in both. MFU is of the bf16 peak."),
]
PRODUCTS = [
    ("gemm", "## Products, f32", "packing included", "PyTorch (MKL)"),
    (BF16 + "gemm", "## Products, bf16", "Trilith from f32 matrices into f32, rounding and packing included, PyTorch from bf16 into bf16", "PyTorch (oneDNN)"),
]


def column(r, title):
    mfu = f", model FLOPs at {100 * r['mfu']:.0f} % of the measured peak" if r["mfu"] else ""
    return [f"### {title}", "", "| | tokens/s | peak memory | Trilith against it |", "|---|---|---|---|",
            f"| **Trilith** | **{r['tokens_per_second']:,.0f}** | {gib(r['peak_bytes'])} | {mfu.lstrip(', ')} |",
            *[f"| {p['name']} | {p['tokens_per_second']:,.0f} | {gib(p['peak_bytes'])} | {ratio_text(p['pairs'])} |" for p in r["peers"]]]


def start_block(r):
    return ["## Start to first step done", "", "nano, B4 T64, from starting the process to the end of its first optimizer step; torch.compile with a cold cache.", "",
            "| | seconds | Trilith against it |", "|---|---|---|", f"| **Trilith** | **{r['seconds']:.3f}** | the step itself takes {r['step_seconds']:.3f} |",
            *[f"| {p['name']} | {p['seconds']:.2f} | {ratio_text(p['pairs'], inverse=True)} |" for p in r["peers"]]]


def gemm_block(r, title, about, peer):
    return [title, "", f"Those of a GPT-2 124M step, B4 T256: C[M,N] from a sum over K, GFLOP/s, {about}.", "", f"| | M × N × K | Trilith | {peer} | ratio |",
            "|---|---|---|---|---|",
            *[f"| {row['name']} | {' × '.join(f'{d:,}' for d in row['shape'])} | {row['ours']:.0f} | {row['theirs']:.0f} | {ratio_text(row['pairs'])} |" for row in r["rows"]]]


def tokenizer_block(r):
    return ["## Training a tokenizer", "", f"Byte-level BPE, 8,192 tokens, on {r['text']}; start of the process and reading included.", "",
            "| | MB/s | Trilith against it |", "|---|---|---|", f"| **Trilith** | **{r['mb_per_second']:.1f}** | |",
            *[f"| {p['name']} | {p['mb_per_second']:.1f} | {ratio_text(p['pairs'])} |" for p in r["peers"]]]


def waterfall_block(r):
    import waterfall as tool

    out = ["## Where the rest of the peak goes", "",
           "Each row takes its part of what the cores could have done in a step's wall time at the measured peak; what is left at the end are the model's",
           "FLOPs. Time is sampled (`perf record -e cpu-clock`), FLOPs are the ledger's. The formula counts attention whole where a causal one computes half.",
           "The steps after the first, which touches all memory for the first time.", ""]
    for t in r["tables"]:
        out += [f"### {t['title']}: {t['seconds']:.2f} s a step", ""] + tool.table(t)
    return out[:-1]


def inference_block(r, on=""):
    out = [f"## Inference{on}", "",
           f"A prompt of {PREFILL} tokens read at once, then {DECODE} tokens written one by one, tokens a second, beside llama.cpp (llama-cpp-python) on the same file with",
           f"the same threads. Its build: {r['peer'].strip(' |')}.", "",
           "| | prefill | llama.cpp | ratio | decode | llama.cpp | ratio | peak memory, of file | llama.cpp's | open, prefill, first token |", "|---|---|---|---|---|---|---|---|---|---|"]
    for row in r["rows"]:
        cells = [f"{row[k]['ours']:,.0f} | {row[k]['theirs']:,.0f} | {ratio_text(row[k]['pairs'])}" for k in ("prefill", "decode")]
        out += [f"| {row['title']} | {' | '.join(cells)} | {row['peak_bytes'] / 1e6:.0f} of {row['bytes'] / 1e6:.0f} MB | {row['peer_peak_bytes'] / 1e6:.0f} MB | {row['start']:.2f} s |"]
    return out


def serve_block(r):
    def middle(row, k, who):
        return statistics.median(pair[who][k] for pair in row["turns"])

    def both(row, form, *keys):
        return " · ".join(" / ".join(form(middle(row, k, who)) for k in keys) for who in (0, 1))

    out = ["## Serving a crowd", "",
           "`trilith serve` beside llama-server on the same file with the same threads, clients on the same cores: a prompt of 128 tokens that no other request has, or one that begins",
           f"with 1,000 shared tokens, and 64 tokens made greedily, streamed, each client in a closed loop (`tools/bench_serve.py`); both keep keys and values in F16. Trilith's figure · llama-server's ({r['peer']});",
           "medians over turns. Start is from the process to its first 200 from /ready or /health.", "",
           "| | clients | output tokens/s | ratio | first token, p50 / p95, s | ratio of p95 | gap, p50 / p95, ms | peak memory, MB | ratio | start, s |",
           "|---|---|---|---|---|---|---|---|---|---|"]
    for row in r["rows"]:
        ratio = {k: ratio_text([(a[k], b[k]) for a, b in row["turns"]]) for k in ("tokens_per_second", "ttft_p95", "peak_bytes")}
        title = row["title"] + (f", {row['shared']:,} shared" if row["shared"] else "")
        out += [f"| {title} | {row['clients']} | {both(row, '{:,.0f}'.format, 'tokens_per_second')} | {ratio['tokens_per_second']} | "
                f"{both(row, '{:.2f}'.format, 'ttft_p50', 'ttft_p95')} | {ratio['ttft_p95']} | {both(row, lambda x: f'{1000 * x:.0f}', 'itl_p50', 'itl_p95')} | "
                f"{both(row, lambda x: f'{x / 1e6:,.0f}', 'peak_bytes')} | {ratio['peak_bytes']} | {both(row, '{:.2f}'.format, 'start_seconds')} |"]
    return out


def ranks_block(r, dtype):
    return [f"## Two ranks, {dtype}", "", f"GPT-2 124M, 8 × 256 tokens, {dtype}: two ranks of one thread under mpirun on one machine, against the same step otherwise shared"
            f"{', PyTorch under autocast' if dtype == 'bf16' else ''}.", "",
            "| | tokens/s | peak memory, the largest process | two ranks against it |", "|---|---|---|---|",
            f"| **two ranks of one thread** | **{r['tokens_per_second']:,.0f}** | {gib(r['peak_bytes'])} | |",
            *[f"| {p['name']} | {p['tokens_per_second']:,.0f} | {gib(p['peak_bytes'])} | {ratio_text(p['pairs'])} |" for p in r["peers"]], "",
            "One turn of each `--shard`; anonymous memory of the most loaded rank as plan.json has it, predicted before the first step and seen.", "",
            "| `--shard` | tokens/s | a step | of it exposed communication | hidden | memory predicted | seen | seen ÷ predicted |", "|---|---|---|---|---|---|---|---|",
            *[f"| {s['shard']} | {s['tokens_per_second']:,.0f} | {s['step']:.2f} s | {s['exposed']:.2f} s | {s['hidden']:.2f} s | {gib(s['predicted_bytes'])} | {gib(s['peak_bytes'])} | "
              f"{s['peak_bytes'] / s['predicted_bytes']:.3f} |" for s in r["shards"]]]


def checkpoint_block(r):
    return ["## Checkpoints", "", f"GPT-2 124M with AdamW's moments, {gib(r['bytes'])}, written behind steps of 4 × 64 tokens: from asking for it until all is on the disk, hashes",
            "included. dd writes as many zeros to the same disk, with fsync. Waiting is the ledger's bucket `checkpoint`; longer are steps beside which a save",
            "goes on, by all that it takes from them: it hashes and copies on the cores that compute.", "",
            "| | MB/s | |", "|---|---|---|", f"| **a checkpoint** | **{statistics.median(a for a, _ in r['pairs']) / 1e6:,.0f}** | |",
            f"| dd, conv=fsync | {statistics.median(b for _, b in r['pairs']) / 1e6:,.0f} | {ratio_text(r['pairs'])} |", "",
            f"Steps wait {100 * statistics.median(r['waits']):.1f} % of the time that a write takes, and are longer by {100 * statistics.median(r['losses']):.0f} % of it in all (medians of {len(r['waits'])} runs)."]


def layout():
    """The page from top to bottom: (section, what makes its block), or a heading's lines for the sections below it."""
    for prefix, title, about in TRAINING:
        yield None, [title, "", about, ""]
        for c in TITLES:
            yield prefix + c, lambda r, c=c: column(r, TITLES[c])
    yield None, []
    yield "start", start_block
    for c, title, about, peer in PRODUCTS:
        yield c, lambda r, title=title, about=about, peer=peer: gemm_block(r, title, about, peer)
    yield "inference", inference_block
    yield AVX2 + "inference", lambda r: inference_block(r, " with AVX2 alone")
    yield "serve", serve_block
    yield "tokenizer", tokenizer_block
    yield "ranks", lambda r: ranks_block(r, "f32")
    yield BF16 + "ranks", lambda r: ranks_block(r, "bf16")
    yield "checkpoint", checkpoint_block
    yield "waterfall", waterfall_block


def blocks_of(page):
    """What a page holds, by section: from its mark to the end of its commands."""
    return {m[1]: m[2] for m in re.finditer(r"<!-- ([a-z0-9-]+) -->\n(.*?\n```\n.*?\n```\n)", page, re.S)}


def page(results, old):
    """results: of this run; sections that were not measured stay as they are in the old page."""
    kept, heading = blocks_of(old), []
    out = ["# Benchmarks", "",
           "Written by `./dev bench`; every figure comes from the commands below it, each peer measured in turn with Trilith in one run. A ratio is the",
           "geometric mean over pairs of turns, with its 95 % interval; above 1 Trilith is the faster. Tokens per second are medians over steps, the first two",
           "of a turn left out. Peak memory is the process's maximum resident set. Each section says on which machine it was measured.", ""]
    for section, make in layout():
        if section is None:
            heading = make
            continue
        block = "\n".join([*make(results[section]), "", *how(results[section])]) + "\n" if section in results else kept.get(section)
        if block:
            out += [*heading, f"<!-- {section} -->", block.rstrip("\n"), ""]
            heading = []
    return "\n".join(out)


def how(result):
    return [f"{result['date']}, revision {result['revision']}; {result['machine']}; {', '.join(result['versions'])}:", "", "```", *result["commands"], "```"]
