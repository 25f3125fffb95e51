"""A crowd that behaves badly, against one `trilith serve`: clients that leave, read slowly, send too much, nonsense, half a request or nothing.

    soak_serve.py --trilith build/trilith --model MODEL [--requests 20000] [--clients 64] [--minutes 10] [--seed N]

Every request with a seed that was answered whole must have the bytes that it has alone. At the end nothing may be stuck: the server still answers, it
ends by itself with status 0 (its own assertions count the pages), and its memory is where it was after a quarter of the requests. Loopback only.
"""
import argparse
import collections
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

BODY = 20_000  # --max-body


def request(method, path, body=b"", headers=()):
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Client:
    def __init__(self, port, rng, known):
        self.port, self.rng, self.known, self.counts, self.wrong = port, rng, known, collections.Counter(), []

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.port), 60)
        s.settimeout(60)
        return s

    def read(self, s, slowly=False, most=None):
        """All of one response, to the end of the connection (which is asked to close)."""
        out = bytearray()
        while most is None or len(out) < most:
            piece = s.recv(self.rng.choice((1, 7, 64)) if slowly and len(out) < 300 else 65536)
            if not piece:
                break
            out += piece
            if slowly:
                time.sleep(0.002)
        return bytes(out)

    def ask(self, stream):
        i = self.rng.randrange(len(PROMPTS))
        body = dict(PROMPTS[i], **({"stream": True} if stream else {}))
        return i, request("POST", "/v1/completions", json.dumps(body).encode(), ["Connection: close"])

    def text_of(self, response, stream):
        head, _, body = response.partition(b"\r\n\r\n")
        if b" 429 " in head.split(b"\r\n")[0]:
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            raise AssertionError(f"a request was answered {response[:300]}")
        if not stream:
            return [c["text"] for c in json.loads(body)["choices"]]
        texts, plain = {}, unchunk(body) if b"chunked" in head.lower() else body
        if not plain.endswith(b"data: [DONE]\n\n"):
            raise AssertionError(f"a stream without its end: {plain[-200:]}")
        for line in plain.split(b"\n\n"):
            if line.startswith(b"data: {"):
                for c in json.loads(line[6:])["choices"]:
                    texts[c["index"]] = texts.get(c["index"], "") + c["text"]
        return [texts[k] for k in sorted(texts)]

    def whole(self, slowly=False):
        stream = self.rng.random() < 0.5
        i, bytes_ = self.ask(stream)
        with self.connect() as s:
            s.sendall(bytes_)
            text = self.text_of(self.read(s, slowly), stream)
        if text is not None and self.known.setdefault(i, text) != text:
            raise AssertionError(f"request {i} was answered {text} and {self.known[i]}")
        return "busy" if text is None else "slow" if slowly else "whole"

    def slow(self):
        return self.whole(slowly=True)

    def leave(self):
        _, bytes_ = self.ask(self.rng.random() < 0.5)
        with self.connect() as s:
            s.sendall(bytes_)
            if self.rng.random() < 0.5:
                self.read(s, most=self.rng.randrange(1, 400))
            if self.rng.random() < 0.5:  # a reset, not an end
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return "left"

    def half(self):
        _, bytes_ = self.ask(False)
        with self.connect() as s:
            s.sendall(bytes_[:self.rng.randrange(len(bytes_))])
            time.sleep(self.rng.random() * 0.05)
        return "half a request"

    def silent(self):
        with self.connect():
            time.sleep(self.rng.random() * 0.2)
        return "silent"

    def shut(self):
        """Says at once that it will send no more: the server may take it as one that has left, or answer."""
        _, bytes_ = self.ask(False)
        with self.connect() as s:
            s.sendall(bytes_)
            s.shutdown(socket.SHUT_WR)
            self.read(s)
        return "half-open"

    def oversized(self):
        with self.connect() as s:
            try:
                if self.rng.random() < 0.5:
                    s.sendall(request("POST", "/v1/completions", b" " * (BODY + 1 + self.rng.randrange(60_000)), ["Connection: close"]))
                else:
                    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for _ in range(30):
                        s.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
                    s.sendall(b"0\r\n\r\n")
                self.read(s, most=12)
            except (ConnectionError, BrokenPipeError):
                pass
        return "oversized"

    def malformed(self):
        good = json.dumps(self.rng.choice(PROMPTS)).encode()
        kind = self.rng.randrange(4)
        if kind == 0:
            body = bytes(self.rng.randrange(256) for _ in range(self.rng.randrange(1, 200)))
        elif kind == 1:
            body = good[:-1 - self.rng.randrange(len(good) - 2)]
        elif kind == 2:
            body = good[:-1] + b',"temprature":1}'
        else:
            body = good[:-1] + b',"temperature":"hot"}'
        with self.connect() as s:
            s.sendall(request("POST", "/v1/completions", body, ["Connection: close"]))
            answer = self.read(s)
        if not answer.startswith(b"HTTP/1.1 400") or b'{"error":{' not in answer:
            raise AssertionError(f"{body!r} was answered {answer[:300]}")
        return "malformed"

    def noise(self):
        with self.connect() as s:
            s.sendall(bytes(self.rng.randrange(256) for _ in range(self.rng.randrange(1, 400))) + b"\r\n\r\n")
            s.settimeout(0.2)
            try:
                self.read(s, most=12)
            except (TimeoutError, ConnectionError):
                pass
        return "noise"

    def run(self, left, until):
        kinds = [self.whole] * 8 + [self.slow, self.leave, self.leave, self.leave, self.half, self.silent, self.shut, self.oversized, self.malformed, self.noise]
        while next(left, None) is not None and time.monotonic() < until and not self.wrong:
            kind = self.rng.choice(kinds)
            try:
                self.counts[kind()] += 1
            except ConnectionError as e:
                if kind in (self.whole, self.slow, self.malformed):
                    self.wrong.append(f"{kind.__name__}: {e!r}")
                self.counts["cut off"] += 1
            except Exception as e:
                self.wrong.append(f"{kind.__name__}: {e!r}")


def unchunk(body):
    out = bytearray()
    while body:
        size, _, body = body.partition(b"\r\n")
        n = int(size, 16)
        out += body[:n]
        body = body[n + 2:]
    return bytes(out)


def make_prompts(rng):
    shared = [rng.randrange(3, 250) for _ in range(60)]
    return [{"prompt": shared[:rng.randrange(1, 60)] + [rng.randrange(3, 250) for _ in range(rng.randrange(1, 20))], "max_tokens": rng.choice((1, 4, 16, 48)),
             "temperature": rng.choice((0, 1)), "seed": rng.randrange(1 << 40), "n": rng.choice((1, 1, 1, 3)), "ignore_eos": rng.random() < 0.5} for _ in range(200)]


class Counter:
    def __init__(self, n):
        self.lock, self.n = threading.Lock(), n

    def __iter__(self):
        return self

    def __next__(self):
        with self.lock:
            self.n -= 1
            if self.n < 0:
                raise StopIteration
            return self.n


def resident(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) * 1024


def main():
    parser = argparse.ArgumentParser(description="a crowd that behaves badly")
    parser.add_argument("--trilith", default="build/trilith")
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("options", nargs="*", help="of trilith serve, after --")
    args = parser.parse_args()
    global PROMPTS
    PROMPTS = make_prompts(random.Random(args.seed))
    process = subprocess.Popen([args.trilith, "serve", args.model, "--port", "0", "--max-body", str(BODY), *args.options], stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    assert line.startswith("listening http://"), line
    port = int(line.rsplit(":", 1)[1])
    ready = process.stderr.readline()
    assert ready.startswith("ready "), ready
    print(f"seed {args.seed}; {ready.strip()}", flush=True)
    known, left, until, began = {}, Counter(args.requests), time.monotonic() + 60 * args.minutes, time.monotonic()
    clients = [Client(port, random.Random(args.seed * 1000 + i), known) for i in range(args.clients)]
    threads = [threading.Thread(target=c.run, args=(left, until), daemon=True) for c in clients]
    for t in threads:
        t.start()
    early = None
    while any(t.is_alive() for t in threads):
        time.sleep(0.2)
        if process.poll() is not None:
            break
        if early is None and left.n < args.requests * 3 // 4:
            early = resident(process.pid)
        if time.monotonic() > until + 120:
            break
    seconds, wrong = time.monotonic() - began, [w for c in clients for w in c.wrong]
    if any(t.is_alive() for t in threads):
        wrong.append("clients wait and are not answered")
    if process.poll() is None:
        late = resident(process.pid)
        c = Client(port, random.Random(1), known)
        try:
            c.whole()
        except Exception as e:
            wrong.append(f"afterwards: {e!r}")
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            wrong.append("the server does not end")
            process.kill()
    said = process.stderr.read().strip()
    if process.wait() != 0:
        wrong.append(f"the server ended with status {process.returncode}: {said[-2000:]}")
    else:
        print(f"memory {(early or 0) / 1e6:.0f} MB after a quarter, {late / 1e6:.0f} MB at the end")
        if early and late > early + 32e6:
            wrong.append("memory grows")
    total = sum((c.counts for c in clients), collections.Counter())
    print(f"{sum(total.values())} requests in {seconds:.0f} s: " + ", ".join(f"{n} {k}" for k, n in total.most_common()))
    for w in wrong[:20]:
        print("WRONG", w)
    return 1 if wrong else 0



if __name__ == "__main__":
    sys.exit(main())
