"""What a playback costs one viewer and many: `python tests/benchmarks/playback.py`.

A simulated cluster, and a panel of it played from a moment at ten times the speed, watched by
growing numbers of viewers in this process. Beside it, the same connections to a moment that stands
still, which is what connections alone cost. Prints for each number the processor time of the server
a second, how often it rendered, what it sent, and how far apart the viewers were. BENCH_PODS,
BENCH_VIEWERS and BENCH_SECONDS change how much is measured; `--short` measures little and judges
nothing.

It fails where viewers of a moment differ in what they were sent, or where many viewers cause more
renders than one.
"""

import asyncio
import hashlib
import os
import re
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from websockets.asyncio.client import ClientConnection, connect

sys.path.insert(0, str(Path(__file__).parents[1]))

from almenara.signals import format_time, now
from support.application import Almenara
from support.servers import wait_until
from support.simulated_kubernetes import simulated_kubernetes

SHORT = "--short" in sys.argv
PODS = int(os.environ.get("BENCH_PODS", "300" if SHORT else "5000"))
MOST = int(os.environ.get("BENCH_VIEWERS", "5" if SHORT else "1000"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3" if SHORT else "20"))
GOAL = 1.3
PANEL: Final = "kubernetes.workloads"
HANDSHAKES_AT_ONCE = 50
TICKS = os.sysconf("SC_CLK_TCK")


class Frame(msgspec.Struct):
    """What is read of a frame: the moment it shows."""

    moment: int | None = None


class Measured(msgspec.Struct, kw_only=True):
    """What a number of viewers cost, per second."""

    viewers: int
    processor: float
    renders: float
    frames: float
    """Received by a viewer."""
    kib: float
    """Received by all."""
    spread: float = 0.0
    """Seconds between the first and the last viewer of a moment, the 99th percentile."""


def processor_seconds(almenara: Almenara) -> float:
    assert almenara.process is not None
    fields = Path(f"/proc/{almenara.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def count_renders(almenara: Almenara) -> float:
    matched = re.search(r"^almenara_panel_renders_total (\S+)", almenara.text("/metrics"), re.M)
    assert matched is not None
    return float(matched[1])


async def open_sockets(almenara: Almenara, panel: str, viewers: int) -> list[ClientConnection]:
    url = f"{almenara.url.replace('http', 'ws')}/live?panel={quote(panel, safe='')}"
    origin: Any = almenara.url
    sockets: list[ClientConnection] = []
    for first in range(0, viewers, HANDSHAKES_AT_ONCE):
        count = min(HANDSHAKES_AT_ONCE, viewers - first)
        sockets += await asyncio.gather(
            *(connect(url, origin=origin, compression=None, max_size=None) for _ in range(count))
        )
    return sockets


async def measure(almenara: Almenara, panel: str, viewers: int) -> Measured:
    """Let so many viewers watch a panel for a while."""
    sockets = await open_sockets(almenara, panel, viewers)
    arrivals: dict[int, list[float]] = defaultdict(list)
    contents: dict[int, set[bytes]] = defaultdict(set)
    counts = [0, 0]
    decode = msgspec.json.Decoder(Frame).decode

    async def read(socket: ClientConnection) -> None:
        async for message in socket:
            frame = message if isinstance(message, bytes) else message.encode()
            counts[0] += 1
            counts[1] += len(frame)
            if (moment := decode(frame).moment) is not None:
                arrivals[moment].append(time.monotonic())
                contents[moment].add(hashlib.md5(frame, usedforsecurity=False).digest())

    readers = [asyncio.create_task(read(socket)) for socket in sockets]
    # The first frame of each connection is part of connecting.
    await asyncio.sleep(2)
    counts[:] = [0, 0]
    arrivals.clear()
    renders = await asyncio.to_thread(count_renders, almenara)
    before, started = processor_seconds(almenara), time.monotonic()
    await asyncio.sleep(SECONDS)
    took, used = time.monotonic() - started, processor_seconds(almenara) - before
    frames, size = counts
    renders = await asyncio.to_thread(count_renders, almenara) - renders
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    await asyncio.gather(*(socket.close() for socket in sockets))
    if any(len(different) > 1 for different in contents.values()):
        raise SystemExit(f"{panel}: viewers of one moment were sent different frames")
    spreads = sorted(max(times) - min(times) for times in arrivals.values()) or [0.0]
    return Measured(
        viewers=viewers, processor=used / took, renders=renders / took,
        frames=frames / took / viewers, kib=size / took / 1024,
        spread=spreads[min(int(len(spreads) * 0.99), len(spreads) - 1)],
    )  # fmt: skip


async def measure_all(almenara: Almenara, first: int) -> int:
    numbers = [count for count in (1, 10, 100, 300, 1000, 3000) if count < MOST] + [MOST]
    print(
        "| viewers | what | processor, ms/s | renders/s | frames/s each | KiB/s | spread p99, ms |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|")
    played: dict[int, Measured] = {}
    still: dict[int, Measured] = {}
    for viewers in numbers:
        started = now()
        for what, panel in (
            ("a moment that stands still", f"{PANEL}?at={format_time(first)}"),
            ("playback", f"{PANEL}?at={format_time(first)}&play=10&started={started}"),
        ):
            row = await measure(almenara, panel, viewers)
            (played if what == "playback" else still)[viewers] = row
            print(
                f"| {viewers:,} | {what} | {row.processor * 1e3:.0f} | {row.renders:.2f} |"
                f" {row.frames:.2f} | {row.kib:.0f} | {row.spread * 1e3:.0f} |",
                flush=True,
            )
            if what == "playback" and not row.frames:
                raise SystemExit("the viewers of the playback got no frame")
    most, one = played[MOST], played[numbers[0]]
    above = [played[count].processor - still[count].processor for count in (numbers[0], MOST)]
    ratio = most.renders / max(one.renders, 0.01)
    # What rendering costs grows with the renders, the rest with the frames that are sent.
    sending = max(above[1] - above[0] * ratio, 0.0) / max(most.frames * MOST, 0.01)
    print(
        f"the whole server: {one.processor * 1e3:.0f} ms/s for one viewer,"
        f" {most.processor * 1e3:.0f} ms/s for {MOST:,}; above connections to a moment that stands"
        f" still {above[0] * 1e3:.0f} ms/s and {above[1] * 1e3:.0f} ms/s, of which sending a frame"
        f" to one viewer {sending * 1e6:.0f} us"
    )
    print(
        f"renders/s of {MOST:,} viewers beside those of one: {one.renders:.2f} and"
        f" {most.renders:.2f}, ratio {ratio:.2f} (goal at most {GOAL})"
    )
    if most.renders > one.renders + 1:
        print(f"{MOST:,} viewers cause {most.renders:.2f} renders/s, one {one.renders:.2f}")
        return 1
    return 0


def main() -> int:
    with (
        tempfile.TemporaryDirectory() as name,
        simulated_kubernetes(Path(name) / "kubernetes", PODS) as settings,
        Almenara(
            Path(name) / "almenara", "nats://127.0.0.1:1", plugins__disabled="[nats]",
            server__requests_per_second="100000", server__request_burst="100000",
            server__max_websockets="10000", server__websockets_per_user="10000", **settings,
        ) as almenara,
    ):  # fmt: skip
        path = "/api/resources?kind=kubernetes.pod&limit=10000"
        wait_until(lambda: len(almenara.get(path)) >= PODS * 0.95, "pods", 120)
        first = now()
        # What is played: changes of pods.
        time.sleep(5 if SHORT else 60)
        return asyncio.run(measure_all(almenara, first))


if __name__ == "__main__":
    sys.exit(main())
