"""What the web floor stands on, handed to every handler."""

from collections.abc import Callable
from dataclasses import dataclass

from almenara.bus import Bus
from almenara.history import History
from almenara.panels.channels import Channels
from almenara.panels.renderer import Renderer
from almenara.resources import Resources
from almenara.settings import Settings
from almenara.supervisor import Supervisor
from almenara.web.assets import Assets


@dataclass(frozen=True, kw_only=True)
class Services:
    """The parts of a running Almenara."""

    settings: Settings
    bus: Bus
    history: History
    resources: Resources
    supervisor: Supervisor
    channels: Channels
    renderer: Renderer
    assets: Assets
    version: str
    ready: Callable[[], str | None]
    """Why it cannot serve at the moment; None while it can."""
