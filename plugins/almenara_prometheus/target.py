"""The state of one target, and the signals of its changes."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from almenara.sdk import Snapshots, now, redact_urls
from almenara.sdk.exposition import MetricsPage, describe_problems, describe_unreadable
from almenara.signals import STALE_SINCE, UNKNOWN, Event, Resource, Sample, Severity, Signal
from almenara_prometheus.mapping import MetricMapper, Reading
from almenara_prometheus.settings import TargetSettings

KIND: Final = "prometheus.target"
UP: Final = "up"
PARTIAL: Final = "partial"
DOWN: Final = "down"
SEVERITIES: Final = {UP: Severity.INFO, PARTIAL: Severity.WARN, DOWN: Severity.ERROR}
SCRAPED: Final = "scraped"

ResourceName = tuple[str, str]
"""Kind and name of a resource; its namespace is the target."""


class TargetState(msgspec.Struct):
    """What is known of a target, also over restarts."""

    status: str = ""
    since: int = 0
    """Microseconds since the epoch."""


class Target:
    """One target with the resources that its page became."""

    def __init__(
        self, settings: TargetSettings, state: TargetState, published: Iterable[ResourceName]
    ) -> None:
        self.settings, self.state = settings, state
        self.mapper = MetricMapper(settings.name, settings.mappings)
        self.names = set(published)
        """The resources that the page became, those of an earlier run among them."""
        self.last_scrape: int | None = None
        self._snapshots = Snapshots()
        self._snapshots.load(self._resource(name) for name in self.names)

    def accept(self, page: MetricsPage, started: float, duration: float) -> Sequence[Signal]:
        """Return the signals of a page whose scrape started at `started` and took `duration`."""
        if not page.is_readable:
            return self.fail(describe_unreadable(page))
        self.last_scrape = now()
        readings = self.mapper.map(page, started)
        names = sorted({(reading.mapping.kind, reading.name) for reading in readings})
        limit = self.settings.series_limit
        accepted, rejected = set(names[:limit]), set(names[limit:])
        reason = describe_partial(page, len(names), limit)
        present = {name for name in self.names if self.mapper.is_present(*name)}
        self.names = accepted | (present - rejected)
        return [
            *self._change(PARTIAL if reason else UP, reason, SCRAPED),
            *self._target_samples(page, duration),
            *(
                self._sample(reading)
                for reading in readings
                if (reading.mapping.kind, reading.name) in accepted
            ),
        ]

    def fail(self, reason: str) -> Sequence[Signal]:
        """Return the signals of a failed scrape. The resources stay, and are no longer known."""
        name = self.settings.name
        state = {"reason": f"target {name} is down", STALE_SINCE: self.last_scrape}
        known = {key: value for key, value in state.items() if value is not None}
        return [
            *self._change(DOWN, reason, UNKNOWN, known),
            Sample(kind=KIND, name=name, metric="up", value=0.0),
        ]

    def _resource(
        self, name: ResourceName, status: str = "", state: dict[str, Any] | None = None
    ) -> Resource:
        return Resource(
            kind=name[0], name=name[1], namespace=self.settings.name, status=status,
            severity=Severity.WARN if status == UNKNOWN else Severity.INFO, state=state or {},
        )  # fmt: skip

    def _sample(self, reading: Reading) -> Sample:
        mapping = reading.mapping
        return Sample(
            kind=mapping.kind,
            name=reading.name,
            namespace=self.settings.name,
            metric=mapping.sample,
            value=reading.value,
            unit=mapping.unit,
        )

    def _target_samples(self, page: MetricsPage, duration: float) -> list[Signal]:
        name = self.settings.name
        return [
            Sample(kind=KIND, name=name, metric="up", value=1.0),
            Sample(kind=KIND, name=name, metric="scrape_duration", value=duration, unit="s"),
            Sample(kind=KIND, name=name, metric="series", value=float(page.lines)),
        ]

    def _change(
        self, status: str, reason: str, resource_status: str, state: dict[str, Any] | None = None
    ) -> list[Signal]:
        """Return what changed of the target and of the resources of its page, and an event where
        its status did."""
        before = msgspec.structs.replace(self.state)
        name, url = self.settings.name, redact_urls(self.settings.url)
        if status != before.status:
            self.state.status, self.state.since = status, now()
        target = Resource(
            kind=KIND, name=name, status=status, severity=SEVERITIES[status],
            state={"url": url, "reason": reason or None, "since": self.state.since},
        )  # fmt: skip
        resources = [self._resource(each, resource_status, state) for each in sorted(self.names)]
        signals = list(self._snapshots.difference([target, *resources]))
        if status != before.status and (before.status or status != UP):
            signals.append(
                Event(
                    id=f"{name}/{before.status}/{before.since}/{status}",
                    source=f"prometheus/{name}",
                    type=f"{KIND}.{status}",
                    subject=name,
                    time=self.state.since,
                    severity=SEVERITIES[status],
                    data={"url": url, "reason": reason or "its page is complete again"},
                )
            )
        return signals


def describe_partial(page: MetricsPage, resources: int, limit: int) -> str:
    """Return why only a part of a page is used; empty where all of it is."""
    if page.problems:
        return f"{len(page.problems)} lines of its page {describe_problems(page.problems)}"
    if resources > limit:
        return (
            f"its page became {resources:,} resources, of which {limit:,} are used (series_limit);"
            " use fewer labels in names, or filter by labels"
        )
    return ""
