"""`almenara serve`: run the sources, the bus and the web server."""

import os
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Final

import rich_click as click
import structlog

from almenara.cli.common import (
    CONFIG_OPTION,
    PLUGINS_DIR_OPTION,
    CommandError,
    configuration_error,
    override_options,
    read_settings,
    run_async,
)
from almenara.cli.stop_watchdog import LIMIT, StopWatchdog, exit_on_signal
from almenara.config import ConfigError, Settings
from almenara.errors import AlmenaraError, describe_error
from almenara.logs import configure_logging
from almenara.plugins import PluginRegistry

log = structlog.get_logger(__name__)

MAX_ERROR: Final = 2_000
HOST_OPTION = click.option("--host", help="Address to listen on. Overrides `server.host`.")
PORT_OPTION = click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on. Overrides `server.port`."
)


@click.command()
@CONFIG_OPTION
@PLUGINS_DIR_OPTION
@HOST_OPTION
@PORT_OPTION
@click.pass_context
def serve(
    context: click.Context,
    config: Path | None,
    plugins_dir: Path | None,
    host: str | None,
    port: int | None,
) -> None:
    """Run the sources, the bus and the web server until interrupted.

    On SIGTERM it stops being ready, lets browsers reconnect elsewhere, stops the sources, writes
    all pending signals, and exits.
    """
    override_options(context, config=config, plugins_dir=plugins_dir)
    run_server(context, read_settings(context), host, port)


def run_server(
    context: click.Context,
    settings: Settings,
    host: str | None,
    port: int | None,
    *,
    reload: bool = False,
) -> None:
    """Serve until interrupted. Raises `CommandError` if the server cannot start."""
    # The web server is imported here, so that the other commands start without it.
    from almenara.runtime import serve as serve_until_stopped

    plugins: PluginRegistry = context.obj
    if host is not None:
        settings.server.host = host
    if port is not None:
        settings.server.port = port
    configure_logging(settings.log)
    for info in plugins.infos():
        if info.state == "failed":
            log.error("a plugin failed", plugin=info.name, error=info.error)
    exit_on_signal()
    try:
        # Beside what sources may take to stop.
        limit = LIMIT + 2 * settings.supervisor.stop_timeout
        with StopWatchdog(limit) as watchdog:
            run_async(lambda: serve_until_stopped(settings, plugins, watchdog.arm, reload=reload))
    except* (AlmenaraError, OSError, sqlite3.Error) as group:
        raise start_error(group.exceptions[0], settings) from None
    exit_despite_threads()


def exit_despite_threads() -> None:
    """Exit at once if sources left threads running; the interpreter would wait for them."""
    threads = [
        thread.name for thread in threading.enumerate() if thread is not threading.main_thread()
    ]
    if threads:
        log.warning("exiting with running threads", threads=threads)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def start_error(error: BaseException, settings: Settings) -> CommandError:
    """Return why the server could not start, and what to do."""
    from almenara.bus.storage_errors import describe_open_error

    if isinstance(error, ConfigError):
        return configuration_error(error)
    if isinstance(error, sqlite3.Error):
        reason = describe_open_error(error, settings.storage.dir)
        return CommandError(f"Almenara cannot start. {reason}")
    return CommandError(f"Almenara cannot start: {describe_error(error, limit=MAX_ERROR)}")
