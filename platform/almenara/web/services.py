"""The parts of a running Almenara that request handlers use."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from prometheus_client import CollectorRegistry

from almenara.alerting.notifications.dispatcher import Dispatcher
from almenara.alerting.service import Alerting
from almenara.bus import Bus
from almenara.config import Settings
from almenara.intake.intakes import Intakes
from almenara.live.hub import Hub
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.plugins import PluginInfo
from almenara.security.access import AccessControl
from almenara.security.identity import Identity
from almenara.signals import now
from almenara.supervisor import Supervisor
from almenara.web.assets import Assets
from almenara.web.dashboards import Dashboard, build_dashboards, build_saved
from almenara.web.exports import ExportLimiter
from almenara.web.metrics import LoopLag, ServiceMetrics, build_registry
from almenara.web.saved_dashboards import SavedDashboards
from almenara.web.saved_filters import SavedFilters


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts of a running Almenara, injected into every handler as `services`."""

    settings: Settings
    bus: Bus
    access: AccessControl
    supervisor: Supervisor
    hub: Hub
    panels: PanelRegistry
    renderer: Renderer
    assets: Assets
    notifications: Dispatcher
    intakes: Intakes
    saved_dashboards: SavedDashboards
    saved_filters: SavedFilters
    version: str
    check_ready: Callable[[], str | None]
    """Returns why Almenara cannot serve at the moment; None while it can."""
    alerting: Alerting | None = None
    """None where it is not enabled."""
    list_plugins: Callable[[], Sequence[PluginInfo]] = lambda: ()
    """Returns every plugin that was discovered, with the errors of those that failed."""
    started: int = field(default_factory=now)
    """When this process started, in microseconds since the Unix epoch."""
    loop_lag: LoopLag = field(default_factory=LoopLag)
    exports: ExportLimiter = field(default_factory=ExportLimiter)

    def list_dashboards(self, identity: Identity | None = None) -> list[Dashboard]:
        """Return the dashboards for a viewer, the overview first; with an identity, also those that
        are saved and shared with it."""
        dashboards = build_dashboards(
            self.settings.dashboards, self.panels,
            has_alerting=self.settings.alerting.enabled,
        )  # fmt: skip
        if identity is None:
            return dashboards
        names = {dashboard.name for dashboard in dashboards}
        saved = [
            build_saved(each.settings, self.panels)
            for each in self.saved_dashboards.visible(identity)
            if each.name not in names
        ]
        return [*dashboards, *saved]

    @cached_property
    def metrics_registry(self) -> CollectorRegistry:
        """The metrics for Prometheus."""
        samples = self.hub.view.samples
        metrics = ServiceMetrics(
            self.bus,
            self.supervisor,
            self.hub,
            self.loop_lag,
            None if samples is None else samples.store,
        )
        return build_registry(metrics)
