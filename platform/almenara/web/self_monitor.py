"""Almenara's own figures as samples, and the page that charts them."""

import resource
import time
from collections.abc import Iterator, Sequence
from typing import Final

import structlog

from almenara.bus import Bus
from almenara.clock import sleep
from almenara.errors import AlmenaraError, describe_error
from almenara.hookspecs import Format, Level, Page, Panel, SampleQuery, SeriesPanel
from almenara.intake.intakes import PREFIX as SENDERS
from almenara.live.hub import Hub
from almenara.signals import Sample, Severity, Signal
from almenara.state.sample_store import SampleStore
from almenara.supervisor import Supervisor
from almenara.web.metrics import LoopLag

log = structlog.get_logger(__name__)

NAME: Final = "almenara"
"""The name of the page, and the origin of the samples."""
SERVER: Final = "almenara.server"
SOURCE: Final = "almenara.source"
INTERVAL: Final = 15.0
STATM: Final = "/proc/self/statm"

CHARTS: Final[Sequence[tuple[str, str, str, str, Format, bool]]] = (
    ("signals", "Signals stored per second", SERVER, "signals", "number", True),
    ("cpu", "CPU cores", SERVER, "cpu_seconds", "number", True),
    ("memory", "Memory", SERVER, "memory", "bytes", False),
    ("loop-lag", "Delay of the event loop", SERVER, "loop_lag", "seconds", False),
    ("commit", "Longest write to the bus", SERVER, "commit_seconds", "seconds", False),
    ("waiting", "Signals waiting to be written", SERVER, "waiting", "number", False),
    ("browsers", "Browsers connected", SERVER, "browsers", "number", False),
    ("renders", "Panels rendered per second", SERVER, "renders", "number", True),
    ("sample-store", "Size of the sample store", SERVER, "sample_bytes", "bytes", False),
    ("series", "Series of samples", SERVER, "series", "number", False),
    ("source-events", "Events per second by source", SOURCE, "events", "number", True),
    ("source-lag", "Unread messages by source", SOURCE, "lag", "number", False),
)
"""Name, title, kind and metric of each chart, how its values are written, and whether they count
up."""
LEVELS: Final = {"loop-lag": [Level(title="slow", value=0.1, severity=Severity.WARN)]}


class SelfMonitor:
    """Publishes the figures of this process."""

    def __init__(
        self,
        bus: Bus,
        supervisor: Supervisor,
        hub: Hub,
        loop_lag: LoopLag,
        samples: SampleStore,
        name: str,
    ) -> None:
        self.name = name
        self._bus, self._supervisor, self._hub = bus, supervisor, hub
        self._loop_lag, self._samples = loop_lag, samples

    async def run(self) -> None:
        """Publish every `INTERVAL` seconds, until cancelled."""
        while True:
            await sleep(INTERVAL)
            try:
                await self._bus.publish([*self.measure()], NAME)
            except AlmenaraError as error:
                # What keeps the bus from storing is reported by the bus.
                log.debug("the figures of the server were not stored", error=describe_error(error))

    def measure(self) -> Iterator[Signal]:
        """Yield a sample of each figure."""
        bus, live, store = self._bus.counters, self._hub.counters, self._samples
        for metric, value, unit in (
            ("signals", bus.ingested, ""),
            ("cpu_seconds", time.process_time(), "s"),
            ("memory", read_memory(), "By"),
            ("loop_lag", self._loop_lag.last, "s"),
            ("commit_seconds", bus.last_commit_seconds, "s"),
            ("waiting", bus.waiting, ""),
            ("browsers", self._hub.clients, ""),
            ("renders", live.renders, ""),
            ("sample_bytes", store.report.bytes_used, "By"),
            ("series", store.report.series, ""),
        ):
            yield Sample(kind=SERVER, name=self.name, metric=metric, value=float(value), unit=unit)
        for state in self._supervisor.states():
            if state.is_remote or state.status == "standby":
                # The replica that runs it publishes them.
                continue
            # Each replica receives signals of a sender.
            is_shared = state.plugin == SENDERS and self._supervisor.leases.replica
            for metric, number in (("events", state.events), ("lag", state.lag)):
                if number is not None:
                    # The source is the origin, which decides who can see it.
                    yield Sample(
                        kind=SOURCE, namespace=self.name if is_shared else "", name=state.name,
                        metric=metric, value=float(number), origin=state.name,
                    )  # fmt: skip


def read_memory() -> int:
    """Return the resident memory of this process in bytes."""
    try:
        with open(STATM, encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def list_panels() -> Sequence[Panel]:
    """Return the charts."""
    return [
        SeriesPanel(
            name=name, title=title, format=value_format, levels=LEVELS.get(name, ()), width=6,
            query=SampleQuery(kind=kind, metric=metric, function="rate" if is_counter else "mean"),
        )
        for name, title, kind, metric, value_format, is_counter in CHARTS
    ]  # fmt: skip


def list_pages() -> Sequence[Page]:
    """Return the page, which the footer of every page links to."""
    return [Page(name="server", title="This server", panels=[name for name, *_ in CHARTS])]
