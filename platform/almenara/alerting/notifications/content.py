"""The content of notifications: title and text by the templates of the receiver."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec
import structlog

from almenara.alerting.notifications.records import Entry
from almenara.alerting.sandbox import Fields, Template, TemplateError
from almenara.config import ConfigError, ReceiverSettings
from almenara.hookspecs import Alert, Notification
from almenara.signals import Severity

log = structlog.get_logger(__name__)

MAX_TITLE: Final = 250
"""Characters of a title."""
MAX_TEXT: Final = 12_000
"""Characters of a text."""
DEFAULT_TITLE: Final = (
    "[{{ status|upper }}{% if count > 1 %} {{ count }}{% endif %}] {{ name }}"
    "{% if count == 1 and alerts[0].summary %}: {{ alerts[0].summary }}{% endif %}"
)
DEFAULT_TEXT: Final = """\
{% for alert in alerts %}
{{ alert.status|upper }} {{ alert.severity|upper }} {{ alert.summary or alert.rule }}
{%- if alert.value is not none %} (value {{ alert.value }}
{%- if alert.threshold is not none %}, threshold {{ alert.threshold }}{% endif %}){% endif %}
{%- if alert.resource %} · {{ alert.resource }}{% endif %}
{%- if alert.started %} · since {{ alert.started|moment }}{% endif %}
{%- if alert.ended %} · until {{ alert.ended|moment }}{% endif %}
{%- if alert.by %} · acknowledged by {{ alert.by }}{% endif %}
{%- if alert.assignee %} · assigned to {{ alert.assignee }}{% endif %}

{% if alert.description %}
  {{ alert.description }}
{% endif %}
{% if alert.runbook %}
  Runbook: {{ alert.runbook }}
{% endif %}
{% endfor %}
{% if omitted %}
… and {{ omitted }} more
{% endif %}
"""


class Content(msgspec.Struct, frozen=True):
    """Renders the notifications of a receiver."""

    title: Template
    text: Template


def compile_content(settings: ReceiverSettings, path: str) -> Content:
    """Return the compiled templates of a receiver, each tried on a sample.

    Raises `ConfigError` with the path, the line and the reason.
    """
    templates = []
    sample = describe(SAMPLE)
    for name, source, limit in (
        ("title", settings.title or DEFAULT_TITLE, MAX_TITLE),
        ("text", settings.text or DEFAULT_TEXT, MAX_TEXT),
    ):
        try:
            template = Template(source, sample.keys(), limit=limit)
            template.render(sample)
        except TemplateError as error:
            raise ConfigError(f"{path}.{name}: the template is wrong: {error}") from None
        templates.append(template)
    return Content(*templates)


def describe(notification: Notification) -> Mapping[str, Any]:
    """Return what templates can use of a notification."""
    return {
        "receiver": notification.receiver,
        "status": notification.status,
        "severity": notification.severity.name.lower(),
        "name": _name_group(notification),
        "count": notification.open_count or notification.resolved_count,
        "open_count": notification.open_count,
        "resolved_count": notification.resolved_count,
        "omitted": notification.omitted,
        "alerts": [_describe_alert(alert) for alert in notification.alerts],
        "group_labels": notification.group_labels,
        "common_labels": notification.common_labels,
        "link": notification.link,
        "is_repeat": notification.is_repeat,
        "is_test": notification.is_test,
    }


def _name_group(notification: Notification) -> str:
    labels = {**notification.group_labels}
    rule = labels.pop("rule", "") or notification.common_labels.get("rule", "")
    return " ".join(filter(None, [rule, *(f"{name}={text}" for name, text in labels.items())]))


def _describe_alert(alert: Alert) -> Fields:
    data = msgspec.structs.asdict(alert)
    data["severity"] = alert.severity.name.lower()
    data["resource"] = " ".join(filter(None, alert.resource)) if alert.resource else ""
    data["value"], data["threshold"] = _number(alert.value), _number(alert.threshold)
    return Fields(data)


def _number(value: float | str | None) -> str | None:
    return f"{value:.6g}" if isinstance(value, float) else value


def render(notification: Notification, content: Content, note: str = "") -> Notification:
    """Return the notification with title and text. `note` is put in front of the text.

    A template that fails at run time is replaced by the default one, with the reason in the text:
    an alert must arrive whatever the template does.
    """
    data = describe(notification)
    problems = []
    rendered = []
    for name, template, default in (
        ("title", content.title, DEFAULT_CONTENT.title),
        ("text", content.text, DEFAULT_CONTENT.text),
    ):
        try:
            rendered.append(template.render(data))
        except TemplateError as error:
            log.warning("a template failed", receiver=notification.receiver, reason=str(error))
            problems.append(f"The template of the {name} failed: {error}")
            rendered.append(default.render(data))
    title, text = rendered
    lines = [*filter(None, [note]), text, *problems]
    return msgspec.structs.replace(
        notification, title=" ".join(title.split()) or notification.group, text="\n".join(lines)
    )


def make_notification(
    entry: Entry, receiver: str, group: str, labels: Mapping[str, str], reference: str, base: str
) -> Notification:
    """Return the notification of an entry of the outbox, without title and text.

    `base` is the address of Almenara, which the link starts with; it may be empty.
    """
    return Notification(
        receiver=receiver,
        group=group,
        episode=entry.episode,
        version=entry.version,
        status=entry.status,
        severity=entry.severity,
        title="",
        text="",
        alerts=entry.alerts,
        open_count=entry.open_count,
        resolved_count=entry.resolved_count,
        omitted=entry.omitted,
        group_labels=dict(labels),
        common_labels=entry.common_labels,
        link=alerts_link(base, entry.alerts),
        reference=reference,
        is_quiet=entry.is_quiet,
        is_repeat=entry.is_repeat,
        created=entry.created,
    )


def alerts_link(base: str, alerts: tuple[Alert, ...]) -> str:
    """Return the address of the alerts: the page of one, the list of several."""
    if not base:
        return ""
    path = "/alerts"
    if len(alerts) == 1:
        path += f"/rules/{quote(alerts[0].rule, safe='')}/{quote(alerts[0].fingerprint, safe='')}"
    return base.rstrip("/") + path


SAMPLE: Final = Notification(
    receiver="sample",
    group="sample",
    episode="sample-1",
    version=1,
    status="firing",
    severity=Severity.ERROR,
    title="",
    text="",
    alerts=(
        Alert(
            rule="disk_full",
            fingerprint="4f1a",
            status="firing",
            labels={"team": "storage", "node": "node-3"},
            summary="The disk of node-3 is 95 % full",
            description="/var/lib grows by 2 GiB an hour.",
            value=95.0,
            threshold=90.0,
            since=1_767_225_600_000_000,
            started=1_767_225_600_000_000,
            resource=("kubernetes.node", "", "node-3"),
        ),
    ),
    open_count=1,
    group_labels={"rule": "disk_full"},
    common_labels={"rule": "disk_full", "severity": "error", "team": "storage"},
    link="https://almenara.example.com/alerts/rules/disk_full/4f1a",
    created=1_767_225_600_000_000,
)
"""What templates are tried on, and what a test of a receiver sends."""
DEFAULT_CONTENT: Final = compile_content(ReceiverSettings(name="default", kind=""), "default")
