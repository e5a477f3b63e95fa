"""A stand-in for a vLLM server, whose metrics are counted from simulated requests.

Names, labels and buckets are those of vLLM 0.32 (`vllm/v1/metrics/loggers.py`).
"""

import asyncio
import contextlib
import http.server
import json
import math
import random
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

TOKENS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
SECONDS: Final = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0)
FIRST_TOKEN: Final = (
    0.001,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    10.0,
)
BETWEEN_TOKENS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
HISTOGRAMS: Final = {
    "time_to_first_token_seconds": FIRST_TOKEN,
    "inter_token_latency_seconds": BETWEEN_TOKENS,
    "e2e_request_latency_seconds": SECONDS,
    "request_queue_time_seconds": SECONDS,
    "request_prefill_time_seconds": SECONDS,
    "request_decode_time_seconds": SECONDS,
    "request_prompt_tokens": TOKENS,
    "request_generation_tokens": TOKENS,
}
COUNTERS: Final = (
    "prompt_tokens", "generation_tokens", "num_preemptions", "prefix_cache_queries",
    "prefix_cache_hits",
)  # fmt: skip
GAUGES: Final = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
STEP: Final = 0.5
"""Seconds between two steps of the simulation."""
REASONS: Final = ("stop", "length", "abort", "error", "repetition")
LABELS: Final = ("model_name", "engine")


class SimulatedVllm:
    """A server on loopback; `port` is kept when it is started again."""

    def __init__(
        self,
        model: str = "tiny",
        engines: int = 1,
        *,
        prefix: str = "vllm:",
        started: int = 1_700_000_000,
    ) -> None:
        self.models, self.version, self.health = [model], "0.32.0", 200
        self.api_key, self.load = "", 0
        self.page: bytes | None = None
        """Sent in place of the page of metrics."""
        self.seen: list[str] = []
        """The paths that were requested, with the header `Authorization`."""
        self.model, self.port = model, 0
        self._server: http.server.ThreadingHTTPServer | None = None
        self._prefix, self._engines = prefix, engines
        self._started = started
        self.reset()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Count from zero, as a server that was started again."""
        registry = self._registry = CollectorRegistry()
        self._started += 100
        name = self._prefix
        self._gauges = {
            each: Gauge(name + each, each, LABELS, registry=registry) for each in GAUGES
        }
        self._counters = {
            each: Counter(name + each, each, LABELS, registry=registry) for each in COUNTERS
        }
        self._histograms = {
            each: Histogram(name + each, each, LABELS, buckets=buckets, registry=registry)
            for each, buckets in HISTOGRAMS.items()
        }
        self._finished = Counter(
            name + "request_success", "Finished", (*LABELS, "finished_reason"), registry=registry
        )
        self._sleep = Gauge(
            name + "engine_sleep_state", "Sleep", (*LABELS, "sleep_state"), registry=registry
        )
        start = Gauge("process_start_time_seconds", "Start", registry=registry)
        start.set(self._started)
        for engine in range(self._engines):
            self.set_load(0, 0, 0.0, engine=engine)
            self.set_awake(True, engine=engine)
            for each in (*self._counters.values(), *self._histograms.values()):
                each.labels(self.model, str(engine))
            for reason in REASONS:
                self._finished.labels(self.model, str(engine), reason)

    def set_load(self, running: int, waiting: int, kv_cache: float, *, engine: int = 0) -> None:
        """Set the gauges of an engine."""
        for gauge, value in zip(GAUGES, (running, waiting, kv_cache), strict=True):
            self._gauges[gauge].labels(self.model, str(engine)).set(value)

    def set_awake(self, is_awake: bool, *, engine: int = 0) -> None:
        """Put an engine to sleep, or wake it."""
        for state, value in (("awake", is_awake), ("weights_offloaded", not is_awake)):
            self._sleep.labels(self.model, str(engine), state).set(int(value))

    def preempt(self, number: int = 1) -> None:
        """Count preemptions."""
        self._counters["num_preemptions"].labels(self.model, "0").inc(number)

    def finish(
        self,
        *,
        prompt: int = 100,
        generated: int = 20,
        queue: float = 0.0,
        prefill: float = 0.1,
        decode: float = 1.0,
        cached: int = 0,
        reason: str = "stop",
        engine: int = 0,
    ) -> None:
        """Count a finished request, by its tokens and the seconds of its phases."""
        labels = self.model, str(engine)
        observed = {
            "time_to_first_token_seconds": queue + prefill,
            "inter_token_latency_seconds": decode / max(generated - 1, 1),
            "e2e_request_latency_seconds": queue + prefill + decode,
            "request_queue_time_seconds": queue,
            "request_prefill_time_seconds": prefill,
            "request_decode_time_seconds": decode,
            "request_prompt_tokens": prompt,
            "request_generation_tokens": generated,
        }
        for name, value in observed.items():
            self._histograms[name].labels(*labels).observe(value)
        counted = (prompt, generated, 0, prompt, cached)
        for name, number in zip(COUNTERS, counted, strict=True):
            self._counters[name].labels(*labels).inc(number)
        self._finished.labels(*labels, reason).inc()

    def start(self) -> Self:
        handler = make_handler(self)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def answer(self, path: str, authorization: str) -> tuple[int, str, bytes]:
        """The status, type and body of the response to a request."""
        self.seen.append(f"{path} {authorization}".strip())
        match path:
            case "/metrics":
                page = generate_latest(self._registry) if self.page is None else self.page
                return 200, "text/plain; version=0.0.4", page
            case "/health":
                return self.health, "text/plain", b""
            case "/version":
                body: dict[str, Any] = {"version": self.version}
            case "/load":
                body = {"server_load": self.load}
            case "/v1/models":
                if self.api_key and authorization != f"Bearer {self.api_key}":
                    return 401, "application/json", b'{"error": "Unauthorized"}'
                body = {"data": [{"id": model, "max_model_len": 4096} for model in self.models]}
            case _:
                return 404, "text/plain", b""
        return 200, "application/json", json.dumps(body).encode()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class SimulatedRequests:
    """Requests that arrive, wait, are computed and finish, in steps of simulated seconds.

    Load rises and falls; at its peak more arrive than `SLOTS` can run, so that requests wait and
    the KV cache fills up.
    """

    SLOTS: Final = 8
    PERIOD: Final = 240.0

    def __init__(self, server: SimulatedVllm, seed: int) -> None:
        self._server, self._random = server, random.Random(seed)  # nosec B311 # simulates load
        self._at = 0.0
        self._waiting: list[float] = []
        """When each of the waiting requests arrived."""
        self._running: list[tuple[float, dict[str, Any]]] = []
        """When each of the running ones ends, and its figures."""

    def step(self, seconds: float) -> None:
        """Simulate some seconds."""
        self._at += seconds
        rate = 0.9 + 0.8 * math.sin(2 * math.pi * self._at / self.PERIOD)
        for _ in range(self._count_arrivals(rate * seconds)):
            self._waiting.append(self._at)
        for end, figures in self._running:
            if end <= self._at:
                self._server.finish(**figures)
        self._running = [each for each in self._running if each[0] > self._at]
        while self._waiting and len(self._running) < self.SLOTS:
            self._begin(self._waiting.pop(0))
        self._server.load = len(self._running) + len(self._waiting)
        self._server.set_load(
            len(self._running), len(self._waiting),
            min(len(self._running) / self.SLOTS * 0.85 + 0.01 * len(self._waiting), 0.99),
        )  # fmt: skip

    def _count_arrivals(self, expected: float) -> int:
        whole = int(expected)
        return whole + (self._random.random() < expected - whole)

    def _begin(self, arrived: float) -> None:
        prompt = self._random.choice((200, 400, 800, 3_000))
        generated = self._random.randint(40, 400)
        prefill, decode = prompt / 4_000, generated * 0.02 * (1 + 0.05 * len(self._running))
        figures = {
            "prompt": prompt, "generated": generated, "queue": self._at - arrived,
            "prefill": prefill, "decode": decode,
            "cached": int(prompt * self._random.uniform(0.2, 0.7)),
            "reason": "length" if generated > 380 else "stop",
        }  # fmt: skip
        self._running.append((self._at + prefill + decode, figures))


@contextlib.asynccontextmanager
async def run_simulated_vllm(seed: int) -> AsyncIterator[dict[str, Any]]:
    """Run a server with simulated requests; yields its settings for the vLLM plugin."""

    async def work(requests: SimulatedRequests) -> None:
        while True:
            requests.step(STEP)
            await asyncio.sleep(STEP)

    with SimulatedVllm("simulated-7b") as server:
        task = asyncio.create_task(work(SimulatedRequests(server, seed)), name="simulated vLLM")
        try:
            yield {"name": "chat", "url": server.url, "simulated": True}
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def make_handler(server: SimulatedVllm) -> type[http.server.BaseHTTPRequestHandler]:
    """The handler of the requests to a server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            authorization = self.headers.get("authorization", "")
            status, content_type, body = server.answer(self.path, authorization)
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    return Handler
