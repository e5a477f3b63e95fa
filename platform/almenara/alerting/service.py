"""Alerting in a running Almenara: the rules of configuration and plugins, and their evaluation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from almenara.alerting import ORIGIN
from almenara.alerting.commands import make_started
from almenara.alerting.defaults import CORE, CORE_RULES
from almenara.alerting.evaluator import NAME, Evaluator
from almenara.alerting.rules import RuleSet, compile_rules
from almenara.alerting.sources import SourceBus, publish_sources
from almenara.config import Settings
from almenara.config.alert_rules import AlertRule
from almenara.errors import describe_error
from almenara.hookspecs import ResourceLink
from almenara.plugins import PluginRegistry
from almenara.processors.source import ProcessorBus, ProcessorSource
from almenara.signals import Event
from almenara.supervisor import Supervisor


class AlertingBus(SourceBus, ProcessorBus, Protocol):
    """What alerting needs from the bus."""


class Alerting:
    """The evaluation of rules, and the commands of people. Create it where alerting is enabled."""

    def __init__(
        self,
        rules: RuleSet,
        bus: AlertingBus,
        supervisor: Supervisor,
        has_failed_plugins: Callable[[], bool] = lambda: False,
    ) -> None:
        self._has_failed_plugins = has_failed_plugins
        self.rules, self.evaluator = rules, Evaluator(rules)
        self._bus, self._supervisor = bus, supervisor
        supervisor.add(ProcessorSource(self.evaluator, NAME, bus), NAME)

    def list_rules(self) -> list[dict[str, Any]]:
        """Return a row for each rule, with its last evaluation."""
        rows = []
        for name, rule in self.rules.rules.items():
            health = self.evaluator.health[name]
            rows.append(
                {
                    "name": name,
                    "condition": rule.describe(),
                    "severity": rule.settings.severity,
                    "origin": describe_origin(rule.plugin),
                    "evaluations": health.evaluations,
                    "evaluated": health.evaluated,
                    "error": health.error,
                }
            )
        return rows

    @property
    def problem(self) -> str:
        """Why rules are not evaluated; empty while they are, here or on another replica."""
        if NAME not in self._supervisor.unproven_sources():
            return ""
        return f"rules are not evaluated; the Sources page has the error of the source {NAME}"

    async def run(self) -> None:
        """Start the evaluation, and publish the status of sources, until cancelled."""
        await self.command(make_started())
        await publish_sources(self._bus, self._supervisor.states, self._has_failed_plugins)

    async def command(self, command: Event) -> None:
        """Publish a command; it takes effect once the evaluator has read it."""
        await self._bus.publish([command], ORIGIN)


def describe_origin(plugin: str) -> str:
    """Return where a rule comes from."""
    if plugin == CORE:
        return "built in"
    return f"plugin {plugin}" if plugin else "configuration"


def read_rules(settings: Settings, plugins: PluginRegistry) -> RuleSet:
    """Return the rules of the configuration, of plugins and of the core.

    A plugin whose rules are wrong is recorded, and its rules are left out. Raises `ConfigError`.
    """
    of_plugins: dict[str, Sequence[AlertRule]] = {CORE: CORE_RULES}
    links: list[ResourceLink] = []
    for name in list(plugins.modules):
        try:
            own = plugins.settings(name, settings)
            rules = plugins.hooks.alert_rules(name, own)
            _check_rules(settings, name, rules)
            links += plugins.hooks.resource_links(name, own)
        except Exception as error:
            plugins.record_failure(name, describe_error(error))
        else:
            of_plugins[name] = rules
    return compile_rules(settings.alerting, of_plugins, links)


def _check_rules(settings: Settings, plugin: str, rules: Sequence[AlertRule]) -> None:
    """Raise `ConfigError` for a wrong rule of a plugin."""
    no_rules: Mapping[str, Any] = {"rules": [], "disabled_rules": [], "inhibit": []}
    alone = type(settings.alerting)(**no_rules)
    compile_rules(alone, {plugin: rules})
