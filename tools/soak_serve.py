"""`trilith serve` under a crowd that behaves badly, bounded in requests and time: does it stand, does it leak, does anything get stuck, is everyone else answered?

    soak_serve.py --trilith build/trilith [--requests 20000] [--clients 64] [--minutes 30] [--seed N] [--model FILE] [--options '--look-up 4 …']

Clients on loopback draw what they do: ask and read the answer, whole or streamed; leave amid an answer, or before it; read slowly; send bodies that are too
large, not JSON, or ask for what cannot be; send garbage for headers; begin a request and never end it. Who asks the same gets the same text, whatever the
others do. In the end the server must be alive, run nothing, hold no page and no more descriptors than before, and its memory must not have grown since the
first third; SIGTERM must end it with status 0. The model is a tiny one, trained for a step, unless one is named.
"""

import argparse
import asyncio
import collections
import json
import os
import random
import shlex
import socket
import struct
import subprocess
import sys
import tempfile
import time

import serving

BODY, RUNNING, WAITING, CONTEXT, IDLE, PAGES = 1 << 16, 16, 56, 256, 4, 24  # what the server is told: few, so that each limit is met
PATIENCE = 90  # seconds until an answer counts as stuck
GROWTH = 24 << 20  # anonymous bytes after the first third: arenas of the C library's, connections; a page a request would be ten times that
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
PROMPTS = ["The king said", "In the beginning", "12 + 30 =", "Zwölf Boxkämpfer jagen", "a" * 150, "Once upon a time there was", "\n\n", "def f(x):"]


class Wrong(Exception):
    """What the server should not have done."""


class Connection:
    def __init__(self, port):
        self.port = port

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(serving.HOST, self.port)
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    def reset(self):
        """Leave with a RST where close says a polite FIN."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def answer(self, pause=None):
        """(status, headers, body) until the server closes; pause: seconds between small reads."""
        whole = b""
        while more := await self.reader.read(1 << 16 if pause is None else 200):
            whole += more
            if pause is not None:
                await asyncio.sleep(pause)
        head, _, body = whole.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 "):
            raise Wrong(f"the answer begins with {whole[:80]!r}")
        if b"transfer-encoding: chunked" in head.lower():
            rest, body = body, b""
            while rest:
                size, _, rest = rest.partition(b"\r\n")
                n = int(size, 16)
                body, rest = body + rest[:n], rest[n + 2 :]
                if n == 0:
                    break
            else:
                raise Wrong("a chunked answer was cut off")
        return int(head[9:12]), head, body


def request(path, body, close=True, method="POST", more=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (f"{method} {path} HTTP/1.1\r\nHost: {serving.HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            f"{'Connection: close' + chr(13) + chr(10) if close else ''}{more}\r\n").encode() + data


def draw_body(rng, stream, stops=False):
    """What is asked, and the key of what must come."""
    prompt, seed, made = rng.choice(PROMPTS), rng.randrange(3), rng.choice([1, 6, 17])
    chat = rng.random() < 0.3
    body = dict(max_tokens=made, seed=seed, temperature=rng.choice([0, 1.0]), ignore_eos=True, stream=stream)
    if rng.random() < 0.2:
        body["n"] = 3
    if rng.random() < 0.2:
        body["logprobs"] = True if chat else 3
    if stops and rng.random() < 0.1:
        body["stop"] = ["e", "xyz"]
    body.update(dict(messages=[dict(role="user", content=prompt)]) if chat else dict(prompt=prompt))
    key = json.dumps([prompt, seed, made, chat, body["temperature"], body.get("n"), body.get("stop")])
    return "/v1/chat/completions" if chat else "/v1/completions", body, key


def texts_of(body, streamed):
    """Texts by choice, whole."""
    out = collections.defaultdict(str)
    if not streamed:
        for c in json.loads(body)["choices"]:
            out[c["index"]] = c["message"]["content"] if "message" in c else c["text"]
        return dict(out)
    events = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        raise Wrong(f"a stream ends in {events[-1:]}")
    ended = set()
    for event in events[:-1]:
        for c in json.loads(event).get("choices", ()):
            out[c["index"]] += c["delta"].get("content") or "" if "delta" in c else c["text"]
            if c["finish_reason"]:
                ended.add(c["finish_reason"] and c["index"])
    if ended != set(out):
        raise Wrong(f"of the choices {sorted(out)} only {sorted(ended)} ended")
    return dict(out)


MALFORMED = [b"", b"{", b"[]", b"null", b"\xff\xfe{}", b'{"prompt": 5}', b'{"prompt": "x", "max_tokens": "many"}', b'{"prompt": "x", "max_tokens": -1}', b'{"prompt": "x", "n": 100000}',
             b'{"prompt": "x", "temperature": 1e999}', b'{"prompt": "x", "no_such_thing": 1}', b'{"prompt": "' + b"x " * 2000 + b'"}', b'{"prompt": [1, 2, 99999999]}', b'{"prompt": [[[1]]]}',
             b'{"prompt": "x", "logit_bias": {"a": 3}}', b'{"prompt": "x", "stop": [1]}', b"[" * 30000, b'{"prompt": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, b'{"prompt":"x"}{"prompt":"y"}',
             b'{"prompt": "\\ud800"}', b'{"prompt": "x", "prompt": "y", "best_of": 0}', b'{"messages": [{"role": "user"}]}', b'{"prompt": "x", "stream": "yes"}']


class Soak:
    def __init__(self, args, server, model_seed):
        self.args, self.server, self.rng = args, server, random.Random(model_seed)
        self.known, self.did, self.statuses, self.wrong, self.open = {}, collections.Counter(), collections.Counter(), collections.Counter(), []
        status, said = serving.ask(server.port, "POST", "/v1/completions", dict(prompt="x", max_tokens=1, stop=["e"]))
        self.stops = status == 200
        if not self.stops:
            print(f"stop texts are left out: {said.decode()}")
        self.left, self.until = args.requests, time.monotonic() + 60 * args.minutes
        shares = dict(ask=36, stream=20, leave=16, leave_at_once=4, slow=4, malformed=7, oversized=3, garbage=3, half_open=3, silent=1, shut=2, keep_alive=2, other=2)
        self.kinds, self.weights = [getattr(self, name) for name in shares], list(shares.values())

    # ---- one thing that a client does

    async def judge(self, status, body, key, streamed):
        self.statuses[status] += 1
        if status in (429, 503): # as many wait as may
            await asyncio.sleep(0.1)
            return
        if status != 200:
            raise Wrong(f"{status} for a sound request: {body[:200]!r}")
        texts = texts_of(body, streamed)
        if self.known.setdefault(key, texts) != texts:
            raise Wrong(f"{key} was {self.known[key]} and is {texts}")

    async def ask(self, rng):
        path, body, key = draw_body(rng, False, self.stops)
        async with Connection(self.server.port) as c:
            await c.send(request(path, body))
            status, head, answer = await c.answer()
        if status == 429 and b"retry-after" not in head.lower():
            raise Wrong("429 without Retry-After")
        await self.judge(status, answer, key, False)

    async def stream(self, rng, pause=None):
        path, body, key = draw_body(rng, True, self.stops)
        async with Connection(self.server.port) as c:
            await c.send(request(path, body))
            status, _, answer = await c.answer(pause)
        await self.judge(status, answer, key, True)

    async def slow(self, rng):
        await self.stream(rng, rng.uniform(0.01, 0.1))

    async def leave(self, rng):
        path, body, _ = draw_body(rng, rng.random() < 0.8)
        body["max_tokens"] = 100
        async with Connection(self.server.port) as c:
            await c.send(request(path, body))
            await c.reader.read(rng.choice([1, 300, 3000]))
            if rng.random() < 0.5:
                c.reset()

    async def leave_at_once(self, rng):
        path, body, _ = draw_body(rng, True)
        async with Connection(self.server.port) as c:
            await c.send(request(path, body))
            if rng.random() < 0.5:
                c.reset()

    async def malformed(self, rng):
        bad = rng.choice(MALFORMED)
        if rng.random() < 0.2: # cut anywhere
            bad = request("", draw_body(rng, False)[1]).partition(b"\r\n\r\n")[2]
            bad = bad[: rng.randrange(1, len(bad) - 1)]
        async with Connection(self.server.port) as c:
            await c.send(request(rng.choice(["/v1/completions", "/v1/chat/completions", "/tokenize", "/score", "/v1/embeddings"]), bad))
            status, _, answer = await c.answer()
        self.statuses[status] += 1
        if status == 200: # an endpoint that takes it: /tokenize of "x", a prompt named twice
            json.loads(answer)
        elif not 400 <= status < 500 or "message" not in json.loads(answer)["error"]:
            raise Wrong(f"{status} {answer[:200]!r} to {bad[:60]!r}")

    async def oversized(self, rng):
        async with Connection(self.server.port) as c:
            try:
                if rng.random() < 0.5: # says so, and may send it
                    await c.send(request("/v1/completions", b"x" * 10).replace(b"Content-Length: 10", b"Content-Length: %d" % rng.choice([BODY + 1, 1 << 40, 10**30])))
                    await c.send(b"y" * rng.choice([0, 1000, BODY]))
                else:
                    await c.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for _ in range(BODY // 4096 + 4):
                        await c.send(b"1000\r\n" + b"z" * 4096 + b"\r\n")
                    await c.send(b"0\r\n\r\n")
                status, _, _ = await asyncio.wait_for(c.answer(), 3 * IDLE)
            except (ConnectionError, asyncio.TimeoutError, Wrong):
                return # it may hang up on what it will not read
        self.statuses[status] += 1
        if status not in (400, 413):
            raise Wrong(f"{status} to a body that is too large")

    async def garbage(self, rng):
        junk = rng.choice([rng.randbytes(300), b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 200, b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
                           b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n", b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                           b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n"])
        async with Connection(self.server.port) as c:
            try:
                await c.send(junk)
                c.writer.write_eof()
                await asyncio.wait_for(c.reader.read(1 << 20), 3 * IDLE)
            except (OSError, asyncio.TimeoutError): # it has hung up already
                pass

    async def half_open(self, rng):
        """Begun and never ended: the server closes it when its patience ends."""
        whole = request("/v1/completions", dict(prompt="x", max_tokens=3))
        c = Connection(self.server.port)
        await c.__aenter__()
        await c.send(whole[: rng.randrange(1, len(whole) - 1)])
        self.open.append(c)
        if len(self.open) > 100:
            old = self.open.pop(0)
            old.reset()
            await old.__aexit__()

    async def silent(self, rng):
        async with Connection(self.server.port):
            await asyncio.sleep(rng.random())

    async def shut(self, rng):
        """Says at once that it will send no more: the server may answer, or take it for gone."""
        path, body, key = draw_body(rng, False, self.stops)
        async with Connection(self.server.port) as c:
            await c.send(request(path, body))
            c.writer.write_eof()
            whole = await c.reader.read()
        if whole and not whole.startswith(b"HTTP/1.1 "):
            raise Wrong(f"the answer begins with {whole[:80]!r}")

    async def keep_alive(self, rng):
        """Several requests on one connection, all sent at once."""
        n = rng.randrange(2, 5)
        async with Connection(self.server.port) as c:
            for i in range(n):
                await c.send(request("/tokenize", dict(prompt=rng.choice(PROMPTS)), close=i == n - 1))
            got = b""
            while more := await c.reader.read(1 << 16):
                got += more
        if (found := got.count(b"HTTP/1.1 200")) != n:
            raise Wrong(f"{found} answers on one connection to {n} requests")

    async def other(self, rng):
        path = rng.choice(["/metrics", "/health", "/ready", "/v1/models", "/", "/nowhere", "/v1/models/none", "/..%2f..%2fetc/passwd", "/v1/completions"])
        async with Connection(self.server.port) as c:
            await c.send(request(path, b"", method="GET"))
            status, _, _ = await c.answer()
        self.statuses[status] += 1
        if status not in (200, 404, 405):
            raise Wrong(f"{status} for GET {path}")

    # ---- all of it

    async def client(self, n):
        rng = random.Random(self.args.seed * 1000 + n)
        while self.left > 0 and time.monotonic() < self.until and len(self.wrong) < 20:
            self.left -= 1
            kind = rng.choices(self.kinds, self.weights)[0]
            try:
                await asyncio.wait_for(kind(rng), PATIENCE)
            except Wrong as error:
                self.wrong[f"{kind.__name__}: {error}"] += 1
            except asyncio.TimeoutError:
                self.wrong[f"{kind.__name__}: nothing came in {PATIENCE} s"] += 1
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                self.wrong[f"{kind.__name__}: {error!r}"] += 1
                if not self.server.alive():
                    return
            except Exception as error: # an answer that cannot be read
                self.wrong[f"{kind.__name__}: {error!r}"] += 1
            self.did[kind.__name__] += 1

    async def watch(self, seen):
        """Anonymous memory as the soak goes on, by requests done."""
        while True:
            if self.server.alive():
                seen.append((self.args.requests - self.left, self.server.memory("RssAnon")))
            await asyncio.sleep(0.25)

    async def run(self):
        seen = []
        watcher = asyncio.create_task(self.watch(seen))
        await asyncio.gather(*(self.client(n) for n in range(self.args.clients)))
        watcher.cancel()
        for c in self.open:
            await c.__aexit__()
        return seen


def tiny_model(trilith, work):
    from pydoc_data.topics import topics

    text = os.path.join(work, "text.txt")
    with open(text, "w", encoding="ascii", errors="replace") as f:
        f.write("\n\n".join(topics.values())[:300000])
    subprocess.run([trilith, "train", "--data", text, "--out", f"{work}/run", "--model", "demo", "--tokenizer", "bytes", "--batch", "2", "--seq", str(CONTEXT), "--steps", "2", "--val-fraction", "0",
                    "--sample-tokens", "0", "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return f"{work}/run/checkpoints/latest"


def settled(server, seconds):
    """The metrics once nothing runs, or as they are after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        found = serving.metrics(serving.ask(server.port, "GET", "/metrics")[1].decode())
        if all(found[f"trilith:{name}", ()] == 0 for name in ("num_requests_running", "num_requests_waiting", "kv_used_pages")) or time.monotonic() > end:
            return found
        time.sleep(0.2)


def main():
    parser = argparse.ArgumentParser(description="a crowd that behaves badly, bounded")
    parser.add_argument("--trilith", required=True)
    parser.add_argument("--model", help="a model folder or GGUF file (default: a tiny one, made on the spot)")
    parser.add_argument("--requests", type=int, default=20000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=30, help="and no longer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--options", default="", metavar="'--look-up 4 …'", help="more options of trilith serve")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trilith-soak-") as work:
        model = args.model or tiny_model(args.trilith, work)
        with open(f"{work}/template", "w") as f:
            f.write(TEMPLATE)
        command = serving.trilith(args.trilith, model, "--template", f"{work}/template", "--context", CONTEXT, "--running", RUNNING, "--waiting", WAITING, "--max-body", BODY,
                                  "--idle-seconds", IDLE, "--step-tokens", 64, "--connections", 512, *shlex.split(args.options))
        with serving.Server(command) as server:
            page_bytes = int(settled(server, 5)["trilith:kv_page_bytes", ()])
        command += ["--kv-memory", PAGES * page_bytes]  # too few for all that may run: some give theirs back
        with serving.Server(command, log=f"{work}/serve.log") as server:
            before = settled(server, 5)
            soak = Soak(args, server, args.seed)
            began = time.monotonic()
            seen = asyncio.run(soak.run())
            took, wrong = time.monotonic() - began, list(soak.wrong.items())
            if not server.alive():
                raise SystemExit(f"soak_serve: the server died: status {server.process.returncode}\n{server.stop()}\n{wrong}")
            time.sleep(1.5 * IDLE) # half-open connections are closed by now
            after = settled(server, 30)
            final, third = server.memory("RssAnon"), [b for n, b in seen if n <= args.requests / 3]
            value = lambda name: int(after[f"trilith:{name}", ()])
            faults = [f"{n} × {what}" for what, n in wrong]
            for name in ("num_requests_running", "num_requests_waiting", "kv_used_pages"):
                if value(name):
                    faults.append(f"{name} is {value(name)} with nobody there")
            files = [int(m["process_open_fds", ()]) for m in (before, after)]
            if files[1] > files[0] + 2:
                faults.append(f"{files[1]} descriptors are open, {files[0]} were before")
            if final > third[-1] + GROWTH:
                faults.append(f"anonymous memory grew from {third[-1] / 1e6:.1f} MB after a third to {final / 1e6:.1f} MB")
            said = server.stop()
            if server.process.returncode != 0:
                faults.append(f"SIGTERM ended it with {server.process.returncode}: {said[-500:]}")
            ended = {dict(labels)["finished_reason"]: int(x) for (name, labels), x in after.items() if name == "trilith:request_success_total"}
            print(f"{sum(soak.did.values())} requests of {args.clients} clients in {took:.0f} s: {dict(soak.did)}\nstatus {dict(sorted(soak.statuses.items()))}; the engine ended {ended}, "
                  f"preempted {value('num_preemptions_total')}, found {value('prefix_cache_hits_total')} of {value('prefix_cache_queries_total')} tokens; {len(soak.known)} questions always had one answer\n"
                  f"memory {third[-1] / 1e6:.1f} MB after a third, {final / 1e6:.1f} MB in the end; descriptors {files[0]} → {files[1]}")
    for fault in faults:
        print(f"FAULT {fault[:600]}")
    print("the server stands" if not faults else f"{len(faults)} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
