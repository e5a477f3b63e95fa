"""A running Almenara: its parts started from the ground up, and stopped from the top down."""

import asyncio
import contextlib
import gc
from pathlib import Path
from typing import Final

import structlog

from almenara import __version__
from almenara.bus.embedded import EmbeddedBus
from almenara.config import Settings
from almenara.history import History
from almenara.live.hub import Hub
from almenara.live.log_feed import LogFeeds
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.panels.view import View
from almenara.plugins import PluginRegistry
from almenara.plugins.host import PluginHost
from almenara.plugins.reload import reload_saved
from almenara.redaction import Redactor
from almenara.security.access import AccessControl
from almenara.security.config_check import check_access
from almenara.state.resources import Resources
from almenara.supervisor import Supervisor
from almenara.web.app import create_app
from almenara.web.assets import Assets
from almenara.web.dashboards import check as check_dashboards
from almenara.web.server import create_server, open_listener
from almenara.web.services import Services
from almenara.web.tls import follow_certificate

log = structlog.get_logger(__name__)

TEMPLATES: Final = Path(__file__).parent / "web" / "templates"


async def serve(settings: Settings, plugins: PluginRegistry, *, reload: bool = False) -> None:
    """Run until SIGTERM or SIGINT; with `reload`, plugins of the plugins directory are loaded
    again when they are saved.

    Raises `web.server.PortTakenError`, `settings.ConfigError`, and what opening the database
    raises.
    """
    check_access(settings)
    plugins.check(settings)
    with contextlib.closing(open_listener(settings.server)) as sock:
        async with EmbeddedBus(settings.storage, Redactor(settings.redaction)) as bus:
            resources = Resources()
            replay_from = bus.last_sequence
            await resources.rebuild(bus)
            supervisor = Supervisor(bus, settings.supervisor)
            renderer = Renderer([TEMPLATES])
            catalogue, assets, feeds = PanelRegistry(renderer), Assets(), LogFeeds()
            renderer.environment.globals["asset"] = assets.url
            host = PluginHost(settings, plugins, bus, supervisor, catalogue, assets, feeds)
            for plugin in list(plugins.modules):
                host.add(plugin)
            history = History(bus)
            access = AccessControl(settings, bus, resources.namespaces, feeds.rights)
            await access.start()
            tell_of_access(access)
            view = View(
                bus=bus,
                history=history,
                resources=resources,
                sources=supervisor,
                settings=settings.panels,
                log_feeds=feeds,
            )
            channels = Hub(view, catalogue, renderer)
            check_dashboards(
                settings.dashboards,
                catalogue,
                [it.name for it in plugins.infos() if it.state != "active"],
            )
            services = Services(
                settings=settings,
                bus=bus,
                access=access,
                supervisor=supervisor,
                hub=channels,
                renderer=renderer,
                panels=catalogue,
                assets=assets,
                version=__version__,
                list_plugins=plugins.infos,
                check_ready=lambda: bus.failure or ("draining" if channels.draining else None),
            )
            running = create_server(
                create_app(services),
                settings.server,
                lambda: channels.drain(settings.server.drain_period),
            )
            channels.start()
            if not reload:
                # What is here now stays. Looked at by each collection, it would hold up live pages.
                gc.freeze()
            try:
                async with asyncio.TaskGroup() as group:
                    background = [
                        group.create_task(resources.follow(bus, replay_from), name="resources"),
                        group.create_task(access.run(), name="access"),
                        group.create_task(services.loop_lag.run(), name="loop lag"),
                        group.create_task(supervisor.run(), name="supervisor"),
                    ]
                    if (tls := settings.server.tls) is not None:
                        background.append(
                            group.create_task(
                                follow_certificate(tls, running.use_context), name="certificate"
                            )
                        )
                    if reload and settings.plugins_dir is not None:
                        background.append(
                            group.create_task(
                                reload_saved(settings.plugins_dir, host, channels.rerender),
                                name="reloading",
                            )
                        )
                    host, port = sock.getsockname()[:2]
                    scheme = "https" if settings.server.tls is not None else "http"
                    log.info("almenara is ready", address=f"{scheme}://{host}:{port}/")
                    await running.serve(sockets=[sock])
                    for task in background:
                        task.cancel()
            finally:
                await channels.close()
                await feeds.close()
    log.info("almenara has stopped")


def tell_of_access(access: AccessControl) -> None:
    """Say in the log what an operator has to know of who may look."""
    if access.mode == "insecure-none":
        log.warning("everybody who can connect sees everything: auth.mode is insecure-none")
    if access.mode == "token" and not access.has_access_token:
        log.warning("nobody can sign in yet; `almenara access rotate` makes an access token")
