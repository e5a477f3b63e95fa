"""Publishes the messages of a fleet, and checks that history has each of them once."""

import asyncio
import contextlib
import json
import time
from collections import Counter

import httpx
import nats
from nats.errors import Error as NatsError
from nats.js.errors import Error as JetStreamError
from soak.states import States

from almenara_demo.fleet import Fleet
from almenara_demo.nats_load import STREAMS
from support.application import Almenara

HEADER = "soak-id"
STREAM_OF = {subject.partition(".")[0]: stream for stream, subject in STREAMS.items()}
"""Streams by the first word of their subjects."""
LATE = 15.0
"""Seconds after which a stored message must be in history, while NATS is healthy."""
SETTLED = 30.0
"""Seconds for which NATS has been healthy before lateness is judged."""
EVERY = 5.0


class Publisher:
    """Publishes messages with an id each, and notes which of them the server stored."""

    def __init__(self, url: str, rate: float, seed: int) -> None:
        self.url, self.rate, self.seed = url, rate, seed
        self.acknowledged: dict[str, float] = {}
        """When the server acknowledged a message, by its id."""
        self.failed = 0
        self.last_sequences: dict[str, int] = dict.fromkeys(STREAMS, 0)
        self.unconfirmed: Counter[str] = Counter()
        """By stream: messages since the last sequence that the server may have stored or not."""
        self.pending: Counter[str] = Counter()
        """By stream: messages without an answer yet."""

    async def run(self) -> None:
        """Publish until cancelled."""
        client = await nats.connect(
            self.url, max_reconnect_attempts=-1, reconnect_time_wait=0.2, ping_interval=1,
            max_outstanding_pings=2, error_cb=_ignore,
        )  # fmt: skip
        jetstream = client.jetstream(timeout=3)
        slots = asyncio.Semaphore(200)

        async def publish(subject: str, payload: bytes, headers: dict[str, str]) -> None:
            stream = STREAM_OF[subject.partition(".")[0]]
            self.pending[stream] += 1
            try:
                answer = await jetstream.publish(subject, payload, headers=headers)
            except (NatsError, JetStreamError, TimeoutError, OSError):
                self.failed += 1
                self.unconfirmed[stream] += 1
            else:
                self.acknowledged[headers[HEADER]] = time.monotonic()
                last = self.last_sequences[answer.stream]
                self.last_sequences[answer.stream] = max(last, answer.seq)
                self.unconfirmed.pop(answer.stream, None)
            finally:
                self.pending[stream] -= 1
                slots.release()

        try:
            async with asyncio.TaskGroup() as group:
                for number, message in enumerate(Fleet(self.seed).messages(self.rate)):
                    await asyncio.sleep(message.wait)
                    await slots.acquire()
                    headers = {**message.headers, HEADER: str(number)}
                    group.create_task(publish(message.subject, message.payload, headers))
        finally:
            with contextlib.suppress(NatsError, TimeoutError):
                await client.close()

    def most_messages(self, stream: str) -> int:
        """The number of messages that a stream has at most."""
        return self.last_sequences[stream] + self.unconfirmed[stream] + self.pending[stream]

    async def read_streams(self) -> set[str]:
        """The ids of all messages in the streams, read without Almenara."""
        client = await nats.connect(self.url)
        stored: set[str] = set()
        try:
            for stream in STREAMS:
                jetstream = client.jetstream(timeout=10)
                subscription = await jetstream.pull_subscribe(">", stream=stream)
                expected = (await jetstream.stream_info(stream)).state.messages
                for _ in range(0, expected, 500):
                    for message in await subscription.fetch(min(500, expected), timeout=10):
                        stored.add((message.headers or {})[HEADER])
                        await message.ack()
        finally:
            await client.close()
        return stored


async def _ignore(_: Exception) -> None:
    """Connections that fail are what this is about."""


class HistoryChecker:
    """Reads new events of history, and counts how often each message is among them."""

    def __init__(self, almenara: Almenara, publisher: Publisher, states: States) -> None:
        self.almenara, self.publisher, self.states = almenara, publisher, states
        self.seen: Counter[str] = Counter()
        self.problems: list[str] = []
        self.stored = 0
        self._cursor = 0
        self._late_since: float | None = None
        self._unseen: dict[str, float] = {}

    @property
    def summary(self) -> str:
        """The counts in one line."""
        return (
            f"{len(self.publisher.acknowledged):,} messages acknowledged, {self.stored:,} in the"
            f" streams, {self.publisher.failed:,} refused; {len(self.seen):,} in history,"
            f" {sum(self.seen.values()) - len(self.seen)} twice"
        )

    async def run(self) -> None:
        """Read every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            with contextlib.suppress(httpx.HTTPError, OSError, ValueError):
                await self._read()
                self._judge_lateness()

    async def _read(self) -> None:
        path = f"/api/events.ndjson?origin=nats%2F%3E&after={self._cursor}"
        seen: list[str] = []
        last = self._cursor
        async with (
            httpx.AsyncClient(base_url=self.almenara.url, timeout=60) as client,
            client.stream("GET", path) as response,
        ):
            response.raise_for_status()
            async for line in response.aiter_lines():
                event = json.loads(line)
                last = event["sequence"]
                if HEADER in event["attributes"]:
                    seen.append(event["attributes"][HEADER])
        self._cursor = last
        self.seen.update(seen)

    def _judge_lateness(self) -> None:
        moment = time.monotonic()
        late = [
            number
            for number, when in self.publisher.acknowledged.items()
            if when < moment - LATE and number not in self.seen
        ]
        if not late or self.states.seconds_up("nats") < SETTLED:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = moment
        elif moment - self._late_since > LATE:
            self._late_since = moment + 600
            self.problems.append(
                f"{time.strftime('%H:%M:%S')} {len(late)} messages are not in history though NATS"
                f" is healthy for {self.states.seconds_up('nats'):.0f} s: {late[:5]}"
            )

    async def finish(self) -> list[str]:
        """Compare history with the streams; return what is wrong."""
        expected = await self.publisher.read_streams()
        self.stored = len(expected)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(httpx.HTTPError, OSError, ValueError):
                await self._read()
            if self.seen.keys() >= expected:
                break
            await asyncio.sleep(1)
        acknowledged = self.publisher.acknowledged.keys()
        for name, ids in (
            ("stored and not in history", expected - self.seen.keys()),
            ("in history and not stored", self.seen.keys() - expected),
            ("acknowledged and not stored", acknowledged - expected),
            ("in history twice", {each for each, count in self.seen.items() if count > 1}),
        ):
            if ids:
                self.problems.append(f"{len(ids)} messages are {name}: {sorted(ids)[:5]}")
        return self.problems
