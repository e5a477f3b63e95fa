"""Looks at every surface of Almenara each second, and notes what contradicts the truth."""

import asyncio
import contextlib
import dataclasses
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
from soak.history import Publisher
from soak.rules import RULES, View
from soak.servers import Server
from soak.states import States
from soak.truth import Truth
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from support.application import Almenara


@dataclasses.dataclass(frozen=True)
class Limits:
    """Seconds after which a claim that is wrong is a violation."""

    failure: float = 10.0
    """The claim that a server which fails is healthy."""
    recovery: float = 30.0
    """The claim that a server which answers fails."""
    number: float = 3.0
    """A number outside of its window, which is 12 s long."""


TICK: Final = 1.0
LATE: Final = 1.0
"""Seconds of delay by the machine from which on a tick is not judged; less is subtracted."""
PAGES_A_TICK: Final = 3
PAGES: Final = (
    "/", "/sources", "/dashboards/nats", "/dashboards/kubernetes", "/dashboards/kubernetes.pods",
    "/dashboards/kubernetes.nodes", "/dashboards/ray", "/dashboards/http", "/dashboards/prometheus",
)  # fmt: skip
SECTION: Final = re.compile(r'<section id="panel-([\w-]+)-section".*?</section>', re.DOTALL)
CHANNEL: Final = re.compile(r"panel=([^&\"]+)")
BEAT_LIMIT: Final = 20.0


class LivePage:
    """The live channels of one page, with what a browser would show of each."""

    def __init__(self, url: str, path: str) -> None:
        self.url, self.path = url, path
        self.panels: dict[str, str] = {}
        self.frames = 0

    async def run(self) -> None:
        """Follow the channels, and connect again where the connection ends, until cancelled."""
        while True:
            self.panels.clear()
            with contextlib.suppress(OSError, WebSocketException, httpx.HTTPError, TimeoutError):
                await self._follow()
            await asyncio.sleep(0.5)

    async def _follow(self) -> None:
        async with httpx.AsyncClient(timeout=10) as client:
            html = (await client.get(self.url + self.path)).text
        channels = list(dict.fromkeys(CHANNEL.findall(html)))
        address = f"{self.url.replace('http', 'ws')}/live?" + "&".join(
            f"panel={channel}" for channel in channels
        )
        async with connect(address, origin=self.url, max_size=None) as socket:  # type: ignore[arg-type]
            while True:
                frame = json.loads(await socket.recv())
                self.frames += 1
                if frame.get("swap") == "innerMorph":
                    self.panels[frame["panel"]] = frame["content"]


class Checker:
    """Compares the surfaces of Almenara with the states of the servers and with what they hold."""

    def __init__(
        self,
        almenara: Almenara,
        servers: dict[str, Server],
        states: States,
        publisher: Publisher,
        limits: Limits,
    ) -> None:
        self.almenara, self.states, self.limits = almenara, states, limits
        self.truth = Truth(servers, publisher)
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._pages = [LivePage(almenara.url, path) for path in PAGES]
        self._client = httpx.AsyncClient(base_url=almenara.url, timeout=10)
        self._wrong_since: dict[tuple[str, str], float] = {}
        """By claim, the reading of the clock when it was first seen to be wrong."""
        self._reported: set[tuple[str, str]] = set()
        self._clock = 0.0
        """Seconds that were judged; what was wrong only in seconds that are not judged is no
        violation."""
        self._is_paused = False
        self._slowest = 0.0

    @property
    def summary(self) -> str:
        """The counts in one line."""
        return (
            f"{len(self.violations)} violations; "
            + ", ".join(f"{count:,} {name}" for name, count in sorted(self.counts.items()))
            + f", {sum(page.frames for page in self._pages):,} live frames, slowest look"
            f" {self._slowest:.2f} s"
        )

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Judge nothing, while Almenara is killed and started again."""
        self._is_paused = True
        try:
            yield
        finally:
            self._wrong_since.clear()
            self._is_paused = False

    async def wait(self, seconds: float) -> None:
        """Return once so many seconds were judged, or three times as many have passed."""
        end, started = self._clock + seconds, time.monotonic()
        while self._clock < end and time.monotonic() < started + 3 * seconds:
            await asyncio.sleep(0.2)

    async def run(self) -> None:
        """Look each second, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for page in self._pages:
                group.create_task(page.run())
            group.create_task(self._look_regularly())

    async def _look_regularly(self) -> None:
        due = time.monotonic()
        while True:
            due += TICK
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            late = time.monotonic() - due
            if late > TICK:
                due = time.monotonic()
            if self._is_paused:
                self.counts["seconds of restarts"] += 1
                continue
            waited = self._read_delay()
            started = time.monotonic()
            try:
                view = await self._look()
            except (httpx.HTTPError, OSError, ValueError) as error:
                if self._is_paused:
                    continue
                self._judge(
                    "any", "answers", f"Almenara does not answer: {error!r}", self.limits.failure
                )
                self._clock += TICK
                continue
            seconds = time.monotonic() - started
            # What the machine takes from the checker and from Almenara is not their fault.
            delay = max(late, self._read_delay() - waited)
            if delay > LATE or self._is_paused:
                self.counts["seconds skipped, machine overloaded"] += 1
                continue
            self._slowest = max(self._slowest, seconds)
            self._clock += max(TICK, seconds) - delay
            self.counts["seconds judged"] += 1
            self._judge("any", "answers", "", self.limits.failure)
            self._check(view)

    def _read_delay(self) -> float:
        """Seconds that the threads of Almenara waited for a processor."""
        assert self.almenara.process is not None
        try:
            text = Path(f"/proc/{self.almenara.process.pid}/schedstat").read_text("utf-8")
        except OSError:
            return 0.0
        return int(text.split()[1]) / 1e9

    async def _look(self) -> View:
        first = self.counts["seconds judged"] * PAGES_A_TICK
        paths = [PAGES[(first + number) % len(PAGES)] for number in range(PAGES_A_TICK)]
        await self.truth.update(self.states.failing())
        resources, sources, health, *pages = await asyncio.gather(
            self._client.get("/api/resources?limit=5000"),
            self._client.get("/api/sources"),
            self._client.get("/api/health"),
            *(self._client.get(path) for path in paths),
        )
        panels: dict[tuple[str, str], str] = {}
        for page in self._pages:
            panels |= {("live", name): html for name, html in page.panels.items()}
        for page in pages:
            page.raise_for_status()
            for match in SECTION.finditer(page.text):
                panels["page", match[1].replace("-", ".", 1)] = match[0]
        return View(resources.json(), sources.json(), health.json(), panels)

    def _check(self, view: View) -> None:
        for rule in RULES:
            surface, _, panel = rule.name.partition(" ")
            if surface in ("live", "page") and (surface, panel) not in view.panels:
                continue
            self.counts[f"checks of {surface}"] += 1
            state = self.states.state(rule.server)
            healthy = rule.claims_health(view) if state == "down" else ""
            failing = rule.claims_failure(view) if state == "up" else ""
            self._judge(rule.server, f"{rule.name} claims health", healthy, self.limits.failure)
            self._judge(rule.server, f"{rule.name} claims failure", failing, self.limits.recovery)
        for server, name, wrong in self.truth.contradictions(view):
            self.counts["checks of numbers"] += 1
            if self.states.seconds_up(server) < self.limits.recovery:
                wrong = ""
            self._judge(server, name, wrong, self.limits.number)

    def _judge(self, server: str, name: str, wrong: str, limit: float) -> None:
        """Note a claim that is wrong, and report it once it was for longer than the limit."""
        key = (server, name)
        if not wrong:
            self._wrong_since.pop(key, None)
            self._reported.discard(key)
            return
        started = max(self._wrong_since.setdefault(key, self._clock), 0.0)
        seconds = self._clock - started
        if seconds > limit and key not in self._reported:
            self._reported.add(key)
            fault = self.states.fault(server) or "no fault"
            moment = time.strftime("%H:%M:%S")
            text = f"{moment} {server} ({fault}): {name} for {seconds:.0f} s: {wrong}"
            self.violations.append(text)
            print(f"VIOLATION {text}", flush=True)
