"""Thousands of simulated browsers in one process: what they receive, when, and what they show.

Frames of a channel are the same bytes for all its viewers, so each is parsed once, and for each
viewer it is a lookup. Streams of single events of the peers are read in whole chunks. Otherwise the
viewers would be the bottleneck.

`run.py` starts it, writes commands to its standard input and reads one line of JSON for each.
"""

import asyncio
import base64
import gc
import json
import os
import random
import re
import socket
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import uvloop

VISIBLE: Final = 100
ROW: Final = re.compile(r'data-sequence="(\d+)".*?stamp=(\d{16})', re.DOTALL)
STAMP: Final = re.compile(rb'"stamp":"(\d{16})"')
MARK: Final = b'"stamp":'
MISSED: Final = re.compile(r"<b>([\d,]+)(\+?) events</b>")
SYNC: Final = zlib.compressobj(wbits=-15).flush(zlib.Z_SYNC_FLUSH)[-4:]
SLOW_BYTES: Final = 16 * 1024
SLOW_PAUSE: Final = 0.5
LAG: Final = 0.01
HANDSHAKES_AT_ONCE: Final = 200
CONNECTED_WITHIN: Final = 60.0
BIN: Final = 0.001
"""Seconds; latencies are counted in bins of this width."""


class Frame:
    """A frame of Almenara, parsed once for all who receive it."""

    __slots__ = ("arrived", "channel", "missed", "more", "rows", "sequences", "whole")

    def __init__(self, text: str, channel: int) -> None:
        frame = json.loads(text)
        content, target = frame.get("content", ""), frame.get("target", "")
        self.channel = channel
        self.whole = target == "#panel-events"
        rows = ROW.findall(content) if self.whole or target == "#event-rows" else []
        self.rows = [(int(sequence), int(stamp) / 1e6) for sequence, stamp in rows]
        self.sequences = tuple(sequence for sequence, _ in self.rows)
        self.arrived = int(frame.get("arrived", 0))
        note = MISSED.search(content) if target == "#event-note" else None
        self.missed = int(note[1].replace(",", "")) if note else 0
        self.more = bool(note and note[2])


class Tally:
    """What all viewers received since `begin`."""

    def __init__(self) -> None:
        self.bytes = self.frames = self.drops = 0
        self.closes: Counter[int] = Counter()
        self.memo: dict[tuple[int, int, bytes, bytes], Frame] = {}
        self.hits: dict[tuple[Frame, int], list[float]] = {}
        self.streamed: list[tuple[float, float]] = []
        self.screens: list[tuple[int, ...]] = [()]
        self.numbers: dict[tuple[int, ...], int] = {(): 0}
        self.steps: dict[tuple[int, Frame], int] = {}
        self.lags: list[float] = []

    def begin(self) -> None:
        self.bytes = self.frames = 0
        self.hits = {}
        self.streamed = []
        self.lags = []

    def step(self, screen: int, frame: Frame) -> int:
        """The screen that results from applying a frame to a screen."""
        rows = self.screens[screen]
        rows = frame.sequences if frame.whole else (frame.sequences + rows)[:VISIBLE]
        number = self.numbers.get(rows)
        if number is None:
            number = self.numbers[rows] = len(self.screens)
            self.screens.append(rows)
        self.steps[screen, frame] = number
        return number

    def latencies(self) -> Counter[int]:
        """How many rows took how many bins from publishing to receiving."""
        counts: Counter[int] = Counter()
        for (frame, newest), times in self.hits.items():
            moments = Counter(int(moment / BIN) for moment in times)
            stamps = Counter(
                int(stamp / BIN) for sequence, stamp in frame.rows if sequence > newest
            )
            for moment, viewers in moments.items():
                for stamp, rows in stamps.items():
                    counts[max(moment - stamp, 0)] += viewers * rows
        for moment, stamp in self.streamed:
            counts[max(int((moment - stamp) / BIN), 0)] += 1
        return counts


class Viewer(asyncio.Protocol):
    """One connection after another of one browser."""

    def __init__(self, number: int, job: dict[str, Any], tally: Tally) -> None:
        self.number, self.job, self.tally = number, job, tally
        paths = job["paths"]
        self.channel = number % len(paths)
        self.path: str = paths[self.channel]
        share = (number // len(paths)) % 100
        self.stalled = share < job.get("stalled", 0)
        self.slow = not self.stalled and share < job.get("slow", 0) + job.get("stalled", 0)
        self.screen = self.reported = self.missed = 0
        self.more = False
        """Whether a note counted "500+", which is at least that many."""
        self.base: int | None = None
        self.live: asyncio.Future[float] | None = None
        self.transport: asyncio.Transport | None = None
        self.pending = b""
        self.upgraded = False
        self.should_be_connected = True

    async def connect(self) -> None:
        """Return once the first frame arrived or, for streams, the handshake is complete."""
        loop = asyncio.get_running_loop()
        self.pending, self.upgraded = b"", False
        self.live = loop.create_future()
        sock = socket.socket()
        if self.slow or self.stalled:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BYTES)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", self.job["port"]))
        await loop.create_connection(lambda: self, sock=sock)
        await self.live

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        path = self.path
        newest = self.newest
        if newest and self.job["kind"] == "almenara":
            path += f"&after={newest}"
        key = base64.b64encode(os.urandom(16)).decode()
        extension = (
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
            if self.job.get("deflate")
            else ""
        )
        host = f"127.0.0.1:{self.job['port']}"
        transport.write(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"{extension}Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    @property
    def newest(self) -> int:
        rows = self.tally.screens[self.screen]
        return rows[0] if rows else 0

    def data_received(self, data: bytes) -> None:
        moment = time.time()
        self.tally.bytes += len(data)
        if not self.upgraded:
            data = self._upgrade(self.pending + data)
            if not data:
                return
        self.read(data, moment)
        if self.slow and self.transport is not None:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(SLOW_PAUSE, self._resume)

    def _resume(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def _upgrade(self, data: bytes) -> bytes:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            self.pending = data
            return b""
        self.pending = b""
        if not head.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(f"the server refused the handshake: {head[:300]!r}")
        self.upgraded = True
        self.greet()
        if self.stalled and self.transport is not None:
            self.transport.pause_reading()
            self.mark_live()
        return rest

    def mark_live(self) -> None:
        if self.live is not None and not self.live.done():
            self.live.set_result(time.time())

    def greet(self) -> None:
        """Send the first messages of the client."""

    def read(self, data: bytes, moment: float) -> None:
        raise NotImplementedError

    def send(self, opcode: int, payload: bytes) -> None:
        if self.transport is not None:
            # A mask of zeros is a mask.
            head = bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0))
            self.transport.write(head + payload)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.live is not None and not self.live.done():
            self.live.set_exception(error or ConnectionResetError("closed before the first frame"))
        elif self.should_be_connected:
            self.tally.drops += 1

    def drop(self) -> None:
        self.should_be_connected = False
        if self.transport is not None:
            self.transport.abort()


class ChannelViewer(Viewer):
    """Reads the frames of Almenara's channels as a page would."""

    def read(self, data: bytes, moment: float) -> None:
        if self.pending:
            data, self.pending = self.pending + data, b""
        start, size = 0, len(data)
        while size - start >= 2:
            length, head = data[start + 1], 2
            if length == 126:
                length, head = int.from_bytes(data[start + 2 : start + 4]), 4
            elif length == 127:
                length, head = int.from_bytes(data[start + 2 : start + 10]), 10
            end = start + head + length
            if size < end:
                break
            self.take(data[start], data[start + head : end], moment)
            start = end
        if start < size:
            self.pending = data[start:]

    def take(self, first: int, payload: bytes, moment: float) -> None:
        tally = self.tally
        opcode = first & 0x0F
        if opcode == 9:
            self.send(10, payload)
            return
        if opcode == 8:
            tally.closes[int.from_bytes(payload[:2])] += 1
            return
        tally.frames += 1
        key = (self.channel, len(payload), payload[:600], payload[-80:])
        frame = tally.memo.get(key)
        if frame is None:
            plain = zlib.decompressobj(-15).decompress(payload + SYNC) if first & 0x40 else payload
            frame = tally.memo[key] = Frame(plain.decode(), self.channel)
        if frame.missed:
            self.missed += frame.missed
            self.more |= frame.more
        if not frame.sequences and not frame.whole:
            return
        newest = self.newest
        hit = (frame, newest)
        times = tally.hits.get(hit)
        if times is None:
            times = tally.hits[hit] = []
        if self.base is not None:
            if not self.slow:
                times.append(moment)
            self.reported += frame.arrived or sum(sequence > newest for sequence in frame.sequences)
        step = tally.steps.get((self.screen, frame))
        self.screen = tally.step(self.screen, frame) if step is None else step
        if self.base is None:
            self.base = self.newest
        self.mark_live()


class StreamViewer(Viewer):
    """Counts the events of a peer that sends one message for each; some connections also parse each
    to measure its latency."""

    observer = False
    nats_subject: str | None = None

    def greet(self) -> None:
        self.observer = self.number % self.job.get("observe", 1) == 0
        if self.job["kind"] == "nats":
            self.send(2, b'CONNECT {"verbose":false}\r\n')
            self.send(2, f"SUB {self.job['subjects'][self.channel]} 1\r\nPING\r\n".encode())
        else:
            self.mark_live()

    def read(self, data: bytes, moment: float) -> None:
        text = self.pending + data
        count = text.count(MARK)
        if count:
            self.reported += count
            self.tally.frames += count
        elif b"PONG" in data:
            self.mark_live()
        if not self.observer:
            self.pending = text[-(len(MARK) - 1) :]
            return
        end = 0
        for match in STAMP.finditer(text):
            self.tally.streamed.append((moment, int(match[1]) / 1e6))
            end = match.end()
        self.pending = text[max(end, len(text) - 24) :]
        # A counted marker in the part that is kept must not be counted again.
        if MARK in self.pending:
            self.reported -= 1
            self.tally.frames -= 1


async def watch_lag(tally: Tally) -> None:
    """Measure how late the event loop of this process is, which adds to every latency."""
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(LAG)
        tally.lags.append(loop.time() - before - LAG)


async def connect_all(viewers: list[Viewer]) -> None:
    waiting = iter(viewers)

    async def connect_next() -> None:
        for viewer in waiting:
            await viewer.connect()

    async with asyncio.TaskGroup() as group:
        for _ in range(HANDSHAKES_AT_ONCE):
            group.create_task(connect_next())


async def storm(viewers: list[Viewer], spread: float, seed: int) -> dict[str, Any]:
    """Disconnect all at once, reconnect them within `spread` seconds; when they were live again."""
    chance = random.Random(seed)
    for viewer in viewers:
        viewer.drop()
    started = time.time()
    took: list[float] = []
    tries = 0

    async def reconnect(viewer: Viewer) -> None:
        nonlocal tries
        await asyncio.sleep(chance.uniform(0, spread))
        while True:
            tries += 1
            try:
                viewer.should_be_connected = True
                await viewer.connect()
                break
            except OSError:
                await asyncio.sleep(chance.uniform(0.2, 0.5))
        assert viewer.live is not None
        took.append(viewer.live.result() - started)

    async with asyncio.TaskGroup() as group:
        for viewer in viewers:
            group.create_task(reconnect(viewer))
    took.sort()
    return {"median": took[len(took) // 2], "last": took[-1], "tries": tries}


def collect_figures(tally: Tally, viewers: list[Viewer]) -> dict[str, Any]:
    tally.lags.sort()
    return {
        "bytes": tally.bytes,
        "frames": tally.frames,
        "drops": tally.drops,
        "closes": dict(tally.closes),
        "latencies": sorted(tally.latencies().items()),
        "lag_p99": tally.lags[int(len(tally.lags) * 0.99)] if tally.lags else 0.0,
        "cpu": time.process_time(),
        "connected": sum(viewer.transport is not None for viewer in viewers),
    }


def collect_screens(tally: Tally, viewers: list[Viewer]) -> list[dict[str, Any]]:
    """The distinct states of the connected viewers: rows they show, and counts reported to them."""
    groups: Counter[tuple[Any, ...]] = Counter()
    for viewer in viewers:
        if viewer.transport is not None and not viewer.stalled:
            groups[
                viewer.channel, viewer.slow, viewer.base, viewer.reported, viewer.missed,
                viewer.more, viewer.screen,
            ] += 1  # fmt: skip
    return [
        {
            "channel": channel, "slow": slow, "base": base, "reported": reported, "missed": missed,
            "more": more, "rows": tally.screens[screen], "viewers": count,
        }
        for (channel, slow, base, reported, missed, more, screen), count in groups.items()
    ]  # fmt: skip


async def serve(job: dict[str, Any]) -> None:
    tally = Tally()
    kind: Callable[..., Viewer] = ChannelViewer if job["kind"] == "almenara" else StreamViewer
    viewers = [kind(number, job, tally) for number in range(job["count"])]
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    lagging = asyncio.create_task(watch_lag(tally))
    async with asyncio.timeout(CONNECTED_WITHIN):
        await connect_all(viewers)
    write_answer({"connected": len(viewers)})
    while command := (await lines.get()).split():
        match command[0]:
            case "begin":
                tally.begin()
                write_answer({"cpu": time.process_time()})
            case "figures":
                write_answer(collect_figures(tally, viewers))
            case "screens":
                write_answer(collect_screens(tally, viewers))
            case "storm":
                write_answer(await storm(viewers, float(command[1]), job.get("seed", 1)))
    lagging.cancel()
    for viewer in viewers:
        viewer.drop()


def write_answer(result: Any) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 1000)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(json.loads(sys.argv[1])))
