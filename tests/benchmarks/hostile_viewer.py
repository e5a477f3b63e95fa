"""What one hostile viewer takes from the others: `make bench-hostile`.

A viewer with a valid token uses everything that the documented limits allow: searches without a
match over all history, exports that are read slowly, live pages with as many channels as there may
be, pages that read nothing, and wrong sign-ins. Meanwhile another viewer loads pages and watches
live. Prints the latencies of the other viewer as ratios to those before the attack, and the
memory. BENCH_SECONDS is the length of the attack, 300 by default. `--short` attacks for some
seconds and judges no speed; it fails where the other viewer gets an error or misses an event.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

sys.path.insert(0, str(Path(__file__).parents[1]))

from almenara.bus.embedded import EmbeddedBus
from almenara.config import StorageSettings
from almenara.signals import Event, now
from support.application import Almenara
from support.raw_nats import RawClient
from support.servers import NatsServer

SHORT, ATTACK = "--short" in sys.argv, "--attack"
SECONDS = float(os.environ.get("BENCH_SECONDS", "4" if SHORT else "300"))
BASELINE = 3.0 if SHORT else 60.0
STORED = 5_000 if SHORT else 200_000
RATE = 50
"""Events a second while latencies are measured."""
MEMORY_LIMIT = 512
"""MiB; the limit of the chart."""
GOOD, HOSTILE = "127.0.0.2", "127.0.0.3"
PAGES = ("/", "/events", "/sources", "/api/events?limit=50", "/api/resources?limit=50")
PAUSE = 0.1
WORDS = ("lay", "view", "run", "take", "plan", "set", "write", "build", "work", "load")


class Latencies:
    """Seconds of one kind of request."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def p99(self) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)] if ordered else 0.0


class Viewer:
    """The viewer whose latencies are measured."""

    def __init__(self, almenara: Almenara, token: str) -> None:
        self.almenara, self.token = almenara, token
        self.pages, self.live = Latencies(), Latencies()
        self.missing: set[int] = set()
        self.errors: list[str] = []
        self._sent: dict[int, float] = {}

    def note_sent(self, number: int) -> None:
        self._sent[number] = time.perf_counter()

    async def load_pages(self) -> None:
        async with make_client(self.almenara.url, self.token, GOOD) as client:
            for path in itertools.cycle(PAGES):
                started = time.perf_counter()
                response = await client.get(path)
                self.pages.seconds.append(time.perf_counter() - started)
                if response.status_code != 200:
                    self.errors.append(f"{path} answers {response.status_code}")
                await asyncio.sleep(PAUSE)

    async def watch(self) -> None:
        async with open_page(self.almenara.url, self.token, GOOD, "panel=events") as page:
            while True:
                frame = str(await page.recv())
                arrived = time.perf_counter()
                for number in [number for number in self._sent if f"stamp-{number}-" in frame]:
                    self.live.seconds.append(arrived - self._sent.pop(number))

    async def measure(self, seconds: float, publish: Callable[[int], None]) -> None:
        """Load and watch for so many seconds; what has not arrived 10 s later is missing."""
        self.pages, self.live = Latencies(), Latencies()
        tasks = [asyncio.create_task(self.load_pages()), asyncio.create_task(self.watch())]
        await asyncio.sleep(1)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                number = next(NUMBERS)
                self.note_sent(number)
                publish(number)
                await asyncio.sleep(1 / RATE)
                for task in tasks:
                    if task.done():
                        task.result()
            patience = time.monotonic() + 10
            while self._sent and time.monotonic() < patience:
                await asyncio.sleep(0.05)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.missing |= set(self._sent)
        self._sent.clear()


NUMBERS = itertools.count()


def make_client(url: str, token: str, address: str) -> httpx.AsyncClient:
    """A client that connects from an address of its own."""
    return httpx.AsyncClient(
        base_url=url,
        headers={"authorization": f"Bearer {token}"} if token else {},
        transport=httpx.AsyncHTTPTransport(local_address=address),
        timeout=60,
    )


@contextlib.asynccontextmanager
async def open_page(
    url: str, token: str, address: str, query: str
) -> AsyncIterator[ClientConnection]:
    async with connect(
        f"{url.replace('http', 'ws')}/live?{query}",
        origin=url,  # type: ignore[arg-type]
        additional_headers={"authorization": f"Bearer {token}"},
        local_addr=(address, 0),
        max_size=None,
        open_timeout=60,
    ) as page:
        yield page


class Attack:
    """Everything that a viewer may do, at once and without end, in a process of its own."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        self.outcomes: dict[str, int] = {}

    def note(self, what: str, outcome: object) -> None:
        name = f"{what} {outcome}"
        self.outcomes[name] = self.outcomes.get(name, 0) + 1

    async def run(self, seconds: float) -> None:
        attacks: list[Callable[[], Coroutine[Any, Any, None]]] = [
            *[self.search] * 16, *[self.export] * 8, *[self.watch] * 12, *[self.park] * 12,
            *[self.sign_in] * 4,
        ]  # fmt: skip
        tasks = [asyncio.create_task(self.repeat(attack)) for attack in attacks]
        try:
            await asyncio.sleep(seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def repeat(self, attack: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await attack()
            except (httpx.HTTPError, ConnectionClosed, OSError, InvalidStatus) as error:
                self.note(attack.__name__, type(error).__name__)
            await asyncio.sleep(0.05)

    async def search(self) -> None:
        words = " ".join(random.sample(WORDS, 3))
        path = random.choice(
            (f"/api/events?text={words} none{random.random()}&limit=500", f"/events?text={words}",
             f"/api/events?subject=*{words[:3]}*&limit=500")
        )  # fmt: skip
        async with make_client(self.url, self.token, HOSTILE) as client:
            self.note("search", (await client.get(path)).status_code)

    async def export(self) -> None:
        """Request an export and read little of it."""
        async with (
            make_client(self.url, self.token, HOSTILE) as client,
            client.stream("GET", "/api/events.ndjson") as response,
        ):
            self.note("export", response.status_code)
            async for _ in response.aiter_raw(4096):
                await asyncio.sleep(0.5)

    async def watch(self) -> None:
        """Watch as many channels as a page may have."""
        filters = "&".join(
            f"panel=events%3Ftext%3D{random.choice(WORDS)}{random.randrange(9999)}"
            for _ in range(30)
        )
        async with open_page(self.url, self.token, HOSTILE, filters) as page:
            self.note("page", "open")
            async with asyncio.timeout(20):
                while True:
                    await page.recv()

    async def park(self) -> None:
        """Open a live page and never read."""
        async with open_page(self.url, self.token, HOSTILE, "panel=events&panel=numbers"):
            self.note("parked page", "open")
            await asyncio.sleep(30)

    async def sign_in(self) -> None:
        async with make_client(self.url, "", HOSTILE) as client:
            data = {"token": f"wrong-{random.random()}", "csrf": "x"}
            response = await client.post("/sign-in", data=data)
            self.note("sign-in", response.status_code)


def resident(pid: int) -> float:
    """Resident memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line) / 1024


async def watch_memory(pid: int, highest: list[float]) -> None:
    while True:
        highest[0] = max(highest[0], resident(pid))
        await asyncio.sleep(0.2)


async def fill(folder: Path) -> None:
    """Store events that every search has to look at."""
    async with EmbeddedBus(StorageSettings(dir=folder)) as bus:
        for start in range(0, STORED, 500):
            await bus.publish(
                [
                    Event(
                        id=str(number), source="past", type=f"past.{number % 20}", time=now(),
                        subject=f"subject.{number % 100}",
                        data={"message": " ".join(random.sample(WORDS, 4)), "n": number},
                    )
                    for number in range(start, start + 500)
                ],
                "past",
            )  # fmt: skip


def create_token(almenara: Almenara, name: str) -> str:
    done = almenara.command("access", "create", name)
    return next(word for word in done.stdout.split() if word.startswith("alm_"))


def print_row(name: str, value: float, reference: float, unit: str) -> None:
    ratio = value / reference if reference else 0.0
    print(f"{name:24}{value:10.1f} {unit}{reference:12.1f} {unit}{ratio:10.2f}")


async def run(folder: Path) -> int:
    await fill(folder / "almenara" / "var")
    with NatsServer(folder / "nats") as server:
        almenara = Almenara(
            folder / "almenara", server.url, auth__mode="token",
            server__host="0.0.0.0", auth__allow_plain_http="true",
        )  # fmt: skip
        client = RawClient(server.port)
        client.make_stream("LOAD", "load")
        with almenara:
            viewer = Viewer(almenara, create_token(almenara, "good"))
            hostile = create_token(almenara, "hostile")

            def publish(number: int) -> None:
                client.publish("load", json.dumps({"message": f"stamp-{number}-"}).encode())

            assert almenara.process is not None
            highest = [0.0]
            watching = asyncio.create_task(watch_memory(almenara.process.pid, highest))
            await viewer.measure(BASELINE, publish)
            pages, live, idle = viewer.pages.p99(), viewer.live.p99(), highest[0]
            attack = await asyncio.create_subprocess_exec(
                sys.executable, __file__, ATTACK, almenara.url, hostile, str(SECONDS + 5),
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            await asyncio.sleep(2)
            await viewer.measure(SECONDS, publish)
            outcomes, _ = await attack.communicate()
            watching.cancel()
        client.close()
    print(f"{'':24}{'attacked':>13}{'before':>15}{'ratio':>10}")
    print_row("page p99", viewer.pages.p99() * 1e3, pages * 1e3, "ms")
    print_row("live p99", viewer.live.p99() * 1e3, live * 1e3, "ms")
    print_row("memory, highest", highest[0], idle, "MiB")
    print(f"memory is {highest[0] / MEMORY_LIMIT:.2f} of the chart's limit")
    print(f"events missing: {len(viewer.missing)}; errors: {len(viewer.errors)}")
    print(f"attack: {outcomes.decode().strip()}")
    for error in viewer.errors[:5]:
        print(error, file=sys.stderr)
    return 1 if viewer.missing or viewer.errors else 0


async def attack(url: str, token: str, seconds: float) -> int:
    attack = Attack(url, token)
    await attack.run(seconds)
    print(", ".join(f"{what}: {count}" for what, count in sorted(attack.outcomes.items())))
    return 0


def main() -> int:
    if ATTACK in sys.argv:
        url, token, seconds = sys.argv[2:]
        return asyncio.run(attack(url, token, float(seconds)))
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(run(Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
