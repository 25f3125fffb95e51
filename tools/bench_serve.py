"""trilith serve beside llama-server, in turn in one run: the same file, threads and clients, in a closed loop on the same machine.

    bench_serve.py --trilith build/trilith --llama-server FILE MODEL.gguf … [--clients 8 32] [--rounds N] [--pairs N] [--threads N]
                   [--shared TOKENS] [--options '--look-up 4 …'] [--llama-options …] [--json FILE]

A turn starts a server, sends it one request that counts nowhere, then lets every client send `rounds` requests one after another: a prompt of 128
tokens that no other request has, given as ids, 64 tokens to be made greedily, streamed. Of a turn: output tokens a second over all of it, from the first
request sent to the last answered, the burst at the beginning included; time to first token; gaps between tokens; the peak of resident memory; the time
from starting the process to its first 200 from /ready (llama-server: /health). With --shared every prompt begins with the same TOKENS tokens and ends in 28 of its own.

Without --llama-server, or with --llama-server none, Trilith is measured alone. bench.py's section `serve` calls it; figures want the machine idle.
"""

import argparse
import asyncio
import json
import os
import re
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

import serving

PROMPT, MADE, OWN = 128, 64, 28  # tokens of a prompt; to be made; a prompt's own, behind a shared one
MARGIN = 64  # positions of a sequence beyond what is asked for


def token_ids(trilith, model, n, work):
    """At least n tokens of English, by the model's own tokenizer."""
    from pydoc_data.topics import topics

    path = os.path.join(work, "prompts.txt")
    with open(path, "w", encoding="ascii", errors="replace") as f:
        f.write("\n\n".join(topics[key] for key in sorted(topics))[: 8 * n])
    ids = json.loads(subprocess.run([trilith, "tokenizer", "encode", "--model", model, "--text", path, "--json"], check=True, capture_output=True).stdout)["ids"]
    if len(ids) < n:
        raise SystemExit(f"bench_serve: {len(ids)} tokens of text where {n} are needed; ask for fewer rounds")
    return ids


def prompts(ids, n, shared):
    """n prompts of which no two begin alike, but for what is shared."""
    if shared:
        return [ids[:shared] + ids[shared + i * OWN : shared + (i + 1) * OWN] for i in range(n)]
    return [ids[i * PROMPT : (i + 1) * PROMPT] for i in range(n)]


# ---- the client: no more work than counting, since it shares the processors with the server


class Answer(asyncio.Protocol):
    """One request on a connection of its own; done is set to itself when the server has closed it."""

    def __init__(self, request, done):
        self.request, self.done, self.times, self.parts = request, done, [], []

    def connection_made(self, transport):
        self.sent = time.perf_counter()
        transport.write(self.request)

    def data_received(self, data):
        if b"data: {" in data:
            self.times.append(time.perf_counter())
        self.parts.append(data)

    def connection_lost(self, error):
        self.ended = time.perf_counter()
        if not self.done.done():
            self.done.set_result(self)

    def events(self):
        """The events' objects; chunked coding's own lines are stepped over."""
        whole = b"".join(self.parts)
        head, _, body = whole.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise SystemExit(f"bench_serve: the server said {whole[:600].decode(errors='replace')}")
        if b"chunked" in head.lower():
            body, rest = b"", body
            while rest:
                size, _, rest = rest.partition(b"\r\n")
                n = int(size, 16)
                body, rest = body + rest[:n], rest[n + 2 :]
        lines = [line[6:] for line in body.decode().split("\n") if line.startswith("data: {")]
        return [json.loads(line) for line in lines]


def request_bytes(port, ids):
    body = json.dumps(dict(prompt=ids, max_tokens=MADE, temperature=0, ignore_eos=True, stream=True,
                           stream_options=dict(include_usage=True))).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {serving.HOST}:{port}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def one(port, request):
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    await loop.create_connection(lambda: Answer(request, done), serving.HOST, port)
    return await done


async def crowd(port, requests, clients):
    """Client c sends requests c, c + clients, … one after another."""

    async def client(c):
        return [await one(port, r) for r in requests[c::clients]]

    return [a for answers in await asyncio.gather(*(client(c) for c in range(clients))) for a in answers]


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def measure(server, prompts_, clients):
    """Figures of one turn against a server that is ready: the first prompt warms it, the rest are counted."""
    requests = [request_bytes(server.port, ids) for ids in prompts_]
    asyncio.run(one(server.port, requests[0])).events()
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    answers = asyncio.run(crowd(server.port, requests[1:], clients))
    spent = resource.getrusage(resource.RUSAGE_SELF)
    wall = max(a.ended for a in answers) - min(a.sent for a in answers)
    made, first, gaps = 0, [], []
    for a in answers:
        usage = [e["usage"] for e in a.events() if e.get("usage")][-1]
        if usage["completion_tokens"] != MADE:
            raise SystemExit(f"bench_serve: {usage['completion_tokens']} tokens came where {MADE} were asked for: {usage}")
        made += usage["completion_tokens"]
        first.append(a.times[0] - a.sent)
        gaps += [b - c for c, b in zip(a.times, a.times[1:])]
    return dict(tokens_per_second=made / wall, ttft_p50=quantile(first, 0.5), ttft_p95=quantile(first, 0.95), itl_p50=quantile(gaps, 0.5), itl_p95=quantile(gaps, 0.95),
                peak_bytes=server.memory(), start_seconds=server.start_seconds,
                client_share=(spent.ru_utime + spent.ru_stime - cpu.ru_utime - cpu.ru_stime) / wall)


# ---- the two servers, each told the same: so many sequences at once, of so many positions


def llama_version(server):
    """What llama-server says it is. One that was built without git's history knows no commit: then what its sources say, where its build folder names them."""
    said = subprocess.run([server, "--version"], capture_output=True, text=True).stderr
    version = re.search(r"^version: (.*)", said, re.M)
    version = version.group(1) if version else "of unknown version"
    if "unknown" not in version:
        return version
    version, folder = version.partition(" (")[0], os.path.dirname(os.path.realpath(server))
    while not os.path.exists(os.path.join(folder, "CMakeCache.txt")):
        if folder == os.path.dirname(folder):
            return f"{version}, commit not known"
        folder = os.path.dirname(folder)
    source = re.search(r"^CMAKE_HOME_DIRECTORY:\w+=(.*)", open(os.path.join(folder, "CMakeCache.txt")).read(), re.M).group(1)
    commit = subprocess.run(["git", "-C", source, "describe", "--always", "--tags"], capture_output=True, text=True)
    if commit.returncode == 0:
        return f"{version}, commit {commit.stdout.strip()}"
    with open(os.path.join(source, "ggml", "CMakeLists.txt")) as f:
        ggml = re.findall(r"^set\(GGML_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)\)", f.read(), re.M)
    return f"{version}, ggml {'.'.join(ggml)}, sources without git's history"


def positions(shared):
    return (shared + OWN if shared else PROMPT) + MADE + MARGIN


def trilith_command(trilith, model, clients, threads, shared, more=()):
    return [*serving.trilith(trilith, model), "--threads", threads, "--running", clients, "--context", positions(shared), *more]


def llama_command(server, model, clients, threads, shared, more=()):
    # Its cache of prompts in memory would only cost where no two prompts begin alike, so it is off there.
    cache = [] if shared else ["--cache-ram", 0]
    return [server, "-m", model, "--host", serving.HOST, "--port", "{port}", "-t", threads, "-tb", threads, "-np", clients, "-c", clients * positions(shared), "--no-ui", *cache, *more]


def turn(command, ready, prompts_, clients, log):
    with serving.Server(command, ready, log) as server:
        try:
            return measure(server, prompts_, clients)
        except (OSError, KeyError, IndexError) as error:
            raise SystemExit(f"bench_serve: {' '.join(server.command)}: {error!r}:\n{server.stop()}") from error


def compare(trilith, llama, model, clients, threads, rounds, pairs, shared, work, say=print, note=lambda command: None, more=(), llama_more=()):
    """[(ours, theirs or None), …] of so many pairs of turns, the order of the two changing from pair to pair."""
    log, n = os.path.join(work, "serve.log"), clients * rounds + 1
    some = prompts(token_ids(trilith, model, shared + n * OWN if shared else n * PROMPT, work), n, shared)
    kinds = [(trilith_command(trilith, model, clients, threads, shared, more), "/ready")]
    if llama:
        kinds.append((llama_command(llama, model, clients, threads, shared, llama_more), "/health"))
    for command, _ in kinds:
        note([str(c).replace("{port}", "8080") for c in command])
    turns = []
    for i in range(pairs):
        figures = [None, None]
        for k in range(len(kinds))[:: -1 if i % 2 else 1]:
            figures[k] = turn(*kinds[k], some, clients, log)
            f, who = figures[k], "llama-server" if k else "Trilith"
            say(f"{os.path.basename(model)}, {clients} clients{f', {shared} shared' if shared else ''}: {who} {f['tokens_per_second']:.1f} tokens/s, first token "
                f"{f['ttft_p50']:.3f} / {f['ttft_p95']:.3f} s, gap {1000 * f['itl_p50']:.0f} / {1000 * f['itl_p95']:.0f} ms, {f['peak_bytes'] / 1e6:.0f} MB, "
                f"ready in {f['start_seconds']:.3f} s (client: {100 * f['client_share']:.0f} % of a core)")
        turns.append(tuple(figures))
    return turns


def main():
    parser = argparse.ArgumentParser(description="trilith serve beside llama-server, in turn")
    parser.add_argument("models", nargs="+", metavar="MODEL.gguf")
    parser.add_argument("--trilith", required=True)
    parser.add_argument("--llama-server", metavar="FILE")
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=4, help="requests of a client (default 4)")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--shared", type=int, default=0, metavar="TOKENS", help="every prompt begins with the same so many")
    parser.add_argument("--options", default="", help="more options of trilith serve")
    parser.add_argument("--llama-options", default="", help="more options of llama-server")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    args = parser.parse_args()
    llama = args.llama_server if args.llama_server != "none" else None
    found = []
    if llama:
        print(f"llama-server: {llama_version(llama)}")
    with tempfile.TemporaryDirectory(prefix="trilith-bench-") as work:
        for model in args.models:
            for clients in args.clients:
                turns = compare(args.trilith, llama, model, clients, args.threads, args.rounds, args.pairs, args.shared, work, lambda line: print(line, flush=True),
                                more=shlex.split(args.options), llama_more=shlex.split(args.llama_options))
                found.append(dict(model=model, clients=clients, shared=args.shared, turns=turns))
                if llama:
                    ratio = [statistics.geometric_mean(a[k] / b[k] for a, b in turns) for k in ("tokens_per_second", "ttft_p95", "peak_bytes")]
                    print(f"    {ratio[0]:.2f} times its tokens/s, {ratio[1]:.2f} of its p95 to the first token, {ratio[2]:.2f} of its memory", flush=True)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(found, f, indent=1)


if __name__ == "__main__":
    sys.exit(main())
