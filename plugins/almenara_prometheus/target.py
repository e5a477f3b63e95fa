"""The state of one target, and the signals of its changes."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from almenara.sdk import now
from almenara.sdk.exposition import MetricsPage, describe_problems
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
        self.resources: dict[ResourceName, str] = dict.fromkeys(published, "")
        """The status of each resource; empty for those that an earlier run published."""
        self.last_scrape: int | None = None

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
        return [
            *self._change(PARTIAL if reason else UP, reason),
            *self._target_samples(page, duration),
            *self._update_resources(accepted, rejected),
            *(
                self._sample(reading)
                for reading in readings
                if (reading.mapping.kind, reading.name) in accepted
            ),
        ]

    def fail(self, reason: str) -> Sequence[Signal]:
        """Return the signals of a failed scrape. The resources stay, and are no longer known."""
        name = self.settings.name
        signals = [*self._change(DOWN, reason)]
        signals.append(Sample(kind=KIND, name=name, metric="up", value=0.0))
        for kind, resource_name in sorted(self.resources):
            if self.resources[kind, resource_name] == UNKNOWN:
                continue
            self.resources[kind, resource_name] = UNKNOWN
            state = {"reason": f"target {name} is down", STALE_SINCE: self.last_scrape}
            signals.append(
                Resource(
                    kind=kind, name=resource_name, namespace=name, status=UNKNOWN,
                    severity=Severity.WARN,
                    state={key: value for key, value in state.items() if value is not None},
                )
            )  # fmt: skip
        return signals

    def _update_resources(
        self, accepted: set[ResourceName], rejected: set[ResourceName]
    ) -> list[Signal]:
        """Publish new and recovered resources, and delete those that left the page."""
        name = self.settings.name
        signals: list[Signal] = []
        present = {each for each in self.resources if self.mapper.is_present(*each)} - rejected
        for kind, resource_name in sorted(accepted | present):
            if self.resources.get((kind, resource_name)) != SCRAPED:
                self.resources[kind, resource_name] = SCRAPED
                signals.append(
                    Resource(kind=kind, name=resource_name, namespace=name, status=SCRAPED)
                )
        for kind, resource_name in sorted(self.resources.keys() - accepted - present):
            del self.resources[kind, resource_name]
            signals.append(Resource(kind=kind, name=resource_name, namespace=name, deleted=True))
        return signals

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

    def _change(self, status: str, reason: str) -> list[Signal]:
        """Return the target's resource, and an event where its status changed."""
        before = msgspec.structs.replace(self.state)
        name, url = self.settings.name, self.settings.url
        signals: list[Signal] = []
        if status != before.status:
            self.state.status, self.state.since = status, now()
        signals.append(
            Resource(
                kind=KIND,
                name=name,
                status=status,
                severity=SEVERITIES[status],
                state={"url": url, "reason": reason or None, "since": self.state.since},
            )
        )
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


def describe_unreadable(page: MetricsPage) -> str:
    """Return why a page is not a page of metrics."""
    if not page.problems:
        return "its page has no series"
    return f"{len(page.problems)} lines of its page {describe_problems(page.problems)}"


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
