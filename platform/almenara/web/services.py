"""What the web floor stands on, handed to every handler."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from prometheus_client import CollectorRegistry

from almenara.bus import Bus
from almenara.config import Settings
from almenara.live.hub import Hub
from almenara.panels.panel import View
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.plugins import PluginInfo
from almenara.security.authenticator import Access
from almenara.signals import now
from almenara.supervisor import Supervisor
from almenara.web.assets import Assets
from almenara.web.dashboards import Dashboard, dashboards
from almenara.web.metrics import LoopLag, ServiceMetrics, registry


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts of a running Almenara."""

    settings: Settings
    bus: Bus
    access: Access
    supervisor: Supervisor
    hub: Hub
    catalogue: PanelRegistry
    renderer: Renderer
    assets: Assets
    version: str
    ready: Callable[[], str | None]
    """Why it cannot serve at the moment; None while it can."""
    plugins: Callable[[], Sequence[PluginInfo]] = lambda: ()
    """Every plugin that was found, and what is wrong with it."""
    started: int = field(default_factory=now)
    loop_lag: LoopLag = field(default_factory=LoopLag)

    def dashboards(self, view: View) -> list[Dashboard]:
        """The pages of panels for somebody's view, the overview first."""
        return dashboards(self.settings.dashboards, self.catalogue, view)

    @cached_property
    def registry(self) -> CollectorRegistry:
        """The metrics."""
        return registry(ServiceMetrics(self.bus, self.supervisor, self.hub, self.loop_lag))
