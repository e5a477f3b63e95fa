"""What the servers have, read without Almenara, and which displayed numbers contradict it."""

import asyncio
import re
import time
from collections import deque
from collections.abc import Container, Iterator, Mapping
from typing import Any, Final

import httpx
from soak.history import Publisher
from soak.rules import View, live_resources, text_of
from soak.servers import Server

WINDOW: Final = 12.0
"""Seconds that a number may be old: 10, and the time between two looks at both sides."""


Statuses = Mapping[str, str]


class Window:
    """The statuses of named things over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Statuses]] = deque()

    def add(self, statuses: Statuses) -> None:
        """Note what is true now."""
        self._samples.append((time.monotonic(), statuses))
        while len(self._samples) > 2 and self._samples[1][0] < time.monotonic() - WINDOW:
            self._samples.popleft()

    def clear(self) -> None:
        """Forget everything: the server was restarted, or did not answer."""
        self._samples.clear()

    @property
    def is_full(self) -> bool:
        """Whether it covers all of the time that a number may be old."""
        return bool(self._samples) and self._samples[0][0] <= time.monotonic() - WINDOW + 2

    @property
    def samples(self) -> list[Statuses]:
        """The statuses of each moment."""
        return [statuses for _, statuses in self._samples]

    def contradict(self, shown: Statuses, present: Container[str] | None = None) -> str:
        """Return what was not true at any moment of the window; empty where all was. `present` are
        the things that are not missing; by default those shown."""
        seen: dict[str, set[str]] = {}
        always: dict[str, int] = {}
        for statuses in self.samples:
            for name, status in statuses.items():
                seen.setdefault(name, set()).add(status)
                always[name] = always.get(name, 0) + 1
        for name, status in shown.items():
            if status not in seen.get(name, ()):
                return f"{name} is shown as {status}, and was {sorted(seen.get(name, ()))}"
        missing = [
            name
            for name, count in always.items()
            if count == len(self._samples) and name not in (shown if present is None else present)
        ]
        return f"{missing[0]} exists and is not shown" if missing else ""

    def counts(self, status: str = "") -> range:
        """The least and the greatest number of things with a status, as a range."""
        counts = [
            sum(1 for each in statuses.values() if status in ("", each))
            for statuses in self.samples
        ]
        return range(min(counts), max(counts) + 1)


class Truth:
    """Asks each server directly, and compares the numbers of a view with the answers."""

    def __init__(self, servers: dict[str, Server], publisher: Publisher) -> None:
        self.servers, self.publisher = servers, publisher
        self.windows = {name: Window() for name in ("nats", "kubernetes", "ray")}
        self._client = httpx.AsyncClient(timeout=2)

    async def update(self, down: set[str]) -> None:
        """Ask every server that has no fault."""
        self.windows["nats"].add(
            {name: str(last) for name, last in self.publisher.last_sequences.items()}
        )
        await asyncio.gather(
            *(
                self._update(name, request)
                for name, request in (("kubernetes", self._pods), ("ray", self._jobs))
                if name not in down
            )
        )
        for name in down & self.windows.keys():
            self.windows[name].clear()

    async def _update(self, name: str, request: Any) -> None:
        try:
            self.windows[name].add(await request())
        except (httpx.HTTPError, OSError):
            self.windows[name].clear()

    async def _get(self, name: str, path: str) -> Any:
        response = await self._client.get(f"http://127.0.0.1:{self.servers[name].port}{path}")
        return response.json()

    async def _pods(self) -> Statuses:
        answer = await self._get("kubernetes", "/api/v1/pods")
        return {
            f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": pod["status"]["phase"]
            for pod in answer["items"]
        }

    async def _jobs(self) -> Statuses:
        answer = await self._get("ray", "/api/jobs/")
        return {job["submission_id"]: job["status"] for job in answer}

    def contradictions(self, view: View) -> Iterator[tuple[str, str, str]]:
        """Yield the server, the surface, and what is shown although it is not true."""
        if self.windows["nats"].is_full:
            yield from self._nats(view)
        if self.windows["kubernetes"].is_full:
            yield from self._kubernetes(view)
        if self.windows["ray"].is_full:
            yield from self._ray(view)
        yield from self._prometheus(view)

    def _nats(self, view: View) -> Iterator[tuple[str, str, str]]:
        shown = {
            each["name"]: float(each["samples"].get("messages", -1))
            for each in live_resources(view, "nats.stream")
        }
        yield "nats", "api messages", self._outside(shown)
        for surface in ("live", "page"):
            html = view.panels.get((surface, "nats.streams"), "")
            rows = re.findall(
                r'<th scope="row"><a[^>]*>([^<]*)</a>.*?title="\d+ consumers">[^<]*</a></td>'
                r'<td class="right figure wide"><a[^>]*>([\d,]+)<',
                html,
                re.DOTALL,
            )
            numbers = {name: float(number.replace(",", "")) for name, number in rows}
            yield "nats", f"{surface} messages", self._outside(numbers)

    def _outside(self, shown: Mapping[str, float]) -> str:
        """Return a number of messages that a stream did not have within the window."""
        samples = self.windows["nats"].samples
        for name, number in shown.items():
            least = min(int(statuses.get(name, 0)) for statuses in samples)
            greatest = self.publisher.most_messages(name)
            if not least <= number <= greatest:
                return f"{name} has {least} to {greatest} messages, and {number:g} are shown"
        return ""

    def _kubernetes(self, view: View) -> Iterator[tuple[str, str, str]]:
        window = self.windows["kubernetes"]
        pods = list(live_resources(view, "kubernetes.pod"))
        shown = {f"{pod['namespace']}/{pod['name']}": pod["state"].get("phase", "") for pod in pods}
        yield "kubernetes", "api pods", window.contradict(shown)
        for surface in ("live", "page"):
            for panel, pattern in (
                ("kubernetes.head", r"(\d+) pods in \d+ namespaces"),
                ("kubernetes.glance", r"(\d+) pods (?!in)"),
            ):
                text = text_of(view.panels.get((surface, panel), ""))
                match = re.search(pattern, text)
                is_wrong = match is not None and int(match[1]) not in window.counts()
                yield (
                    "kubernetes",
                    f"{surface} {panel} number of pods",
                    f"{window.counts()} pods exist: {text[:400]}" if is_wrong else "",
                )

    def _ray(self, view: View) -> Iterator[tuple[str, str, str]]:
        window = self.windows["ray"]
        jobs = list(live_resources(view, "ray.job"))
        running = {job["name"]: job["status"] for job in jobs if job["status"] == "RUNNING"}
        # Of a job that has not run all of the time, any status is right.
        ended = self._not_always_running(window)
        yield "ray", "api jobs", window.contradict(running, ended | running.keys())
        for surface in ("live", "page"):
            for panel, pattern in (
                ("ray.overview", r"(\d+) running jobs?\b"),
                ("ray.clusters", r"Jobs (\d+) running"),
                ("ray.jobs", r"^running (\d+)"),
            ):
                text = text_of(view.panels.get((surface, panel), ""))
                match = re.search(pattern, text)
                is_wrong = match is not None and int(match[1]) not in window.counts("RUNNING")
                yield (
                    "ray",
                    f"{surface} {panel} running jobs",
                    f"{window.counts('RUNNING')} run: {text[:400]}" if is_wrong else "",
                )

    def _not_always_running(self, window: Window) -> set[str]:
        return {
            name
            for statuses in window.samples
            for name, status in statuses.items()
            if status != "RUNNING"
        }

    def _prometheus(self, view: View) -> Iterator[tuple[str, str, str]]:
        """The page of metrics has the time as its value."""
        for each in live_resources(view, "process"):
            value = each["samples"].get("memory", 0.0)
            age = time.time() - value
            wrong = f"a value of {age:.1f} s ago is shown" if age > WINDOW else ""
            yield "prometheus", "api process", wrong

    async def close(self) -> None:
        """Close the connections to the servers."""
        await self._client.aclose()
