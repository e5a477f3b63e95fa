"""The composition root: creates the parts of Almenara, runs them, and stops them in reverse."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from almenara import __version__
from almenara.alerting.notifications.dispatcher import Dispatcher
from almenara.alerting.notifications.health import SOURCE
from almenara.alerting.notifications.heartbeat import Heartbeat
from almenara.alerting.notifications.receivers import check_alerting, create_receivers
from almenara.alerting.service import Alerting, read_rules
from almenara.bus.embedded import EmbeddedBus
from almenara.cancellation import cancel_all
from almenara.config import ConfigError, Settings
from almenara.history import History
from almenara.intake.intakes import Intakes, check_intakes
from almenara.leases import Publisher, SoleLeases
from almenara.live.hub import Hub
from almenara.live.log_feed import LogFeeds
from almenara.live.text_streams import TextStreams
from almenara.panels.past import record_sources
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.panels.view import View
from almenara.plugins import PluginRegistry
from almenara.plugins.host import PluginHost
from almenara.plugins.reload import reload_saved
from almenara.redaction import Redactor
from almenara.remote_write.service import (
    PLUGIN,
    SETTING,
    check_remote_write,
    create_sources,
)
from almenara.scope import ALERT_KIND
from almenara.security import logout_tokens
from almenara.security.access import AccessControl
from almenara.security.config_check import check_access
from almenara.state.recorder import StateRecorder
from almenara.state.resources import Resources
from almenara.state.sample_history import SampleHistory
from almenara.state.sample_restore import restore_samples
from almenara.state.sample_store import SampleStore
from almenara.state.schemas import SCHEMAS
from almenara.state_store.file import FileStateStore
from almenara.state_store.shared import SharedStateStore
from almenara.supervisor import Supervisor
from almenara.web import self_monitor
from almenara.web.app import create_app
from almenara.web.assets import Assets, check_vendored
from almenara.web.dashboards import check as check_dashboards
from almenara.web.saved_dashboards import SavedDashboard, SavedDashboards
from almenara.web.saved_filters import SavedFilter, SavedFilters
from almenara.web.saved_items import open_file
from almenara.web.server import create_server, open_listener
from almenara.web.services import Services
from almenara.web.tls import follow_certificate

if TYPE_CHECKING:
    from almenara.bus.shared import SharedBus
    from almenara.leases.shared import SharedLeases

log = structlog.get_logger(__name__)

RuntimeBus: TypeAlias = "EmbeddedBus | SharedBus"
TEMPLATES: Final = Path(__file__).parent / "web" / "templates"
GARBAGE_THRESHOLDS: Final = (10_000, 5, 40)
"""A full collection traverses the state of every resource, which stops the event loop for up to a
second, and finds nothing: signals have no cycles. So it comes after 2,000,000 new objects, in place
of 70,000, which a page of the past of 5,000 pods makes."""


@dataclass(frozen=True, kw_only=True)
class Application:
    """The parts of one Almenara, created and not yet running."""

    services: Services
    host: PluginHost
    resources: Resources
    samples: SampleStore
    recorder: StateRecorder
    log_feeds: LogFeeds
    alerting: Alerting | None
    """None where it is not enabled."""
    leases: "SharedLeases | SoleLeases"
    saved_store: FileStateStore | SharedStateStore
    """What users save in the browser, and used logout tokens."""
    replay_from: int
    """The sequence after which resources follow the bus; those before are in them already."""


async def serve(
    settings: Settings,
    plugins: PluginRegistry,
    on_stop: Callable[[], None] = lambda: None,
    *,
    reload: bool = False,
) -> None:
    """Run until SIGTERM or SIGINT; with `reload`, plugins of the plugins directory are reloaded
    when their files change. `on_stop` is called once it stops.

    Raises `ConfigError`, `web.server.PortTakenError`, and what opening the database raises.
    """
    check_access(settings)
    plugins.check(settings)
    check_alerting(settings.alerting, plugins.notifier_kinds(settings))
    check_intakes(settings, plugins.intake_kinds(settings))
    check_remote_write(settings)
    # The port is taken first: nothing is written to disk when another process listens on it.
    with contextlib.closing(open_listener(settings.server)) as listener:
        async with (
            create_bus(settings, plugins) as bus,
            SampleStore(
                settings.storage.dir, settings.samples, bus, settings.storage.query_timeout
            ) as samples,
            StateRecorder(settings.storage.dir, settings.checkpoints) as recorder,
        ):
            application = await compose(settings, plugins, bus, samples, recorder)
            await run(application, listener, on_stop, reload=reload)
    log.info("almenara has stopped")


def create_bus(settings: Settings, plugins: PluginRegistry) -> RuntimeBus:
    """Create the bus that `bus.kind` selects. Raises `ConfigError`."""
    shared_log, redactor = plugins.shared_log(settings), Redactor(settings.redaction)
    if shared_log is None:
        return EmbeddedBus(settings.storage, redactor)
    # Imported here, because what it needs is installed with the plugin that stores the log.
    from almenara.bus.shared import SharedBus

    return SharedBus(settings.storage, shared_log, redactor, schemas=SCHEMAS)


async def compose(
    settings: Settings,
    plugins: PluginRegistry,
    bus: RuntimeBus,
    samples: SampleStore,
    recorder: StateRecorder,
) -> Application:
    """Create the parts, from the bus upwards, and hand out those of the plugins."""
    resources = Resources(samples, recorder)
    replay_from = bus.last_sequence
    await resources.rebuild(bus)
    leases = create_leases(settings, bus)
    supervisor = Supervisor(bus, settings.supervisor, leases)
    resources.unproven_sources = supervisor.unproven_sources
    intakes = Intakes(settings, bus, plugins.intake_kinds(settings))
    for intake in intakes:
        supervisor.add_sender(intake.snapshot)
    check_vendored()
    renderer, assets, log_feeds = Renderer([TEMPLATES]), Assets(), LogFeeds()
    renderer.environment.globals["asset"] = assets.url
    panels = PanelRegistry(renderer)
    text_streams = TextStreams()
    bus.select_stored = text_streams.select_stored
    host = PluginHost(settings, plugins, bus, supervisor, panels, assets, log_feeds, text_streams)
    for plugin in list(plugins.modules):
        host.add(plugin)
    add_remote_writes(settings, bus, supervisor)
    if not isinstance(leases, SoleLeases):
        leases.members.note_sources(state.name for state in supervisor.states())
        leases.members.list_reports = supervisor.list_reports
    panels.add(self_monitor.NAME, self_monitor.list_panels(), None, self_monitor.list_pages())
    resources.retain_sources({state.name for state in supervisor.states()})
    rules = read_rules(settings, plugins)
    alerting = (
        Alerting(rules, bus, supervisor, plugins.has_failures)
        if settings.alerting.enabled
        else None
    )
    check_dashboards(
        settings.dashboards,
        panels,
        [info.name for info in plugins.infos() if info.state != "active"],
    )
    saved_store = create_saved_store(settings, bus)
    access = AccessControl(
        settings,
        bus,
        resources.namespaces,
        log_feeds.rights,
        None if isinstance(bus, EmbeddedBus) else bus,
        saved_store,
    )
    history = History(bus)
    await access.start(history)
    warn_about_access(access)
    redactor = Redactor(settings.redaction)
    view = View(
        bus=bus,
        history=history,
        resources=resources,
        sources=supervisor,
        settings=settings.panels,
        log_feeds=log_feeds,
        samples=SampleHistory(samples, resources),
        rules=alerting,
        text_streams=text_streams,
        redact_text=redactor.mask_text,
        redact_resource=redactor.mask_resource,
    )
    hub = Hub(view, panels, renderer)
    notifications = compose_notifications(settings, plugins, bus, resources)
    saved_dashboards, saved_filters = SavedDashboards(saved_store), SavedFilters(saved_store)
    await saved_dashboards.load()
    await saved_filters.load()
    services = Services(
        settings=settings,
        bus=bus,
        access=access,
        supervisor=supervisor,
        hub=hub,
        renderer=renderer,
        panels=panels,
        assets=assets,
        saved_dashboards=saved_dashboards,
        saved_filters=saved_filters,
        version=__version__,
        notifications=notifications,
        intakes=intakes,
        alerting=alerting,
        list_plugins=plugins.infos,
        check_ready=lambda: (
            bus.failure
            or bus.not_ready
            or access.not_ready
            or ("draining" if hub.draining else None)
        ),
    )
    return Application(
        services=services,
        host=host,
        resources=resources,
        samples=samples,
        recorder=recorder,
        log_feeds=log_feeds,
        alerting=alerting,
        replay_from=replay_from,
        leases=leases,
        saved_store=saved_store,
    )


def add_remote_writes(settings: Settings, bus: RuntimeBus, supervisor: Supervisor) -> None:
    """Add what sends samples to other databases. Raises `ConfigError` for a name that is taken."""
    for source in create_sources(settings, bus):
        try:
            supervisor.add(source, PLUGIN)
        except ValueError as error:
            raise ConfigError(f"{SETTING}: {error}") from None


def create_saved_store(settings: Settings, bus: RuntimeBus) -> FileStateStore | SharedStateStore:
    """Create what stores what users save: a file, or what replicas with a secret share."""
    file = open_file(settings.storage.dir)
    if isinstance(bus, EmbeddedBus) or settings.bus.secret is None:
        return FileStateStore(file)
    prefixes = (SavedDashboard.PREFIX, SavedFilter.PREFIX, logout_tokens.PREFIX)
    return SharedStateStore(file, bus, prefixes, settings.bus.secret)


def create_leases(settings: Settings, bus: RuntimeBus) -> "SharedLeases | SoleLeases":
    """Create what decides whether this process runs a source."""
    if isinstance(bus, EmbeddedBus):
        return SoleLeases(bus)
    from almenara.leases.members import SettingsDigests
    from almenara.leases.shared import SharedLeases

    name = settings.bus.replica or socket.gethostname()
    leases = SharedLeases(bus, name, SettingsDigests(settings))
    bus.list_replica_problems = leases.members.list_problems
    return leases


async def notify(application: Application) -> None:
    """Notify receivers, and send the heartbeat, while this replica has the lease for it."""
    notifications = application.services.notifications
    heartbeat = application.services.settings.alerting.heartbeat

    async def work(publisher: Publisher) -> None:
        notifications.publisher = publisher
        async with asyncio.TaskGroup() as group:
            group.create_task(notifications.run(), name="notifications")
            if heartbeat is not None:
                sender = Heartbeat(heartbeat, notifications, application.alerting)
                group.create_task(sender.run(), name="heartbeat")

    await application.leases.run("notifications", work, lambda: None, origin=SOURCE)


async def refresh_sessions(application: Application) -> None:
    """Refresh the sessions that replicas share while this replica has the lease for it."""

    async def work(publisher: Publisher) -> None:
        await application.services.access.reviewer.refresh_shared()

    await application.leases.run("sessions", work, lambda: None)


async def run_snapshots(application: Application) -> None:
    """Write snapshots of a shared bus while this replica has the lease for it, and report the
    newest one."""
    from almenara.bus.shared import SharedBus
    from almenara.bus.snapshot_writer import ORIGIN, SnapshotWriter

    settings, bus = application.services.settings, application.services.bus
    if not isinstance(bus, SharedBus):
        return
    replica = application.leases.replica
    writer = SnapshotWriter(settings.storage.dir, bus.shared_log, settings.bus, replica)

    async def work(publisher: Publisher) -> None:
        await writer.run(bus, publisher)

    await writer.remove_copies()
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.watch(bus))
        group.create_task(application.leases.run("snapshots", work, lambda: None, origin=ORIGIN))


def compose_notifications(
    settings: Settings, plugins: PluginRegistry, bus: RuntimeBus, resources: Resources
) -> Dispatcher:
    """Create what notifies receivers of alerts. Raises `ConfigError`."""
    if settings.alerting.receivers and not settings.alerting.enabled:
        log.warning("no rule is evaluated, so receivers get no alerts: set alerting.enabled")
    kinds = plugins.notifier_kinds(settings)
    return Dispatcher(
        bus,
        create_receivers(settings.alerting, kinds),
        check_alerting(settings.alerting, kinds),
        fallback_after=settings.alerting.fallback_after,
        base_url=settings.server.url,
        open_alerts=lambda: resources.of_kind(ALERT_KIND),
        read_points=lambda alert: (
            [] if alert.resource is None else resources.series(*alert.resource, alert.metric)
        ),
    )


async def run(
    application: Application,
    listener: socket.socket,
    on_stop: Callable[[], None],
    *,
    reload: bool,
) -> None:
    """Serve on `listener` until a signal to stop, with everything that runs beside the server."""
    services = application.services
    settings, hub = services.settings, services.hub
    server = create_server(
        create_app(services),
        settings.server,
        lambda: hub.drain(settings.server.drain_period),
        settings.max_intake_bytes,
    )
    hub.start()
    if not reload:
        # What exists now stays. Traversed by every garbage collection, it would delay live pages.
        gc.freeze()
        gc.set_threshold(*GARBAGE_THRESHOLDS)
    try:
        async with asyncio.TaskGroup() as group:
            access = group.create_task(services.access.run(), name="access")
            background = [
                group.create_task(
                    application.resources.follow(services.bus, application.replay_from),
                    name="resources",
                ),
                group.create_task(application.samples.run(), name="samples"),
                group.create_task(
                    application.recorder.run(application.resources.present), name="checkpoints"
                ),
                group.create_task(
                    record_sources(application.recorder, services.supervisor.states),
                    name="record sources",
                ),
                group.create_task(
                    restore_samples(application.resources, application.samples),
                    name="restore samples",
                ),
                group.create_task(services.loop_lag.run(), name="loop lag"),
                group.create_task(services.supervisor.run(), name="supervisor"),
                group.create_task(notify(application), name="notifications"),
                group.create_task(
                    self_monitor.SelfMonitor(
                        services.bus,
                        services.supervisor,
                        hub,
                        services.loop_lag,
                        application.samples,
                        settings.bus.replica or socket.gethostname(),
                    ).run(),
                    name="self monitor",
                ),
            ]
            if not isinstance(application.leases, SoleLeases):
                keeping = application.leases.run_keeper()
                background.append(group.create_task(keeping, name="leases"))
                snapshots = run_snapshots(application)
                background.append(group.create_task(snapshots, name="snapshots"))
                refreshes = refresh_sessions(application)
                background.append(group.create_task(refreshes, name="refresh of sessions"))
            if isinstance(application.saved_store, SharedStateStore):
                background += [
                    group.create_task(run(), name="saved items")
                    for run in (
                        application.saved_store.run,
                        services.saved_dashboards.run,
                        services.saved_filters.run,
                    )
                ]
            if application.alerting is not None:
                background.append(group.create_task(application.alerting.run(), name="alerting"))
            if (tls := settings.server.tls) is not None:
                certificate = follow_certificate(tls, server.use_context)
                background.append(group.create_task(certificate, name="certificate"))
            if reload and settings.plugins_dir is not None:
                reloading = reload_saved(settings.plugins_dir, application.host, hub.rerender)
                background.append(group.create_task(reloading, name="reload"))
            host, port = listener.getsockname()[:2]
            scheme = "https" if settings.server.tls is not None else "http"
            log.info("almenara is ready", address=f"{scheme}://{host}:{port}/")
            try:
                await server.serve(sockets=[listener])
            finally:
                on_stop()
            # Above what the supervisor takes at most, with a plugin that does not stop.
            patience = settings.supervisor.stop_timeout * 2 + 2
            await cancel_all(background, patience)
            # Last, because it shares what refreshes of sessions have just stored.
            await cancel_all([access], patience)
    finally:
        await hub.close()
        await application.log_feeds.close()


def warn_about_access(access: AccessControl) -> None:
    """Log what an operator must know about who can see the data."""
    if access.mode == "insecure-none":
        log.warning("everyone who can connect sees everything: auth.mode is insecure-none")
    if access.mode == "token" and not access.has_access_token:
        log.warning("no one can sign in yet; create an access token with `almenara access rotate`")
