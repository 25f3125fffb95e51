"""The depth ladder's table and picture, from its sweep: fills docs/depth.md and writes docs/depth.svg.

    trilith train --sweep bench/depth-sweep.yaml --data TEXT --out RUNS
    depth_table.py RUNS [--docs docs]

The table stands between two marks in docs/depth.md and is replaced as a whole. Exits with 1, and says so on the page, where
the loss does not fall from each depth to the next. Standard library only.
"""

import argparse
import json
import math
import os
import sys

BEGIN, END = "<!-- depth ladder: begin -->", "<!-- depth ladder: end -->"
COLOURS = ["#8a9bb0", "#12938a", "#7d56c2", "#2f6dc0", "#e0701f", "#c73b3b", "#5f9e3f", "#d9a514"]


def count(n):
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= 0.9995 * size:
            return f"{n / size:.3g} {unit}"
    return f"{n:.0f}"


def read_runs(folder):
    """Finished runs with a depth, shallow first: (depth, row, [(tokens, loss)])."""
    with open(os.path.join(folder, "sweep.json"), encoding="utf-8") as f:
        sweep = json.load(f)
    runs = []
    for row in sweep["runs"]:
        if row["status"] != "finished" or "depth" not in row["values"]:
            continue
        curve = []
        with open(os.path.join(folder, row["name"], "metrics.jsonl"), encoding="utf-8") as f:
            for line in f:
                step = json.loads(line)
                if step["loss"] is not None:
                    curve.append((step["tokens_total"], step["loss"]))
        runs.append((int(row["values"]["depth"]), row, curve))
    return sweep, sorted(runs, key=lambda run: run[0])


def table(sweep, runs, text):
    settings = sweep["settings"]
    lines = [
        BEGIN,
        "",
        f"{text}, {settings.get('tokenizer', 'bpe:4096')}, sequences of {settings.get('seq', 256)}, "
        f"{settings.get('tokens-per-param', 20)} tokens a parameter, {settings.get('aspect', 64)} wide a layer; "
        f"Trilith {sweep['version']}:",
        "",
        "| depth | parameters | tokens | model FLOPs | steps | validation loss | bits a byte | tokens a second | time |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for depth, row, _ in runs:
        lines.append(
            f"| {depth} | {count(row['params'])} | {count(row['tokens'])} | {row['model_flops']:.2e} | {row['steps']:,} | "
            f"{row['validation_loss']:.4f} | {row['bits_per_byte']:.4f} | {row['tokens_per_second']:,.0f} | {row['seconds']:.3g} s |"
        )
    falls = all(a[1]["validation_loss"] > b[1]["validation_loss"] for a, b in zip(runs, runs[1:]))
    lines += ["", "The loss falls from each depth to the next." if falls else "**The loss does not fall from each depth to the next.**"]
    lines += ["", "![Training loss over FLOPs, one curve a depth](depth.svg)", "", END]
    return "\n".join(lines), falls


def smooth(curve):
    """Means over about sixty stretches of equal length."""
    width = max(1, len(curve) // 60)
    parts = [curve[i : i + width] for i in range(0, len(curve), width)]
    return [(sum(t for t, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def picture(runs):
    """Loss over FLOPs, the FLOPs on a logarithmic scale."""
    W, H, left, top, right, bottom = 760, 400, 56, 16, 740, 356
    curves = []
    for depth, row, curve in runs:
        per_token = row["model_flops"] / curve[-1][0]
        curves.append((depth, [(math.log10(tokens * per_token), loss) for tokens, loss in smooth(curve)]))
    xs = [x for _, c in curves for x, _ in c]
    ys = [y for _, c in curves for _, y in c]
    x0, x1 = min(xs), max(xs)
    y0, y1 = min(ys) - 0.05 * (max(ys) - min(ys)), max(ys)

    def place(x, y):
        return f"{left + (right - left) * (x - x0) / (x1 - x0):.1f} {bottom - (bottom - top) * (y - y0) / (y1 - y0):.1f}"

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for y in range(math.ceil(y0 * 2), math.floor(y1 * 2) + 1):
        _, py = place(x0, y / 2).split()
        out.append(f'<path d="M{left} {py}H{right}" stroke="#e6e3dc"/><text x="{left - 8}" y="{float(py) + 4:.1f}" text-anchor="end" fill="#6d6a64">{y / 2:g}</text>')
    for x in range(math.ceil(x0), math.floor(x1) + 1):
        px, _ = place(x, y0).split()
        out.append(f'<path d="M{px} {bottom}v5" stroke="#6d6a64"/><text x="{px}" y="{bottom + 20}" text-anchor="middle" fill="#6d6a64">1e{x}</text>')
    out.append(f'<text x="{(left + right) / 2:.0f}" y="{H - 6}" text-anchor="middle" fill="#6d6a64">model FLOPs</text>')
    out.append(f'<text x="{left}" y="{top - 3}" fill="#6d6a64">nats a byte</text>')
    for i, (depth, curve) in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        path = "L".join(place(x, y) for x, y in curve)
        ex, ey = place(*curve[-1]).split()
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(f'<circle cx="{ex}" cy="{ey}" r="3.5" fill="{colour}"/>')
        out.append(f'<text x="{right - 90}" y="{top + 18 + 18 * i}" fill="{colour}">depth {depth}</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", help="the sweep's folder")
    parser.add_argument("--docs", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "docs"))
    args = parser.parse_args()
    sweep, runs = read_runs(args.runs)
    if len(runs) < 2:
        sys.exit(f"depth_table.py: {args.runs} holds {len(runs)} finished runs with a depth; two at least are a ladder")
    data = sweep["settings"].get("data", ["text"])
    body, falls = table(sweep, runs, " and ".join(os.path.basename(path) for path in data))
    page = os.path.join(args.docs, "depth.md")
    with open(page, encoding="utf-8") as f:
        text = f.read()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"depth_table.py: {page} does not have '{BEGIN}' and '{END}' once each")
    text = text[: text.index(BEGIN)] + body + text[text.index(END) + len(END) :]
    with open(os.path.join(args.docs, "depth.svg"), "w", encoding="utf-8") as f:
        f.write(picture(runs))
    with open(page, "w", encoding="utf-8") as f:
        f.write(text)
    print(body)
    sys.exit(0 if falls else 1)


if __name__ == "__main__":
    main()
