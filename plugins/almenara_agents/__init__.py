"""AI agents: what they work on, their councils and deliberations, and who is stuck."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import almenara
from almenara.hookspecs import AlertRule, Page, Panel, TextStream, TimedProcessor
from almenara_agents.settings import AgentsSettings


@almenara.hookimpl
def almenara_settings() -> type[AgentsSettings]:
    return AgentsSettings


@almenara.hookimpl
def almenara_processors(settings: AgentsSettings) -> Sequence[TimedProcessor]:
    if not settings.enabled:
        return []
    from almenara_agents.processor import AgentsProcessor

    return [AgentsProcessor(settings)]


@almenara.hookimpl
def almenara_panels(settings: AgentsSettings) -> Sequence[Panel]:
    if not settings.enabled:
        return []
    from almenara_agents.panels import list_panels

    return list_panels(settings)


@almenara.hookimpl
def almenara_pages(settings: AgentsSettings) -> Sequence[Page]:
    if not settings.enabled:
        return []
    from almenara_agents.panels import list_pages

    return list_pages(settings)


@almenara.hookimpl
def almenara_text_streams(settings: AgentsSettings) -> Sequence[TextStream]:
    if not settings.enabled:
        return []
    from almenara_agents.token_stream import TokenStream, TurnTexts

    tokens = TokenStream(settings)
    return [tokens, TurnTexts(tokens)]


@almenara.hookimpl
def almenara_templates() -> Path | Mapping[str, str]:
    return Path(__file__).parent / "templates"


@almenara.hookimpl
def almenara_static() -> Path:
    return Path(__file__).parent / "static"


@almenara.hookimpl
def almenara_alert_rules(settings: AgentsSettings) -> Sequence[AlertRule]:
    if not settings.enabled:
        return []
    from almenara_agents.alert_rules import RULES

    return RULES


@almenara.hookimpl
def almenara_commands(read_settings: Callable[[], Any]) -> Sequence[click.Command]:
    from almenara_agents.commands import commands

    return commands(read_settings)
