"""Conditions about the status or a field of resources."""

from almenara.alerting.conditions import (
    Condition,
    Verdict,
    is_beyond,
    is_number,
    make_any_test,
    make_source_test,
    make_test,
    show_number,
)
from almenara.alerting.model import Alert, Place, make_place_key, place_of
from almenara.alerting.signals import read_path, show_value
from almenara.config.alert_rules import ResourceCondition
from almenara.scope import namespace_of
from almenara.signals import STALE_SINCE, UNKNOWN, Resource, Severity, Signal, parse_severity


class ResourceStatus(Condition):
    """The status or a field of a resource. An alert about several holds while it holds for any."""

    def __init__(self, settings: ResourceCondition) -> None:
        self.settings = settings
        self.resources = (settings.kind,)
        self._source = make_source_test(settings.source)
        self._namespace, self._name = make_test(settings.namespace), make_test(settings.name)
        self._status = make_any_test(settings.status) if settings.status else make_test("")
        self._severity = parse_severity(settings.severity or Severity.DEBUG.name)
        self._equals = None if settings.equals is None else make_test(settings.equals)

    def selects(self, signal: Signal) -> bool:
        return (
            isinstance(signal, Resource)
            and self._source(signal.origin)
            and self._namespace(namespace_of(signal))
            and self._name(signal.name)
        )

    def observe(self, signal: Signal, alert: Alert, time: int) -> Verdict:
        assert isinstance(signal, Resource)  # noqa: S101 # nosec B101 # narrows the type
        key, holding = make_place_key((signal.origin, *signal.key)), read_holding(alert)
        is_own = key in holding or place_of(alert) == (signal.origin, *signal.key)
        if is_unobserved(signal) and not self._selects_status(signal):
            if key in holding:
                holding[key] = False
            return self._judge(alert, holding)
        holds, value = self._compare(signal)
        if holds:
            holding[key] = True
        else:
            holding.pop(key, None)
        verdict = self._judge(alert, holding)
        if holds or (is_own and not holding):
            verdict.value, verdict.threshold = value, self._threshold
        verdict.counts = holds
        return verdict

    def discard(self, alert: Alert, place: Place, time: int) -> Verdict:
        holding = read_holding(alert)
        holding.pop(make_place_key(place), None)
        return self._judge(alert, holding)

    def _judge(self, alert: Alert, holding: dict[str, bool]) -> Verdict:
        """Note for which resources it holds; value and text stay those of the last of them."""
        alert.holding = holding
        return Verdict(
            holds=bool(holding),
            is_known=not holding or any(holding.values()),
            counts=False,
            value=alert.value,
            threshold=alert.threshold,
        )

    @property
    def _threshold(self) -> float | str | None:
        settings = self.settings
        if settings.equals is not None:
            return settings.equals
        return settings.above if settings.above is not None else settings.below

    def _compare(self, resource: Resource) -> tuple[bool, float | str]:
        """Return whether it holds for the present state of a resource, and the value."""
        settings, value = self.settings, resource.status
        holds = (
            not resource.deleted
            and self._status(resource.status)
            and resource.severity >= self._severity
        )
        if not settings.field:
            return holds, value
        field = read_path(resource.state, settings.field)
        if self._equals is not None:
            values = field if isinstance(field, list) else [field]
            holds = holds and any(self._equals(show_value(each)) for each in values)
        else:
            holds = holds and is_number(field) and is_beyond(float(field), settings)
        return holds, float(field) if is_number(field) else show_value(field)

    def _selects_status(self, resource: Resource) -> bool:
        """Whether the rule is about the status itself, whatever the last known state is."""
        settings = self.settings
        if settings.status:
            return self._status(resource.status)
        return not settings.field and resource.severity >= self._severity

    def describe(self, alert: Alert) -> str:
        name = " ".join(filter(None, (alert.group.get("namespace"), alert.group.get("name"))))
        field = f"{self.settings.field} is " if self.settings.field else "is "
        return f"{self.settings.kind} {name} {field}{show_number(alert.value)}"


def read_holding(alert: Alert) -> dict[str, bool]:
    """Return a copy of the resources for which the condition of an alert holds."""
    place = place_of(alert)
    if alert.holds and not alert.holding and place is not None:
        # Earlier versions stored the last one only.
        return {make_place_key(place): not alert.is_stale}
    return dict(alert.holding)


def is_unobserved(resource: Resource) -> bool:
    """Whether the source of a resource cannot read it, so that its state is the last known one."""
    is_stale = resource.status == UNKNOWN or resource.state.get(STALE_SINCE) is not None
    return is_stale and not resource.deleted
