"""Where a training step's peak goes: from every FMA that the cores could have done in its wall time down to the model's FLOPs.

    waterfall.py --trilith build/trilith --data FILE [--model NAME] [--batch B] [--seq T] [--steps N] [--dtype f32|bf16]

The run is sampled by `perf record -e cpu-clock` (Debian: linux-perf); each sample is a function, each function belongs to a source file, and files
belong to the rows of the table. FLOPs come from the run's own ledger. What the cores did outside the operators, waiting in the pool included, is the
rest of threads × wall. The first step, which touches every page for the first time, and the start are left out: a run of one step is sampled too and
taken away. bench.py prints the table in docs/benchmarks.md (--only waterfall).
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
    """The table's row of a function; None outside the operators."""
    if source.startswith("gemm") or source.startswith("product"):
        return "tiles" if name.startswith(("tile", "chain")) else "packing"
    if source.startswith("attention"):
        return "attention"
    if source.startswith(("optimizer", "muon")):
        return "optimizer"
    if source.startswith(("norm", "head_norm", "activation", "embed", "loss", "rope", "moe", "residual", "elementwise")):
        return "memory"
    return None


def sample(program, command, folder):
    """CPU seconds by row over the whole process."""
    data = os.path.join(folder, "perf.data")
    subprocess.run(["perf", "record", "-q", "-e", "cpu-clock", "-F", str(HZ), "-o", data, "--", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    text = subprocess.run(["perf", "script", "-i", data, "-F", "ip,sym,dso", "--show-mmap-events"], capture_output=True, text=True, check=True).stdout
    table = functions(program)
    starts = [f[0] for f in table]
    base, seconds = None, collections.Counter()
    for line in text.splitlines():
        if "PERF_RECORD_MMAP" in line:
            # [0xSTART(0xLENGTH) @ OFFSET …]: r-xp FILE
            if line.rstrip().endswith(program) and "r-xp" in line:
                start, offset = line.split("[0x")[1].split("(")[0], line.split("@ ")[1].split()[0]
                base = int(start, 16) - int(offset, 16)
            continue
        fields = line.split()
        if not fields or base is None or program not in line:
            continue
        address = int(fields[0], 16) - base
        i = bisect.bisect_right(starts, address) - 1
        row = row_of(*table[i][1:]) if i >= 0 else None
        if row:
            seconds[row] += 1.0 / HZ
    return seconds


def run(program, arguments, dtype):
    """A sampled run: (CPU seconds by row, its lines of metrics, the measured peak)."""
    with tempfile.TemporaryDirectory(prefix="trilith-waterfall-") as folder:
        out = os.path.join(folder, "run")
        cpu = sample(program, [program, "train", *arguments, "--out", out], folder)
        with open(os.path.join(out, "metrics.jsonl")) as f:
            lines = [json.loads(line) for line in f]
        with open(os.path.join(out, "plan.json")) as f:
            return cpu, lines, json.load(f)["machine"][f"{dtype}_flops"]


def measure(trilith, data, model, batch, seq, steps, threads, dtype="f32"):
    """{command, wall, threads, peak, rows: [(name, fraction of the peak)]}: the fractions run from the peak to the model's FLOPs and add up to 1. The steps
    are those after the first."""
    program = os.path.realpath(trilith)
    arguments = ["--data", data, "--model", model, "--tokenizer", "bytes", "--batch", batch, "--seq", seq, "--threads", threads, "--val-fraction", 0,
                 "--sample-tokens", 0, "--quiet"] + (["--dtype", dtype] if dtype != "f32" else [])
    first, _, _ = run(program, [*arguments, "--steps", 1], dtype)
    cpu, lines, peak = run(program, [*arguments, "--steps", 1 + steps], dtype)
    cpu.subtract(first)
    lines = lines[1:]
    wall = sum(m["seconds"]["wall"] for m in lines)
    executed = {b: sum(m["flops_per_second"].get(b, 0) * m["seconds"][b] for m in lines) for b in ("matmul", "attention")}
    model_flops = sum(m["mfu"] * m["seconds"]["wall"] for m in lines) * peak
    whole = threads * wall  # core seconds; the measured peak is that of all threads together
    ideal = {b: executed[b] / peak * threads for b in executed}
    rows = [("waiting: idle cores, the pool, data, the operating system", whole - sum(cpu.values())),
            ("optimizer", cpu["optimizer"]),
            ("operators bound by memory: norms, activations, embedding, loss", cpu["memory"]),
            ("packing of products", cpu["packing"]),
            ("products' tiles below the peak: edges, loads, stores", cpu["tiles"] - ideal["matmul"]),
            ("attention below the peak", cpu["attention"] - ideal["attention"]),
            ("executed, not counted by the formula (positive) or counted and not executed (negative: attention that the mask spares)",
             (sum(executed.values()) - model_flops) / peak * threads)]
    return dict(command=["trilith", "train", *map(str, arguments)], seconds=wall / len(lines), threads=threads, peak=peak,
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
