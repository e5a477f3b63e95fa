"""Rules from YAML, and runs of the evaluator in memory."""

from typing import Any

import msgspec
import yaml

from almenara.alerting.commands import make_started
from almenara.alerting.evaluator import Evaluator, RuleHealth
from almenara.alerting.rules import RuleSet, compile_rules
from almenara.clock import CLOCK
from almenara.config import decode_settings
from almenara.config.alerting import AlertingSettings
from almenara.hookspecs import ResourceLink
from almenara.signals import Event, Resource, Sample, Severity
from almenara.testing import ProcessorRun

START = 1_767_225_600_000_000
"""The time at which the clock of a run begins."""
SECOND = 1_000_000


def read_alerting(text: str) -> AlertingSettings:
    """Return the settings of alerting in YAML."""
    return decode_settings(AlertingSettings, yaml.safe_load(text), place="alerting")


class Evaluation(ProcessorRun):
    """The evaluator of rules, over a log that a test feeds."""

    def __init__(self, rules: RuleSet) -> None:
        super().__init__(lambda: Evaluator(rules))
        self.feed_now(make_started())

    @property
    def health(self) -> dict[str, RuleHealth]:
        """The evaluation of each rule."""
        processor = self._fold.processor
        assert isinstance(processor, Evaluator)
        return processor.health

    def feed_now(self, *signals: Any) -> list[Any]:
        """Feed signals at the present time of the clock."""
        now = self.clock.now()
        return self.feed(*(type(each)(**{**fields_of(each), "time": now}) for each in signals))

    @property
    def statuses(self) -> list[str]:
        """The statuses of the events, in order."""
        return [event.type.removeprefix("almenara.alert.") for event in self.alert_events]

    @property
    def alert_events(self) -> list[Event]:
        return [
            msgspec.structs.replace(event, data=msgspec.json.decode(event.data))
            for event in self.events
            if event.type.startswith("almenara.alert.")
        ]

    @property
    def alerts(self) -> dict[str, str]:
        """The status of each alert, by rule and the name of its resource or its group."""
        last = {
            signal.key: signal
            for signal in self.bus.signals
            if isinstance(signal, Resource) and signal.kind == "almenara.alert"
        }
        return {
            " ".join([alert.namespace, *_names(alert)]): alert.status
            for alert in last.values()
            if not alert.deleted
        }

    def command(self, make: Any, *arguments: Any, **options: Any) -> list[Any]:
        """Make a command at the time of the clock and feed it."""
        token = CLOCK.set(self.clock)
        try:
            command = make(*arguments, **options)
        finally:
            CLOCK.reset(token)
        return self.feed(command)

    def key(self, rule: str) -> str:
        """The key of the first alert of a rule."""
        return next(
            event.subject for event in self.alert_events if event.subject.startswith(f"{rule}/")
        )


class AlertRun(Evaluation):
    """The evaluator of rules in YAML."""

    def __init__(self, text: str, links: tuple[ResourceLink, ...] = ()) -> None:
        super().__init__(compile_rules(read_alerting(text), {}, links))


def _names(alert: Resource) -> list[str]:
    resource = alert.state.get("resource", {})
    labels = alert.state["labels"]
    return [name for name in (resource.get("name") or labels.get("subject"),) if name]


def fields_of(signal: Any) -> dict[str, Any]:
    return {name: getattr(signal, name) for name in signal.__struct_fields__}


def pod(name: str, status: str = "Running", *, origin: str = "kube", **fields: Any) -> Resource:
    is_good = status == "Running"
    return Resource(
        kind="pod", namespace="prod", name=name, status=status, origin=origin,
        severity=Severity.INFO if is_good else Severity.ERROR, time=START, **fields,
    )  # fmt: skip


def source(name: str, status: str) -> Resource:
    return Resource(kind="almenara.source", name=name, status=status, origin=name, time=START)


_number = iter(range(10**9))


def failure(subject: str = "a", kind: str = "app.failed", **fields: Any) -> Event:
    return Event(
        id=str(next(_number)),
        source="app",
        type=kind,
        subject=subject,
        time=START,
        **fields,
    )


def sample(value: float, name: str = "a", **fields: Any) -> Sample:
    return Sample(kind="node", name=name, metric="cpu", value=value, time=START, **fields)
