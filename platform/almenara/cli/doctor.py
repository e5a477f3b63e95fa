"""`almenara doctor`: check the configuration, the disk and the systems that plugins observe."""

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import rich_click as click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from almenara.cli.common import (
    CONFIG_OPTION,
    PLUGINS_DIR_OPTION,
    CommandError,
    ExistingFilePath,
    override_options,
    printable_text,
    read_settings,
    run_async,
)
from almenara.cli.validation import validate_configuration
from almenara.config import ConfigError, LogSettings, Settings
from almenara.errors import AlmenaraError, describe_error
from almenara.hookspecs import Finding
from almenara.logs import configure_logging
from almenara.plugins import PluginRegistry
from almenara.plugins.doctor import diagnose
from almenara.remote_write.service import diagnose as diagnose_receivers
from almenara.signals import format_time

VERDICT_STYLES: Final = {"ok": "green", "warning": "yellow", "failed": "red"}
LOW_DISK_SPACE: Final = 1024**3
GIB: Final = 2**30


@click.command()
@CONFIG_OPTION
@PLUGINS_DIR_OPTION
@click.option("--url", help="Check the Almenara that runs at this URL instead, from outside.")
@click.option(
    "--token-file", type=ExistingFilePath, help="With --url: file with an API token for the check."
)
@click.option("--wait", default=0.0, help="With --url: seconds to wait until it is ready.")
@click.option("--expect", help="With --url: text of an event that must arrive during the check.")
@click.pass_context
def doctor(
    context: click.Context,
    config: Path | None,
    plugins_dir: Path | None,
    url: str | None,
    token_file: Path | None,
    wait: float,
    expect: str | None,
) -> None:
    """Check the configuration, the disk, and the systems that plugins observe.

    With `--url` it checks a running Almenara the way a browser uses it: readiness, pages, live
    updates, and the refusal of WebSockets from other sites.

    Each finding has a remedy. The exit status is 1 if a check failed.
    """
    if url is not None:
        findings = check_url(url, token_file, wait, expect)
    else:
        override_options(context, config=config, plugins_dir=plugins_dir)
        findings = check_installation(context)
    print_findings(findings)
    if any(finding.verdict == "failed" for finding in findings):
        raise SystemExit(1)


def check_url(
    url: str, token_file: Path | None, wait: float, expected: str | None
) -> list[Finding]:
    """Return the findings about the Almenara that runs at `url`. Raises `CommandError`."""
    from almenara.cli.probe import probe_url

    headers = {}
    if token_file is not None:
        headers["Authorization"] = f"Bearer {_read_token(token_file)}"
    findings: list[Finding] = []

    async def collect() -> None:
        findings.extend(await probe_url(url, wait=wait, expected=expected, headers=headers))

    try:
        run_async(collect)
    except ValueError as error:
        raise CommandError(str(error)) from None
    return findings


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"The token in {path} cannot be read: {describe_error(error)}. Name a file with an API"
            " token alone."
        ) from None


def check_installation(context: click.Context) -> list[Finding]:
    """Return the findings about the configuration, the disk, and what plugins diagnose."""
    settings = read_settings(context)
    configure_logging(LogSettings(level="error"))
    plugins: PluginRegistry = context.obj
    path: Path | None = context.find_root().params.get("config")
    findings = [check_configuration(path, settings, plugins), check_disk(settings)]
    if findings[-1].verdict != "failed":
        findings += check_database(settings)
    if findings[0].verdict == "failed":
        # The other checks rely on valid settings.
        return findings
    findings += check_proxies(settings)
    if all(finding.verdict != "failed" for finding in findings):
        findings += check_reports(settings)

    async def collect() -> None:
        findings.extend(await check_bus(plugins, settings))
        findings.extend(await diagnose(plugins, settings))
        findings.extend(await diagnose_receivers(settings))

    run_async(collect)
    return findings


def check_configuration(path: Path | None, settings: Settings, plugins: PluginRegistry) -> Finding:
    """Return whether the configuration is valid."""
    try:
        validate_configuration(plugins, settings)
    except ConfigError as error:
        return Finding(
            check="configuration",
            verdict="failed",
            message=str(error),
            remedy="Correct it in the file or in the environment.",
        )
    message = str(path) if path else "defaults, because --config is not set"
    return Finding(check="configuration", verdict="ok", message=message)


async def check_bus(plugins: PluginRegistry, settings: Settings) -> list[Finding]:
    """Return the findings about a bus that replicas share; none where it is embedded."""
    shared_log = plugins.shared_log(settings)
    if shared_log is None:
        return []
    # Imported here, because what it needs is installed with the plugin that stores the log.
    from almenara.cli.bus_findings import check_shared_log
    from almenara.leases.members import SettingsDigests

    digests = await asyncio.to_thread(SettingsDigests(settings).read)
    return [
        *await asyncio.to_thread(check_replica_folder, settings),
        *await check_shared_log(shared_log, settings.bus, digests),
    ]


def check_replica_folder(settings: Settings) -> list[Finding]:
    """Return a failure where the folder has the history of an embedded bus, which a replica
    refuses."""
    from almenara.bus.copy import has_embedded_history
    from almenara.bus.shared import describe_embedded_history
    from almenara.bus.writer_thread import DATABASE

    path = settings.storage.dir.absolute() / DATABASE
    try:
        if not path.exists() or not has_embedded_history(path):
            return []
    except sqlite3.Error:
        # The check of the database reports it, or the next start migrates it.
        return []
    problem = describe_embedded_history(path.parent)
    return [_storage_failure("storage of the replica", problem)]


def check_proxies(settings: Settings) -> list[Finding]:
    """Return a warning where a proxy is likely and would hide the addresses of clients."""
    from almenara.security.config_check import find_unlisted_proxy

    host = find_unlisted_proxy(settings)
    if host is None:
        return []
    return [
        Finding(
            check="proxies",
            verdict="warning",
            message=f"Users open {host}, and server.trusted_proxies is empty. If a reverse proxy"
            " serves that name, all users have its address, so that wrong tokens of one user delay"
            " the sign-in of all.",
            remedy="Add the addresses of the proxy to server.trusted_proxies.",
        )
    ]


def check_disk(settings: Settings) -> Finding:
    """Return whether the directory of the database is writable and has enough space."""
    from almenara.bus.folder import check_folder
    from almenara.panels.formats import format_bytes

    directory = settings.storage.dir.absolute()
    if (problem := check_folder(directory)) is not None:
        return _storage_failure("disk", problem)
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    limit = settings.storage.retention_size
    used = (
        sum(file.stat().st_size for file in directory.glob("almenara.*"))
        if directory.exists()
        else 0
    )
    message = f"{directory} uses {format_bytes(used)}, {format_bytes(free)} are free"
    if free < LOW_DISK_SPACE or used + free < limit:
        return Finding(
            check="disk",
            verdict="warning",
            message=f"{message}; storage.retention_size allows {format_bytes(limit)}",
            remedy="Lower storage.retention_size, or use a larger disk.",
        )
    return Finding(check="disk", verdict="ok", message=message)


def check_database(settings: Settings) -> list[Finding]:
    """Return whether the database, if it exists, can be used by this version."""
    from almenara.bus.schema import check_version, connect
    from almenara.bus.storage_errors import describe_open_error
    from almenara.bus.writer_thread import DATABASE

    path = settings.storage.dir.absolute() / DATABASE
    if not path.exists():
        return []
    try:
        with closing(connect(path, writable=False)) as connection:
            check_version(connection, path)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except AlmenaraError as error:
        return [_storage_failure("database", str(error))]
    except (OSError, sqlite3.Error) as error:
        return [_storage_failure("database", describe_open_error(error, path.parent))]
    return [Finding(check="database", verdict="ok", message=f"{path} can be opened")]


def check_reports(settings: Settings) -> list[Finding]:
    """Return a warning for each observed system that was restored from an older copy within a day:
    it has lost data, also where it works again."""
    from almenara.bus.writer_thread import DATABASE
    from almenara.cli.stored_reports import read_reports

    path = settings.storage.dir.absolute() / DATABASE
    if not path.exists():
        return []
    try:
        reports = read_reports(path)
    except sqlite3.Error:
        # A database of an earlier version is migrated by the next start.
        return []
    return [
        Finding(
            check=f"{event.origin}, reported {format_time(event.time)[:16]}",
            verdict="warning",
            message=report.message or event.type,
            remedy=report.remedy,
        )
        for event, report in reports
    ]


def _storage_failure(check: str, problem: str) -> Finding:
    """Return a finding for a text whose sentences after the first say what to do."""
    message, _, remedy = problem.partition(". ")
    return Finding(check=check, verdict="failed", message=message, remedy=remedy)


def print_findings(findings: list[Finding]) -> None:
    """Print the findings as a table."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for finding in findings:
        text = Text(printable_text(finding.message))
        if finding.remedy:
            text.append(f"\n{printable_text(finding.remedy)}", style="bold")
        verdict = Text(finding.verdict, style=VERDICT_STYLES[finding.verdict])
        table.add_row(verdict, Text(finding.check), text)
    Console().print(table)
