"""The intakes of the configuration: admission of requests, their limits, and their state."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Final

import msgspec
import structlog

from almenara.bus import Bus, BusClosedError
from almenara.bus.validation import InvalidSignalError
from almenara.config import BUILTIN_INTAKES, ConfigError, IntakeSettings, Settings, suggest
from almenara.errors import describe_error
from almenara.hookspecs import IntakeKind, Push, PushRefusedError
from almenara.intake.alerts import read_alerts
from almenara.intake.body import check_nesting, decompress
from almenara.intake.cloudevents import read_events
from almenara.intake.errors import IntakeBusyError, RefusedPushError
from almenara.intake.repeats import RecentSamples
from almenara.intake.signatures import check_signature
from almenara.intake.webhook import read_webhook
from almenara.signals import Event, Signal, now
from almenara.supervisor.state import RateMeter, SourceState

log = structlog.get_logger(__name__)

PREFIX: Final = "intake"
CONCURRENT_PUSHES: Final = 16
"""Requests of one intake whose bodies are in memory at the same time."""
WRITE_TIMEOUT: Final = 10.0
"""Seconds that a request waits for its signals to be durable."""
RETRY_WRITE: Final = 5.0
RETRY_SOON: Final = 1.0

Read = Callable[[bytes], Sequence[Signal]]


class Intake:
    """One intake: what it accepts, how fast, and what the Sources page shows of it."""

    def __init__(
        self,
        name: str,
        settings: IntakeSettings,
        bus: Bus,
        max_queued: int,
        kind: IntakeKind | None = None,
    ) -> None:
        self.name, self.settings = name, settings
        self.kind = kind
        """The kind, if a plugin has it."""
        self.origin = f"{PREFIX}/{name}"
        self.state = SourceState(
            name=self.origin, plugin=PREFIX, isolation="task", status="running"
        )
        self._bus, self._max_queued = bus, max_queued
        self._rate, self._samples = RateMeter(), RecentSamples()
        self._running = 0
        # A token bucket that may go into debt, so that a batch above `burst` is admitted as well.
        self._tokens = float(settings.burst)
        self._refilled = time.monotonic()

    def snapshot(self) -> SourceState:
        """The state as of now."""
        self.state.rate = self._rate.per_second()
        return self.state

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request while it runs, and record why it is refused.

        Enter it before the body is read. Raises `IntakeBusyError`.
        """
        self._running += 1
        try:
            self._check_capacity()
            yield
        except (RefusedPushError, IntakeBusyError) as error:
            self.state.refused += 1
            self.state.record_error(f"a push was refused: {error}")
            raise
        finally:
            self._running -= 1

    def _check_capacity(self) -> None:
        if self._running > CONCURRENT_PUSHES:
            raise IntakeBusyError(
                f"The intake {self.name} has {CONCURRENT_PUSHES} requests at the same time; send"
                " larger batches over fewer connections.",
                RETRY_SOON,
            )
        if self._bus.write_problem is not None:
            raise IntakeBusyError("Signals cannot be stored at the moment.", RETRY_WRITE)
        if self._bus.counters.waiting >= self._max_queued:
            raise IntakeBusyError("Too many signals are waiting to be stored.", RETRY_SOON)
        moment, rate = time.monotonic(), self.settings.rate_limit
        elapsed = moment - self._refilled
        self._tokens = min(self.settings.burst, self._tokens + elapsed * rate)
        self._refilled = moment
        if self._tokens <= 0:
            raise IntakeBusyError(
                f"The intake {self.name} is above its rate of {rate:g} signals per second"
                f" (intake.{self.name}.rate_limit).",
                1 - self._tokens / rate,
            )
        # What a request costs at least, so that refused ones are limited as well.
        self._tokens -= 1

    async def push(self, body: bytes, headers: Mapping[str, str], read: Read) -> int:
        """Store what `read` returns for the decoded body, all of it or none; return how many.

        Header names are in lower case. Returns once the signals are durable. Raises
        `RefusedPushError` and `IntakeBusyError`.
        """
        # In a thread, since a large body takes a while; the readers keep no state.
        signals = await asyncio.to_thread(self._read, body, headers, read)
        self._tokens -= max(len(signals) - 1, 0)
        if fresh := self._samples.without_repeats(signals):
            await self._publish(fresh)
            self._samples.remember(fresh)
        self.state.last_received = now()
        events = sum(isinstance(signal, Event) for signal in signals)
        self.state.events += events
        self._rate.count(events)
        return len(signals)

    def _read(self, body: bytes, headers: Mapping[str, str], read: Read) -> Sequence[Signal]:
        check_signature(body, headers, self.settings)
        encoding = headers.get("content-encoding", "").strip().lower()
        signals = read(decompress(body, encoding, self.settings))
        if len(signals) > self.settings.max_signals:
            raise RefusedPushError(
                f"The body has {len(signals)} signals; the intake {self.name} accepts"
                f" {self.settings.max_signals} (max_signals).",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        return [self._make_own(signal) for signal in signals]

    def _make_own(self, signal: Signal) -> Signal:
        """Return a signal whose identity is of this sender, so that no other sender or source can
        be made to look repeated."""
        if isinstance(signal, Event):
            key = f"{self.origin}\0{signal.source}\0{signal.id}"
            return msgspec.structs.replace(signal, origin=self.origin, deduplication_key=key)
        return msgspec.structs.replace(signal, origin=self.origin)

    async def _publish(self, signals: Sequence[Signal]) -> None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self._bus.publish(signals, self.origin)
        except InvalidSignalError as error:
            raise RefusedPushError(f"{describe_error(error)}.") from None
        except TimeoutError:
            raise IntakeBusyError(
                f"The signals were not stored within {WRITE_TIMEOUT:g} s.", RETRY_WRITE
            ) from None
        except BusClosedError:
            raise IntakeBusyError("Almenara is stopping.", RETRY_WRITE) from None


class Intakes:
    """All intakes, by name."""

    def __init__(
        self, settings: Settings, bus: Bus, kinds: Mapping[str, IntakeKind] | None = None
    ) -> None:
        kinds = kinds or {}
        limit = settings.storage.max_queued_signals
        self._intakes = {
            name: Intake(name, intake, bus, limit, kinds.get(intake.kind))
            for name, intake in settings.intake.items()
        }

    def __iter__(self) -> Iterator[Intake]:
        return iter(self._intakes.values())

    def has_signature(self, name: str) -> bool:
        """Whether pushes to a webhook are authenticated by their signature."""
        intake = self._intakes.get(name)
        return intake is not None and intake.settings.signature is not None

    def find(self, kind: str, name: str = "") -> Intake:
        """Return the intake of a kind with a name; without a name the only one of the kind.

        Raises `RefusedPushError`.
        """
        names = [
            intake.name
            for intake in self
            if intake.settings.kind == kind and name in ("", intake.name)
        ]
        if not names:
            what = f"of the kind {kind}" if not name else f"{name} of the kind {kind}"
            raise RefusedPushError(
                f"No intake {what} is configured; the section intake of the configuration lists"
                " them.",
                HTTPStatus.NOT_FOUND,
            )
        if len(names) > 1:
            raise RefusedPushError(
                f"Several intakes are of the kind {kind}; add ?intake= with one of:"
                f" {', '.join(sorted(names))}."
            )
        return self._intakes[names[0]]


def check_intakes(settings: Settings, kinds: Mapping[str, IntakeKind]) -> None:
    """Raise `ConfigError` for an intake of a kind that neither Almenara nor a plugin has."""
    known = [*BUILTIN_INTAKES, *kinds]
    for name, intake in settings.intake.items():
        if intake.kind not in known:
            raise ConfigError(
                f"intake.{name}.kind: {intake.kind!r} is not a kind of intake;"
                f" {suggest(intake.kind, known)}"
            )


def read_with_plugin(body: bytes, intake: Intake, headers: Mapping[str, str]) -> Sequence[Signal]:
    """Return the signals of a push of a plugin's kind. Raises `RefusedPushError`."""
    if intake.kind is None:
        raise RefusedPushError(
            f"The plugin of the kind {intake.settings.kind} has failed.", HTTPStatus.NOT_FOUND
        )
    if intake.kind.is_json:
        check_nesting(body, intake.settings.max_nesting)
    try:
        return intake.kind.read(Push(body=body, headers=headers, received=now()))
    except (PushRefusedError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedPushError(f"{describe_error(error)}.") from None


def reader_of(intake: Intake, headers: Mapping[str, str]) -> Read:
    """Return what turns the decoded body of a request to an intake into signals; requests of
    OpenTelemetry have an `OtlpReader`, since their responses depend on what was read."""
    settings, received = intake.settings, now()
    match settings.kind:
        case "cloudevents":
            return partial(read_events, headers=headers, settings=settings, received=received)
        case "webhook":
            return partial(
                read_webhook, headers=headers, name=intake.name, settings=settings,
                received=received,
            )  # fmt: skip
        case "alertmanager" | "grafana":
            return partial(read_alerts, sender=settings.kind, settings=settings, received=received)
        case "otlp":
            raise ValueError("requests of OpenTelemetry are read by OtlpReader")
        case _:
            return partial(read_with_plugin, intake=intake, headers=headers)
