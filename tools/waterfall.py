"""Where a training step's peak goes: from every FMA that the cores could have done in its wall time down to the model's FLOPs.

    waterfall.py --trilith build/trilith --data FILE [--model NAME] [--batch B] [--seq T] [--steps N] [--dtype f32|bf16]

The run is sampled by `perf record -e cpu-clock` (Debian: linux-perf); each sample is a function, each function belongs to a source file, and files
belong to the rows of the table. FLOPs come from the run's own ledger; of threads × wall, what no sample saw is idle. The start and the
first step, which touches every page for the first time, are left out. bench.py prints the table in docs/benchmarks.md (--only waterfall).
"""

import argparse
import bisect
import collections
import json
import os
import shutil
import subprocess
import tempfile

HZ = 997


def functions(program):
    """Sorted (address, function, source file) of the program's text."""
    out = []
    for line in subprocess.run(["nm", "-l", "--defined-only", program], capture_output=True, text=True, check=True).stdout.splitlines():
        symbol, _, place = line.partition("\t")
        fields = symbol.split()
        if len(fields) == 3 and fields[1] in "tT":
            out.append((int(fields[0], 16), fields[2], os.path.basename(place.rpartition(":")[0])))
    return sorted(out)


def row_of(name, source):
    """The table's row of a function of the program."""
    if source.startswith("gemm") or source.startswith("product"):
        return "tiles" if name.startswith(("tile", "chain")) else "packing"
    if source.startswith("attention"):
        return "attention"
    if source.startswith(("optimizer", "muon")):
        return "optimizer"
    if source.startswith(("norm", "head_norm", "activation", "embed", "loss", "rope", "moe", "residual", "elementwise")):
        return "memory"
    return "pool" if source == "threads.c" else "other"


def steps_window(folder, first):
    """Seconds of CLOCK_MONOTONIC between the start of step `first` and the end of the last, from trace.json."""
    with open(os.path.join(folder, "trace.json")) as f:
        spans = [e for e in json.load(f)["traceEvents"] if e["ph"] == "X" and e["args"]["step"] >= first]
    return min(e["ts"] for e in spans) / 1e6, max(e["ts"] + e["dur"] for e in spans if e["name"] == "record") / 1e6


def sample(program, command, run, folder, first):
    """(CPU seconds by row, wall seconds) of the steps from `first` on."""
    data = os.path.join(folder, "perf.data")
    subprocess.run(["perf", "record", "-q", "-k", "CLOCK_MONOTONIC", "-e", "cpu-clock", "-F", str(HZ), "-o", data, "--", *map(str, command)], check=True,
                   stdout=subprocess.DEVNULL)
    text = subprocess.run(["perf", "script", "-i", data, "--ns", "-F", "time,ip,sym,dso", "--show-mmap-events"], capture_output=True, text=True,
                          check=True).stdout
    table = functions(program)
    starts = [f[0] for f in table]
    begin, end = steps_window(run, first)
    base, seconds = None, collections.Counter()
    for line in text.splitlines():
        if "PERF_RECORD_MMAP" in line:
            # [0xSTART(0xLENGTH) @ OFFSET …]: r-xp FILE
            if line.rstrip().endswith(program) and "r-xp" in line:
                start, offset = line.split("[0x")[1].split("(")[0], line.split("@ ")[1].split()[0]
                base = int(start, 16) - int(offset, 16)
            continue
        fields = line.split()
        if len(fields) < 2 or base is None or not begin <= float(fields[0].rstrip(":")) < end:
            continue
        if program in line:
            i = bisect.bisect_right(starts, int(fields[1], 16) - base) - 1
            row = row_of(*table[i][1:]) if i >= 0 else "other"
        else:
            row = "system" if "[kernel" in line else "other"
        seconds[row] += 1.0 / HZ
    return seconds, end - begin


def measure(trilith, data, model, batch, seq, steps, threads, dtype="f32"):
    """{command, wall, threads, peak, rows: [(name, fraction of the peak)]}: the fractions run from the peak to the model's FLOPs and add up to 1. The steps
    are those after the first."""
    program = os.path.realpath(trilith)
    with tempfile.TemporaryDirectory(prefix="trilith-waterfall-") as folder:
        out = os.path.join(folder, "run")
        command = [program, "train", "--data", data, "--out", out, "--model", model, "--tokenizer", "bytes", "--batch", batch, "--seq", seq, "--steps",
                   1 + steps, "--threads", threads, "--val-fraction", 0, "--sample-tokens", 0, "--quiet"] + (["--dtype", dtype] if dtype != "f32" else [])
        cpu, wall = sample(program, command, out, folder, 2)
        with open(os.path.join(out, "metrics.jsonl")) as f:
            lines = [json.loads(line) for line in f][1:]
        with open(os.path.join(out, "plan.json")) as f:
            peak = json.load(f)["machine"][f"{dtype}_flops"]
    executed = {b: sum(m["flops_per_second"].get(b, 0) * m["seconds"][b] for m in lines) for b in ("matmul", "attention")}
    model_flops = sum(m["mfu"] * m["seconds"]["wall"] for m in lines) * peak
    whole = threads * wall  # core seconds; the measured peak is that of all threads together
    ideal = {b: executed[b] / peak * threads for b in executed}
    rows = [("idle cores", whole - sum(cpu.values())),
            ("waiting in the pool for the other threads", cpu["pool"]),
            ("the operating system", cpu["system"]),
            ("everything else: clearing, copying, sums of losses, data", cpu["other"]),
            ("optimizer", cpu["optimizer"]),
            ("operators bound by memory: norms, activations, embedding, loss", cpu["memory"]),
            ("packing of products", cpu["packing"]),
            ("products' tiles below the peak: edges, loads, stores", cpu["tiles"] - ideal["matmul"]),
            ("attention below the peak", cpu["attention"] - ideal["attention"]),
            ("executed, not counted by the formula (positive) or counted and not executed (negative: attention that the mask spares)",
             (sum(executed.values()) - model_flops) / peak * threads)]
    return dict(command=["trilith", *map(str, command[1:])], seconds=wall / len(lines), threads=threads, peak=peak,
                rows=[(name, s / whole) for name, s in rows], mfu=model_flops / (peak * wall))


def table(result):
    """Markdown."""
    out = ["| | of the peak | left |", "|---|---|---|", f"| peak of {result['threads']} threads, {result['peak'] / 1e9:.0f} GFLOP/s | | 100.0 % |"]
    left = 1.0
    for name, part in result["rows"]:
        left -= part
        out.append(f"| {name} | {'−' if part >= 0 else '+'}{abs(100 * part):.1f} % | {100 * left:.1f} % |")
    return out + [f"| **model FLOPs** (MFU) | | **{100 * result['mfu']:.1f} %** |", ""]


def main():
    parser = argparse.ArgumentParser(description="where a training step's peak goes")
    parser.add_argument("--trilith", default="build/trilith")
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", default="f32")
    args = parser.parse_args()
    if not shutil.which("perf"):
        raise SystemExit("waterfall: perf is needed; on Debian: apt-get install linux-perf")
    print("\n".join(table(measure(**vars(args)))))


if __name__ == "__main__":
    main()
