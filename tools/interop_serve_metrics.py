"""GET /metrics of `trilith serve` as Prometheus itself reads it: promtool's check, and a scrape by a real Prometheus, asked what vLLM's dashboards ask.

    interop_serve_metrics.py --trilith build/trilith [--model FILE]

interop.py runs it too. Without prometheus and promtool (Debian: prometheus) it is skipped, and says so.
"""

import argparse
import concurrent.futures
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse

import serving

CLIENTS, REQUESTS, MADE = 6, 18, 24
# promtool's taste against vLLM's names: a colon belongs to recorded rules, and _total to counters.
TASTE = ["metric names should not contain ':'", 'trilith:iteration_tokens_total non-counter metrics should not have "_total" suffix']


def missing():
    """What is not here, as a sentence; None: all is."""
    absent = [name for name in ("prometheus", "promtool") if not shutil.which(name)]
    return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed (Debian: apt-get install prometheus)" if absent else None


def check_text(text):
    said = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60)
    lines = [line for line in (said.stdout + said.stderr).decode().splitlines() if line and not any(t in line for t in TASTE)]
    assert said.returncode in (0, 3) and not lines, f"promtool says: {'; '.join(lines) or said.returncode}"
    return text.count(b"# TYPE")


class Prometheus:
    """A Prometheus that scrapes one port twice a second."""

    def __init__(self, work, target):
        config = os.path.join(work, "prometheus.yml")
        with open(config, "w") as f:
            f.write(f"global: {{scrape_interval: 500ms}}\nscrape_configs: [{{job_name: trilith, static_configs: [{{targets: ['{serving.HOST}:{target}']}}]}}]\n")
        self.server = serving.Server(["prometheus", f"--config.file={config}", f"--storage.tsdb.path={work}/prometheus", f"--web.listen-address={serving.HOST}:{{port}}",
                                      "--log.level=error"], "/-/ready", os.path.join(work, "prometheus.log"))

    def query(self, what):
        """[(labels, number)] of an instant query."""
        status, said = serving.ask(self.server.port, "GET", "/api/v1/query?" + urllib.parse.urlencode(dict(query=what)))
        assert status == 200, f"{what}: {said.decode()[:300]}"
        return [(r["metric"], float(r["value"][1])) for r in json.loads(said)["data"]["result"]]

    def one(self, what):
        found = self.query(what)
        assert len(found) == 1, f"{what} has {len(found)} answers: {found}"
        return found[0][1]


def converse(port, i):
    status, said = serving.ask(port, "POST", "/v1/completions", dict(prompt=f"Number {i} is a number that", max_tokens=MADE, ignore_eos=True, temperature=0.5, seed=i))
    assert status == 200, said.decode()[:300]
    return json.loads(said)["usage"]


def run(trilith, model):
    """Says what was seen; AssertionError where Prometheus saw another thing than happened."""
    with tempfile.TemporaryDirectory(prefix="trilith-metrics-") as work, serving.Server(serving.trilith(trilith, model, "--context", 512, "--running", 4), log=f"{work}/serve.log") as server:
        check_text(serving.ask(server.port, "GET", "/metrics")[1])  # of a server that has done nothing
        prometheus = Prometheus(work, server.port)
        with prometheus.server:
            with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
                usages = list(pool.map(lambda i: converse(server.port, i), range(REQUESTS)))
            text = serving.ask(server.port, "GET", "/metrics")[1]
            families = check_text(text)
            made, end = sum(u["completion_tokens"] for u in usages), time.monotonic() + 20
            assert made == REQUESTS * MADE
            while not (seen := prometheus.query("trilith:generation_tokens_total")) or seen[0][1] < made:
                assert time.monotonic() < end, f"Prometheus has seen {seen} of {made} tokens; its log: {open(os.path.join(work, 'prometheus.log')).read()[-500:]}"
                time.sleep(0.2)
            assert prometheus.one("up") == 1 and seen[0][0]["model_name"] == os.path.basename(model).removesuffix(".gguf"), seen
            exact = {"trilith:generation_tokens_total": made, "trilith:prompt_tokens_total": sum(u["prompt_tokens"] for u in usages),
                     'trilith:request_success_total{finished_reason="length"}': REQUESTS, "sum(trilith:request_success_total)": REQUESTS,
                     "trilith:num_requests_running": 0, "trilith:num_requests_waiting": 0, "trilith:kv_cache_usage_perc": 0,
                     "trilith:time_to_first_token_seconds_count": REQUESTS, "trilith:inter_token_latency_seconds_count": made - REQUESTS,
                     "trilith:e2e_request_latency_seconds_count": REQUESTS, "trilith:request_generation_tokens_sum": made}
            for what, want in exact.items():
                assert (got := prometheus.one(what)) == want, f"{what} is {got} to Prometheus where {want} happened"
            # As dashboards ask: quantiles from buckets, and the parts of a request against the whole.
            for family in ("time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds"):
                assert not math.isnan(prometheus.one(f"histogram_quantile(0.95, sum by (le) (trilith:{family}_bucket))")), family
            parts = sum(prometheus.one(f"trilith:request_{part}_time_seconds_sum") for part in ("queue", "prefill", "decode"))
            whole = prometheus.one("trilith:e2e_request_latency_seconds_sum")
            assert 0.9 * whole <= parts <= whole * (1 + 1e-9), f"queue, prefill and decode are {parts} of {whole} s"
            running = prometheus.one("max_over_time(trilith:num_requests_running[5m])")
            assert running <= 4, f"{running} ran where 4 may"
            # The ledger: classes add up to the steps, and the rest is small.
            steps = prometheus.one("trilith:step_seconds_total")
            assert math.isclose(prometheus.one("sum(trilith:operator_seconds_total)"), steps, rel_tol=1e-6)
            share = {labels["operator"]: x / steps for labels, x in prometheus.query("trilith:operator_seconds_total")}
            # Scraped once, the machine is measured when nothing else is to do; nothing is faster than what it was measured to do.
            end = time.monotonic() + 20
            while not (peaks := {labels["type"]: x for labels, x in prometheus.query("trilith:peak_flops_per_second")}):
                assert time.monotonic() < end, "the peaks were not measured"
                time.sleep(0.3)
            rate = prometheus.one('trilith:operator_flops_per_second{operator="matmul"}')
            assert 0 < rate < 1.5 * max(peaks.values()) and prometheus.one("trilith:peak_bytes_per_second") > 0, f"{rate} FLOP/s of {peaks}"
            alive = prometheus.one("time() - process_start_time_seconds")
            assert steps <= alive and 0 < prometheus.one("process_resident_memory_bytes"), f"{steps} s of steps in {alive} s"
            return f"{families} families, {made} tokens of {REQUESTS} requests; matmul {100 * share['matmul']:.0f} % of steps at {100 * rate / max(peaks.values()):.1f} % of the highest peak, in no class {100 * share['other']:.1f} %"


def main():
    parser = argparse.ArgumentParser(description="/metrics as a real Prometheus reads it")
    parser.add_argument("--trilith", required=True)
    parser.add_argument("--model", help="GGUF (default: SmolLM2 of tools/requirements-models.txt)")
    args = parser.parse_args()
    if missing():
        print(f"skipped: {missing()}")
        return
    if not args.model:
        import real_models

        args.model = real_models.smollm2()
    print(run(args.trilith, args.model))


if __name__ == "__main__":
    sys.exit(main())
