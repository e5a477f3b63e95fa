"""NATS: JetStream streams and core subjects as events, streams and consumers as resources."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

import almenara
from almenara.hookspecs import (
    AlertRule,
    Context,
    Finding,
    Page,
    Panel,
    ReportingSource,
    ResourceLink,
    SharedLog,
    SharedLogKind,
)
from almenara_nats.settings import NatsSettings


@almenara.hookimpl
def almenara_settings() -> type[NatsSettings]:
    return NatsSettings


@almenara.hookimpl
def almenara_sources(settings: NatsSettings, context: Context) -> Sequence[ReportingSource]:
    from almenara_nats.source import NatsSource

    return [NatsSource(settings, context)]


@almenara.hookimpl
def almenara_shared_logs(settings: NatsSettings) -> Sequence[SharedLogKind]:
    from almenara_nats.bus_settings import JetStreamBusSettings

    def create(bus: JetStreamBusSettings) -> SharedLog:
        from almenara_nats.bus_log import JetStreamLog

        return JetStreamLog(settings, bus)

    return [SharedLogKind(name="jetstream", settings=JetStreamBusSettings, create=create)]


@almenara.hookimpl
def almenara_panels(settings: NatsSettings) -> Sequence[Panel]:
    from almenara_nats.panels import panels

    return panels()


@almenara.hookimpl
def almenara_pages(settings: NatsSettings) -> Sequence[Page]:
    from almenara_nats.panels import pages

    return pages()


@almenara.hookimpl
def almenara_templates() -> Path:
    return Path(__file__).parent / "templates"


@almenara.hookimpl
def almenara_commands(
    read_settings: Callable[[], Any], read_shared_log: Callable[[], SharedLog | None]
) -> Sequence[click.Command]:
    from almenara_nats.commands import commands

    return commands(read_settings, read_shared_log)


@almenara.hookimpl
async def almenara_diagnose(settings: NatsSettings) -> Sequence[Finding]:
    from almenara_nats.doctor import diagnose

    return await diagnose(settings)


@almenara.hookimpl
def almenara_alert_rules(settings: NatsSettings) -> Sequence[AlertRule]:
    from almenara_nats.alert_rules import RULES

    return RULES


@almenara.hookimpl
def almenara_resource_links() -> Sequence[ResourceLink]:
    from almenara_nats.alert_rules import LINKS

    return LINKS
