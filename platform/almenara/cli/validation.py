"""Validation of a whole configuration, with what it refers to."""

from almenara.config import Settings
from almenara.errors import describe_error
from almenara.plugins import PluginRegistry


def validate_configuration(plugins: PluginRegistry, settings: Settings) -> None:
    """Raise `ConfigError` for everything that keeps `almenara serve` from starting.

    Besides the settings it checks the files they name, the settings of each plugin, the panels of
    dashboards, and the receivers and routes of alerts. A plugin that fails is recorded in
    `plugins`, and an error only if it is configured; Almenara starts without it.
    """
    # The web server is imported here, so that the other commands start without it.
    from almenara.alerting.notifications.receivers import check_alerting
    from almenara.alerting.service import read_rules
    from almenara.intake.intakes import check_intakes
    from almenara.panels.registry import PanelRegistry
    from almenara.panels.renderer import Renderer
    from almenara.remote_write.service import check_remote_write
    from almenara.security.config_check import check_access
    from almenara.web.dashboards import check as check_dashboards
    from almenara.web.tls import tls_context

    check_access(settings)
    plugins.check(settings)
    plugins.shared_log(settings)
    read_rules(settings, plugins)
    if settings.server.tls is not None:
        tls_context(settings.server.tls)
    registry = PanelRegistry(Renderer())
    for name in plugins.modules:
        try:
            plugin_settings = plugins.settings(name, settings)
            panels = plugins.hooks.panels(name, plugin_settings)
            pages = plugins.hooks.pages(name, plugin_settings)
            registry.add(name, panels, plugins.hooks.templates(name), pages)
        except Exception as error:
            plugins.record_failure(name, describe_error(error))
    check_alerting(settings.alerting, plugins.notifier_kinds(settings))
    check_intakes(settings, plugins.intake_kinds(settings))
    check_remote_write(settings)
    unavailable = [info.name for info in plugins.infos() if info.state != "active"]
    check_dashboards(settings.dashboards, registry, unavailable)
