"""Notifiers: Slack, e-mail, webhooks, PagerDuty, Microsoft Teams, ntfy, Alertmanager, Apprise."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import almenara
from almenara.hookspecs import Capabilities, Notifier, NotifierKind
from almenara_notifiers.settings import (
    AlertmanagerSettings,
    AppriseSettings,
    EmailSettings,
    NtfySettings,
    PagerDutySettings,
    SlackSettings,
    SlackWebhookSettings,
    TeamsSettings,
    WebhookSettings,
)


def load(module: str, name: str) -> Callable[[Any], Notifier]:
    """Return what creates a notifier; its client library is imported with the first one."""

    def create(settings: Any) -> Notifier:
        notifiers = importlib.import_module(f"almenara_notifiers.{module}")
        notifier: Notifier = getattr(notifiers, name)(settings)
        return notifier

    return create


KINDS = (
    NotifierKind(
        name="slack",
        title="Slack",
        settings=SlackSettings,
        create=load("slack", "SlackNotifier"),
        capabilities=Capabilities(edit=True, thread=True),
    ),
    NotifierKind(
        name="slack_webhook",
        title="Slack, incoming webhook",
        settings=SlackWebhookSettings,
        create=load("slack", "SlackWebhookNotifier"),
    ),
    NotifierKind(
        name="email",
        title="E-mail",
        settings=EmailSettings,
        create=load("mail", "EmailNotifier"),
        capabilities=Capabilities(thread=True, charts=True, max_alerts=50),
    ),
    NotifierKind(
        name="webhook",
        title="Webhook",
        settings=WebhookSettings,
        create=load("webhook", "WebhookNotifier"),
        capabilities=Capabilities(tracks_groups=True, max_alerts=200),
    ),
    NotifierKind(
        name="pagerduty",
        title="PagerDuty",
        settings=PagerDutySettings,
        create=load("pagerduty", "PagerDutyNotifier"),
        capabilities=Capabilities(acknowledge=True, tracks_groups=True),
    ),
    NotifierKind(
        name="teams",
        title="Microsoft Teams",
        settings=TeamsSettings,
        create=load("teams", "TeamsNotifier"),
    ),
    NotifierKind(
        name="ntfy",
        title="ntfy",
        settings=NtfySettings,
        create=load("ntfy", "NtfyNotifier"),
    ),
    NotifierKind(
        name="alertmanager",
        title="Alertmanager",
        settings=AlertmanagerSettings,
        create=load("alertmanager", "AlertmanagerNotifier"),
        capabilities=Capabilities(tracks_groups=True, max_alerts=10_000),
    ),
    NotifierKind(
        name="apprise",
        title="Apprise",
        settings=AppriseSettings,
        create=load("apprise", "AppriseNotifier"),
    ),
)


@almenara.hookimpl
def almenara_notifiers() -> Sequence[NotifierKind]:
    return KINDS
