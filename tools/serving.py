"""A server as a child process, and what a client needs to speak to it: bench_serve.py, soak_serve.py, page_serve.py and interop_serve_metrics.py."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time

HOST = "127.0.0.1"


def free_port():
    with socket.socket() as s:
        s.bind((HOST, 0))
        return s.getsockname()[1]


def trilith(program, model, *more):
    return [program, "serve", model, "--port", "{port}", *more]


def ask(port, method, path, body=None, timeout=60):
    """(status, bytes) of one request."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        data = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, data, {"Content-Type": "application/json"} if data is not None else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Server:
    """Starts command with its port put for {port}, and waits until `ready` answers 200: start_seconds is how long that took."""

    def __init__(self, command, ready="/ready", log=None, patience=120):
        self.port = free_port()
        self.command = [str(c).replace("{port}", str(self.port)) for c in command]
        self.log = log or os.devnull
        began = time.perf_counter()
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        while True:
            try:
                if ask(self.port, "GET", ready, timeout=5)[0] == 200:
                    break
            except OSError:
                pass
            if self.process.poll() is not None or time.perf_counter() - began > patience:
                raise SystemExit(f"{' '.join(self.command)} is not ready:\n{self.stop()}")
            time.sleep(0.002)
        self.start_seconds = time.perf_counter() - began

    def memory(self, key="VmHWM"):
        """Bytes, of /proc/PID/status: VmHWM is the peak, VmRSS what is resident now, RssAnon what of it is of no file."""
        with open(f"/proc/{self.process.pid}/status") as f:
            return int(re.search(rf"^{key}:\s*(\d+) kB", f.read(), re.M).group(1)) * 1024

    def alive(self):
        return self.process.poll() is None

    def stop(self, patience=20):
        """As a supervisor does; what it said last."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.log == os.devnull:
            return ""
        with open(self.log, errors="replace") as f:
            return f.read()[-4000:]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def metrics(text):
    """{(name, ((label, value), …)): number} of Prometheus' text format, as far as this project writes it."""
    found = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, labels, value = re.fullmatch(r'([A-Za-z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})? (\S+)', line).groups()
        pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or "")
        found[name, tuple(sorted((k, v) for k, v in pairs if k != "model_name"))] = float(value)
    return found
