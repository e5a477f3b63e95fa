"""The settings of alert rules: conditions, inhibition, flapping."""

from typing import Annotated, Literal

import msgspec

from almenara.config.common import Positive

NotNegative = Annotated[float, msgspec.Meta(ge=0)]
WindowCount = Annotated[int, msgspec.Meta(ge=1, le=1000)]
RuleName = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
SeverityName = Literal["DEBUG", "INFO", "WARN", "ERROR", "FATAL"]
RuleSeverity = Literal["DEBUG", "INFO", "WARN", "ERROR", "FATAL", "signal"]
Aggregation = Literal["last", "avg", "min", "max", "sum", "rate"]


class EventCondition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A number of events within a window of time."""

    types: Annotated[list[str], msgspec.Meta(min_length=1)]
    """Types of events, or patterns of them (`orders.>`)."""
    severity: SeverityName = "DEBUG"
    """Minimum severity."""
    source: str = ""
    """Name of the source, or a pattern of origins (`nats/ORDERS`)."""
    subject: str = ""
    """Subject, or a pattern of it."""
    namespace: str = ""
    """Namespace, or a pattern of it."""
    data: dict[str, str] = {}
    """Fields of the payload, by path (`order.region`), with their values or patterns."""
    count: WindowCount = 1
    """Number of events from which it holds."""
    within: Positive = 300.0
    """Seconds of the window. It ends when fewer events are in it."""
    until: list[str] = []
    """Types of events that end it at once, in the same group."""


class ResourceCondition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The status or a field of a resource. Everything that is set must match. Where `group_by`
    makes one alert of several resources, it holds while it does for any of them."""

    kind: str
    """Kind of the resource, or a pattern of it."""
    source: str = ""
    """Name of the source, or a pattern of origins."""
    namespace: str = ""
    """Namespace, or a pattern of it."""
    name: str = ""
    """Name, or a pattern of it."""
    status: list[str] = []
    """Statuses, or patterns of them (`CrashLoop*`)."""
    severity: SeverityName | None = None
    """Minimum severity of the status."""
    field: str = ""
    """Path of a field of the state, such as `replicas.ready`, that is compared."""
    equals: str | None = None
    """Value of the field."""
    above: float | None = None
    """The field is above this number."""
    below: float | None = None
    """The field is below this number."""

    def __post_init__(self) -> None:
        limits = (self.equals, self.above, self.below)
        has_limit = any(limit is not None for limit in limits)
        if has_limit and not self.field:
            raise ValueError("equals, above and below need a field")
        if self.field and not has_limit:
            raise ValueError("field needs equals, above or below")
        if not self.status and self.severity is None and not self.field:
            raise ValueError("expected status, severity or field")


class SampleCondition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A threshold on the samples of a metric; each resource is a series of its own, also where
    `group_by` makes one alert of several."""

    metric: str
    """Name of the metric."""
    kind: str = ""
    """Kind of the resource, or a pattern of it."""
    source: str = ""
    """Name of the source, or a pattern of origins."""
    namespace: str = ""
    """Namespace, or a pattern of it."""
    name: str = ""
    """Name, or a pattern of it."""
    aggregation: Aggregation = "last"
    """What is compared: the last sample, or the average, minimum, maximum, sum or the increase per
    second of those in the window. Over several series, `last` holds while it does for any of them,
    `avg` is the average of their averages, `min`, `max` and `sum` are of all samples, and `rate` is
    the sum of their rates."""
    within: Positive = 300.0
    """Seconds of the window."""
    above: float | None = None
    """It holds above this number."""
    below: float | None = None
    """It holds below this number."""
    no_data: Positive = 600.0
    """Seconds without a sample after which an alert is unknown, and after which a series neither
    raises nor resolves one."""

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise ValueError("expected above or below")


class AbsenceCondition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """No event for some time."""

    types: list[str] = msgspec.field(default_factory=lambda: [">"])
    """Types of the expected events, or patterns of them."""
    source: str = ""
    """Name of the source, or a pattern of origins."""
    subject: str = ""
    """Subject, or a pattern of it."""
    within: Positive
    """Seconds without an event after which it holds; with a schedule, after the scheduled time."""
    schedule: str = ""
    """Cron expression of the times at which an event is expected, such as `0 3 * * *`; it holds
    where none has arrived `within` seconds after the first of them that follows the last event."""
    zone: str = "UTC"
    """Time zone of the schedule, such as `Europe/Madrid`."""


class Condition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When a rule holds: one of these."""

    events: EventCondition | None = None
    """Events."""
    resource: ResourceCondition | None = None
    """Status or field of a resource. The kind `almenara.source` has the sources themselves."""
    sample: SampleCondition | None = None
    """Threshold on a metric."""
    absent: AbsenceCondition | None = None
    """Absence of events, or silence of a source."""

    def __post_init__(self) -> None:
        chosen = [name for name in self.__struct_fields__ if getattr(self, name) is not None]
        if len(chosen) != 1:
            raise ValueError(
                "expected exactly one of events, resource, sample and absent, found"
                f" {' and '.join(chosen) or 'none'}"
            )


class AlertRule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename={"for_": "for"}):
    """An alert rule. Durations are in seconds."""

    name: RuleName
    """Unique name."""
    when: Condition
    """When it holds."""
    for_: NotNegative = 0.0
    """Seconds for which it must hold before the alert fires; until then it is pending."""
    keep_firing_for: NotNegative = 0.0
    """Seconds for which the alert keeps firing after the condition has ended."""
    severity: RuleSeverity = "WARN"
    """Severity of its alerts; `signal` takes that of the event or the resource that starts one."""
    group_by: list[str] | None = None
    """What makes an alert of its own: `kind`, `namespace`, `name`, `origin`, `type`, `subject`,
    `correlation`, `metric`, `label.<name>`, `attribute.<name>`, `data.<path>` or
    `state.<path>`. The default is the correlation, else the resource, else the subject; an empty
    list makes one alert."""
    labels: dict[str, str] = {}
    """Labels of its alerts, for routing, silences and inhibition."""
    annotations: dict[str, str] = {}
    """Texts of its alerts, as Jinja templates: `summary` is one line, `description` says more."""
    runbook: Annotated[str, msgspec.Meta(max_length=4_000)] = ""
    """What to do: a URL, or instructions in Markdown."""
    notify: list[str] = []
    """Names of receivers."""


class AlertMatch(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Inhibition: while an alert matches `source`, those that match `target` do not notify."""

    source: Annotated[list[str], msgspec.Meta(min_length=1)]
    """Matchers of the alert that inhibits: `rule=database-down`, `severity!=WARN`,
    `name=~"web-.*"`."""
    target: Annotated[list[str], msgspec.Meta(min_length=1)]
    """Matchers of the alerts that are inhibited."""
    equal: list[str] = []
    """Labels that both must have with the same value."""


class ResourceLink(msgspec.Struct, frozen=True, kw_only=True):
    """How a resource names another of the same source that it depends on. While that one has an
    alert, alerts of the resource do not notify."""

    kind: str
    """Kind of the resource: `kubernetes.pod`."""
    parent: str
    """Kind of the one that it depends on: `kubernetes.node`."""
    name: str
    """Where its name is: `name`, `namespace`, or a path in the state of the resource: `node`."""
    namespace: str = ""
    """Where its namespace is, likewise; empty for a resource without one."""
    prefix: str = ""
    """Text in front of the name; a value without it names a resource of another kind."""


class FlappingSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When an alert that fires and resolves again and again is reported as flapping."""

    fires: Annotated[int, msgspec.Meta(ge=2)] = 4
    """Number of times it fires within the window."""
    within: Positive = 1800.0
    """Seconds of the window."""
    settle: Positive = 600.0
    """Seconds without a change after which it is no longer flapping."""
