"""Compiled rules: conditions, groups, labels and templates; and the index that finds them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.alerting import ALERT, COMMAND
from almenara.alerting.conditions import Absence, Condition, Events
from almenara.alerting.formats import format_duration
from almenara.alerting.matchers import RESERVED_LABELS, Matcher, match_all, parse_matcher
from almenara.alerting.model import Alert, Place
from almenara.alerting.resource_condition import ResourceStatus
from almenara.alerting.sample_condition import SampleThreshold
from almenara.alerting.sandbox import Template, TemplateError
from almenara.alerting.signals import (
    FIELDS,
    PATHS,
    default_group,
    label_of,
    read_field,
    read_path,
    resource_key,
    show_value,
)
from almenara.config import ConfigError, suggest
from almenara.config.alert_rules import AlertRule
from almenara.config.alerting import AlertingSettings
from almenara.hookspecs import ResourceLink
from almenara.patterns import compile_pattern
from almenara.signals import Event, Resource, Severity, Signal

ANNOTATIONS: Final = ("summary", "description")
VARIABLES: Final = (
    "rule", "labels", "value", "threshold", "since", "count",
    "kind", "namespace", "name", "origin", "type", "subject", "status", "data", "state", "metric",
)  # fmt: skip
"""Variables of the templates of annotations."""
MAX_ANNOTATION: Final = 2_000
"""Characters of an annotation; more are cut."""
OF_SIGNAL: Final = "signal"
"""Severity of a rule whose alerts have that of their signals."""
WEB_SCHEMES: Final = ("https://", "http://")
REMEMBERED_NAMES: Final = 10_000


class Rule:
    """One rule, ready to evaluate. Raises `ConfigError` where it is wrong; `place` is its path."""

    def __init__(self, settings: AlertRule, place: str, plugin: str = "") -> None:
        self.settings, self.name, self.plugin = settings, settings.name, plugin
        self.condition = _make_condition(settings, place)
        self.digest = msgspec.json.encode([settings.when, settings.group_by]).decode()
        has_signals = settings.when.events is not None or settings.when.resource is not None
        if settings.severity == OF_SIGNAL and not has_signals:
            raise ConfigError(
                f"{place}.severity: {OF_SIGNAL!r} is for conditions about events or resources;"
                " samples and absence have no severity"
            )
        for index, field in enumerate(settings.group_by or ()):
            _check_field(field, f"{place}.group_by[{index}]")
        for label in settings.labels:
            if label in RESERVED_LABELS:
                raise ConfigError(f"{place}.labels.{label}: every alert has this label already")
        for name in settings.annotations:
            if name not in ANNOTATIONS:
                raise ConfigError(
                    f"{place}.annotations.{name} is not an annotation; {suggest(name, ANNOTATIONS)}"
                )
        is_address = settings.runbook.startswith(WEB_SCHEMES)
        if settings.runbook and not is_address and " " not in settings.runbook.strip():
            raise ConfigError(
                f"{place}.runbook: expected a URL that begins with https:// or http://, or"
                f" instructions in Markdown, found {settings.runbook[:80]!r}"
            )
        self.templates = {
            name: _compile(text, f"{place}.annotations.{name}")
            for name, text in settings.annotations.items()
        }

    def describe(self) -> str:
        """Return when the rule fires, in one line."""
        when = self.settings.when
        parts = []
        for kind in when.__struct_fields__:
            if (condition := getattr(when, kind)) is not None:
                written = msgspec.to_builtins(condition)
                default = {field.name: field.default for field in msgspec.structs.fields(condition)}
                parts = [
                    f"{name} {_describe_value(name, value)}"
                    for name, value in written.items()
                    if value not in (None, "", [], {}) and value != default[name]
                ]
                parts.insert(0, kind)
        if self.settings.for_:
            parts.append(f"for {format_duration(self.settings.for_)}")
        return " · ".join(parts)

    def severity(self, alert: Alert) -> str:
        """Return the severity of an alert of the rule, by name."""
        if self.settings.severity != OF_SIGNAL:
            return self.settings.severity
        return alert.signal_severity or Severity.WARN.name

    def selects(self, signal: Signal) -> bool:
        """Whether a signal that the rule reads matters to it."""
        return self.condition.selects(signal)

    def group(self, signal: Signal) -> dict[str, str]:
        """Return what makes an alert of its own."""
        if self.settings.group_by is None:
            return {} if isinstance(self.condition, Absence) else default_group(signal)
        return {field: read_field(signal, field) for field in self.settings.group_by}

    def labels(self, own: Mapping[str, str], group: Mapping[str, str]) -> dict[str, str]:
        """Return the labels of an alert from those of what it is about and from its group."""
        # A label of the observed system must not pose as one of the rule.
        grouped = {label_of(field): value for field, value in group.items() if value}
        return {
            name: value
            for name, value in {**own, **grouped, **self.settings.labels}.items()
            if name not in RESERVED_LABELS
        }

    def values(self, signal: Signal) -> dict[str, Any]:
        """Return what templates read of a signal."""
        values: dict[str, Any] = {"origin": signal.origin}
        names = (
            "kind",
            "namespace",
            "name",
            "type",
            "subject",
            "status",
            "data",
            "state",
            "metric",
        )
        for name in names:
            if (value := getattr(signal, name, None)) is not None:
                values[name] = value
        if isinstance(signal, Event) and (namespace := signal.attributes.get("namespace")):
            values["namespace"] = namespace
        return values

    def render(self, alert: Alert, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the annotations of an alert. Raises what a template raises."""
        known = {
            **values, "rule": self.name, "labels": alert.labels, "value": alert.value,
            "threshold": alert.threshold, "since": alert.since,
            "count": len(alert.window) + sum(map(len, alert.series.values())),
        }  # fmt: skip
        rendered = {name: template.render(known) for name, template in self.templates.items()}
        rendered["summary"] = " ".join(rendered.get("summary", "").split())
        if not rendered["summary"]:
            rendered["summary"] = self.condition.describe(alert)
        return rendered


class Inhibition:
    """One configured inhibition."""

    def __init__(
        self, source: Sequence[Matcher], target: Sequence[Matcher], equal: Sequence[str]
    ) -> None:
        self.source, self.target, self.equal = source, target, equal

    def applies(self, root: Mapping[str, str], target: Mapping[str, str]) -> bool:
        """Whether an alert with the labels `root` inhibits one with the labels `target`."""
        return (
            match_all(self.source, root)
            and match_all(self.target, target)
            and not match_all(self.source, target)
            and all(root.get(label, "") == target.get(label, "") for label in self.equal)
        )


class RuleSet:
    """All rules, found by the name of what a signal is: one look-up for a name that occurred
    before, however many rules there are."""

    def __init__(
        self,
        rules: Iterable[Rule],
        settings: AlertingSettings,
        links: Sequence[ResourceLink] = (),
    ) -> None:
        self.rules = {rule.name: rule for rule in rules}
        self.settings = settings
        self.inhibitions = _make_inhibitions(settings)
        self._links: dict[str, list[ResourceLink]] = {}
        for link in links:
            self._links.setdefault(link.kind, []).append(link)
        values = self.rules.values()
        self._events = NameIndex(values, lambda rule: rule.condition.events)
        self._resources = NameIndex(values, lambda rule: rule.condition.resources)
        self._samples = NameIndex(values, lambda rule: rule.condition.samples)

    def of_signal(self, signal: Signal) -> Sequence[Rule]:
        """Return the rules that read signals of this name."""
        if isinstance(signal, Event):
            return self._events.find(signal.type)
        if isinstance(signal, Resource):
            return self._resources.find(signal.kind)
        return self._samples.find(signal.metric)

    def parents(self, signal: Signal) -> list[Place]:
        """Return the resources that the resource of a signal depends on."""
        key = resource_key(signal)
        parents: list[Place] = []
        for link in self._links.get(key[0], ()) if key is not None else ():
            state = signal.state if isinstance(signal, Resource) else {}
            reference = _read_reference(signal, state, link.name)
            name = reference.removeprefix(link.prefix)
            if name and reference.startswith(link.prefix):
                namespace = _read_reference(signal, state, link.namespace)
                parents.append((signal.origin, link.parent, namespace, name))
        return parents

    def with_rules(self, rules: Iterable[Rule]) -> "RuleSet":
        """Return a set of other rules with the same settings."""
        return RuleSet(rules, self.settings, [link for of in self._links.values() for link in of])


class NameIndex:
    """Rules by the names and patterns that they read."""

    def __init__(self, rules: Iterable[Rule], names: Callable[[Rule], Sequence[str]]) -> None:
        self._rules = [
            (rule, [name for name in names(rule) if compile_pattern(name) is None],
             [pattern for name in names(rule) if (pattern := compile_pattern(name)) is not None])
            for rule in rules
            if names(rule)
        ]  # fmt: skip
        self._plain: dict[str, list[Rule]] = {}
        for rule, plain, _ in self._rules:
            for name in plain:
                self._plain.setdefault(name, []).append(rule)
        self._patterned = [(rule, patterns) for rule, _, patterns in self._rules if patterns]
        self._known: dict[str, Sequence[Rule]] = {}

    def find(self, name: str) -> Sequence[Rule]:
        """Return the rules that read a name; what alerting publishes itself is read by none."""
        known = self._known.get(name)
        if known is None:
            known = () if _is_own(name) else self._find(name)
            if len(self._known) >= REMEMBERED_NAMES:
                self._known.clear()
            self._known[name] = known
        return known

    def _find(self, name: str) -> Sequence[Rule]:
        rules = list(self._plain.get(name, ()))
        rules += [
            rule
            for rule, patterns in self._patterned
            if rule not in rules and any(pattern.fullmatch(name) for pattern in patterns)
        ]
        return rules


def compile_rules(
    settings: AlertingSettings,
    of_plugins: Mapping[str, Sequence[AlertRule]],
    links: Sequence[ResourceLink] = (),
) -> RuleSet:
    """Return the rules of the configuration and those of plugins, with their inhibitions.

    Raises `ConfigError` with the path of what is wrong, its value and what was expected.
    """
    rules: dict[str, Rule] = {}
    receivers = [receiver.name for receiver in settings.receivers]
    for index, each in enumerate(settings.rules):
        place = f"alerting.rules[{index}]"
        if each.name in rules:
            raise ConfigError(f"{place}.name: {each.name!r} is the name of an earlier rule")
        rules[each.name] = Rule(each, place)
        for position, name in enumerate(each.notify):
            if name not in receivers:
                raise ConfigError(
                    f"{place}.notify[{position}]: {name!r} is not a receiver of"
                    f" alerting.receivers; {suggest(name, receivers)}"
                )
    offered = {each.name for several in of_plugins.values() for each in several}
    for index, name in enumerate(settings.disabled_rules):
        if name not in offered:
            raise ConfigError(
                f"alerting.disabled_rules[{index}]: no plugin has a rule {name!r};"
                f" {suggest(name, sorted(offered))}"
            )
    for plugin, several in of_plugins.items() if settings.default_rules else ():
        for each in several:
            if each.name not in rules and each.name not in settings.disabled_rules:
                rules[each.name] = Rule(each, f"rule {each.name} of plugin {plugin}", plugin)
    return RuleSet(rules.values(), settings, links)


def _describe_value(name: str, value: Any) -> str:
    if name == "within":
        return format_duration(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _make_condition(settings: AlertRule, place: str) -> Condition:
    when = settings.when
    if when.events is not None:
        return Events(when.events)
    if when.resource is not None:
        return ResourceStatus(when.resource)
    if when.sample is not None:
        return SampleThreshold(when.sample)
    assert when.absent is not None  # noqa: S101 # nosec B101 # `Condition.__post_init__` has checked it
    try:
        return Absence(when.absent)
    except ValueError as error:
        raise ConfigError(f"{place}.when.absent: {error}") from None


def _make_inhibitions(settings: AlertingSettings) -> list[Inhibition]:
    inhibitions = []
    for index, each in enumerate(settings.inhibit):
        parts = []
        for name, texts in (("source", each.source), ("target", each.target)):
            try:
                parts.append([parse_matcher(text) for text in texts])
            except ValueError as error:
                raise ConfigError(f"alerting.inhibit[{index}].{name}: {error}") from None
        inhibitions.append(Inhibition(parts[0], parts[1], each.equal))
    return inhibitions


def _compile(text: str, place: str) -> Template:
    try:
        return Template(text, VARIABLES, limit=MAX_ANNOTATION, has_loops=False)
    except TemplateError as error:
        raise ConfigError(f"{place}: the template is wrong: {error}") from None


def _check_field(name: str, place: str) -> None:
    if name not in FIELDS and not (name.startswith(PATHS) and not name.endswith(".")):
        prefixes = ", ".join(f"{path}<name>" for path in PATHS)
        raise ConfigError(
            f"{place}: {name!r} is not a field; {suggest(name, FIELDS)}, or one of {prefixes}"
        )


def _read_reference(signal: Signal, state: Mapping[str, Any], path: str) -> str:
    """Return a part of the key of a parent: a field of the resource, or of its state."""
    if path in ("namespace", "name"):
        return str(getattr(signal, path, ""))
    return show_value(read_path(state, path)) if path else ""


def _is_own(name: str) -> bool:
    """Whether a type or kind is of an alert or a command; rules about them would feed themselves.
    The kinds of rules and sources may have rules."""
    return name == ALERT or name.startswith((f"{ALERT}.", f"{COMMAND}."))
