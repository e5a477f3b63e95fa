"""`almenara`: serve, look after and look into a running Almenara from the terminal."""

import asyncio
import json
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import rich_click as click
import structlog
from click import get_current_context as click_context
from rich.console import Console
from rich.table import Table
from rich.text import Text

from almenara import __version__
from almenara.cli.access import access_commands
from almenara.cli.plugins import plugin_commands
from almenara.config import ConfigError, LogSettings, Settings, load_settings
from almenara.hookspecs import Finding
from almenara.logs import configure_logging
from almenara.plugins import PluginRegistry, load_plugins
from almenara.plugins.doctor import diagnose as diagnose_plugins
from almenara.terminal import printable, printable_json

CONFIG_VARIABLE: Final = "ALMENARA_CONFIG"
TOKEN_VARIABLE: Final = "ALMENARA_TOKEN"  # noqa: S105
PLUGINS_DIR_VARIABLE: Final = "ALMENARA_PLUGINS_DIR"
VERDICTS: Final = {"ok": "green", "warning": "yellow", "failed": "red"}
SEVERITY_STYLES: Final = {
    "DEBUG": "dim",
    "INFO": "cyan",
    "WARN": "yellow",
    "ERROR": "red",
    "FATAL": "bold red reverse",
}
LOW_SPACE: Final = 1024**3

click.rich_click.USE_MARKDOWN = True
click.rich_click.COMMAND_GROUPS = {
    "almenara": [
        {"name": "Run", "commands": ["serve", "demo", "dev", "backup"]},
        {"name": "Inspect", "commands": ["tail", "doctor", "plugins", "config", "access"]},
    ]
}


class Failure(click.ClickException):
    """An error for the person at the terminal."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, lines=True))


def read_settings(context: click.Context) -> Settings:
    """The configuration named on the command line. Raises `Failure`."""
    root = context.find_root().params
    try:
        settings = load_settings(root.get("config"))
    except ConfigError as error:
        raise Failure(f"The configuration is wrong. {error}") from None
    if root.get("plugins_dir") is not None:
        settings.plugins_dir = root["plugins_dir"]
    return settings


def merged(context: click.Context, **own: Any) -> None:
    """Let options that were given after the command count as if given before it."""
    root = context.find_root().params
    root.update({name: value for name, value in own.items() if value is not None})


CONFIG_OPTION: Final = click.option(
    "--config",
    "-c",
    type=click.Path(dir_okay=False, path_type=Path),
    help="YAML file with the configuration; the same as before the command.",
)
PLUGINS_DIR_OPTION: Final = click.option(
    "--plugins-dir",
    type=click.Path(path_type=Path),
    help="Folder of plugins, each a .py file or a package; instead of plugins_dir.",
)


def run(action: Callable[[], Any]) -> None:
    """Run a coroutine to its end, on uvloop where there is one; an interrupt ends it quietly."""
    try:
        import uvloop

        factory: Any = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            runner.run(action())
        except KeyboardInterrupt:
            raise SystemExit(130) from None


def build(plugins: PluginRegistry) -> click.RichGroup:
    """The command with those that the plugins add."""

    @click.group(name="almenara", context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(__version__, prog_name="almenara")
    @click.option(
        "--config",
        "-c",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar=CONFIG_VARIABLE,
        help="YAML file with the configuration; without it the defaults hold.",
    )
    @click.option(
        "--plugins-dir",
        type=click.Path(path_type=Path),
        envvar=PLUGINS_DIR_VARIABLE,
        help="Folder of plugins, each a .py file or a package; instead of plugins_dir.",
    )
    def almenara(config: Path | None, plugins_dir: Path | None) -> None:
        """**Almenara** watches a fleet: sources light events, one bus passes them on, and panels
        show them the moment they happen.

        Every setting is in one YAML file, and each can be set from the environment as well:
        `ALMENARA_SERVER__PORT=9000` is `server.port`.
        """

    @almenara.command()
    @CONFIG_OPTION
    @PLUGINS_DIR_OPTION
    @click.option("--host", help="Address to listen on, instead of server.host.")
    @click.option("--port", type=click.IntRange(0, 65535), help="Instead of server.port.")
    @click.pass_context
    def serve(
        context: click.Context,
        config: Path | None,
        plugins_dir: Path | None,
        host: str | None,
        port: int | None,
    ) -> None:
        """Run the sources, the bus and the web server until interrupted.

        On SIGTERM it stops being ready, asks browsers to come back, stops the sources, writes what
        waits, and ends.
        """
        merged(context, config=config, plugins_dir=plugins_dir)
        run_server(context, plugins, host, port)

    @almenara.command()
    @CONFIG_OPTION
    @PLUGINS_DIR_OPTION
    @click.option("--host", help="Address to listen on, instead of server.host.")
    @click.option("--port", type=click.IntRange(0, 65535), help="Instead of server.port.")
    @click.pass_context
    def dev(
        context: click.Context,
        config: Path | None,
        plugins_dir: Path | None,
        host: str | None,
        port: int | None,
    ) -> None:
        """Serve, and load the plugins of the plugins directory again when they are saved.

        The bus, the other sources and open browsers go on.
        """
        merged(context, config=config, plugins_dir=plugins_dir)
        if read_settings(context).plugins_dir is None:
            raise Failure("Name the folder to look at: almenara dev --plugins-dir FOLDER")
        run_server(context, plugins, host, port, reload=True)

    @almenara.command()
    @CONFIG_OPTION
    @PLUGINS_DIR_OPTION
    @click.option("--url", help="Look at the running Almenara there instead, from outside.")
    @click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="With --url: file with a token that may look.",
    )
    @click.option("--wait", default=0.0, help="With --url: seconds it may take to become ready.")
    @click.option("--expect", help="With --url: text of an event that must come while we look.")
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
        """Check the configuration, the disk, and what every plugin observes.

        With `--url` it checks a running Almenara as a browser meets it: whether it is ready, shows
        its pages, keeps them live, and refuses those of other sites.

        For each finding it says what to do. Ends with status 1 where something failed.
        """
        if url is not None:
            findings = examine(url, token_file, wait, expect)
        else:
            merged(context, config=config, plugins_dir=plugins_dir)
            findings = diagnose(context, plugins)
        show_findings(findings)
        if any(it.verdict == "failed" for it in findings):
            raise SystemExit(1)

    @almenara.command()
    @click.option("--url", default=None, help="Of a running Almenara; else by server.port.")
    @click.option("--source", help="Who emitted it, as a pattern.")
    @click.option("--origin", help="Where it was read: `nats/PLANNING_EVENTS`, `nats/>`.")
    @click.option("--type", "type_", help="Type, as a pattern: `planning.story.*`.")
    @click.option("--subject", help="Subject, as a pattern.")
    @click.option("--severity", help="At least DEBUG, INFO, WARN, ERROR or FATAL.")
    @click.option("--text", help='Words in the payload; `"quoted words"`, and `begin*`.')
    @click.option("--correlation", help="The id that ties events together.")
    @click.option("--since", help="RFC 3339, or `15m` ago.")
    @click.option("--until", help="RFC 3339, or `15m` ago.")
    @click.option("-n", "--lines", default=10, show_default=True, help="Past events to begin with.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
    @click.option("--follow/--no-follow", default=True, help="Go on with what happens.")
    @click.pass_context
    def tail(context: click.Context, /, **options: Any) -> None:
        """Follow events in the terminal, with the filters of the page.

        It asks a running Almenara, so it sees what the page shows. Where people sign in, it needs
        an API token in `ALMENARA_TOKEN`: `almenara access create` makes one.
        """
        from almenara.cli.tail import tail as follow

        settings = read_settings(context)
        url = options.pop("url") or f"http://127.0.0.1:{settings.server.port}"
        lines, as_json, follow_on = (options.pop(it) for it in ("lines", "as_json", "follow"))
        options["type"] = options.pop("type_")
        wanted = {name: value for name, value in options.items() if value}

        def show(event: dict[str, Any], line: str) -> None:
            if as_json:
                click.echo(printable_json(line))
            else:
                console.print(event_line(event), soft_wrap=True)

        console = Console()
        try:
            run(lambda: follow(url, wanted, lines, follow_on, show, os.environ.get(TOKEN_VARIABLE)))
        except (ValueError, OSError) as error:
            raise Failure(str(error)) from None

    @almenara.command()
    @CONFIG_OPTION
    @click.argument("file", type=click.Path(path_type=Path))
    @click.pass_context
    def backup(context: click.Context, config: Path | None, file: Path) -> None:
        """Copy the bus to FILE, while it is used.

        To restore, stop Almenara, put the copy in the place of `almenara.db` in storage.dir, remove
        `almenara.db-wal` and `almenara.db-shm` there, and start it.
        """
        from almenara.bus.backup import copy_database

        merged(context, config=config)
        try:
            events = copy_database(read_settings(context).storage.dir, file)
        except (OSError, sqlite3.Error) as error:
            raise Failure(f"The bus was not copied: {error}") from None
        click.echo(f"{file} holds {events} events.")

    @almenara.group()
    def config() -> None:
        """Look at the configuration."""

    @config.command()
    def document() -> None:
        """Print the reference of all settings, in Markdown."""
        from almenara.config.reference import render_settings_reference

        click.echo(render_settings_reference(plugins.settings_types()), nl=False)

    @config.command()
    def schema() -> None:
        """Print the JSON Schema of the configuration, installed plugins included."""
        from almenara.config.schema import build_schema

        click.echo(json.dumps(build_schema(plugins.settings_types()), indent=2))

    @config.command("check")
    @click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
    @click.pass_context
    def check_configuration(context: click.Context, file: Path | None) -> None:
        """Say whether the configuration is right: that of FILE, or the one of --config."""
        merged(context, config=file)
        settings = read_settings(context)
        folder = settings.plugins_dir
        try:
            check_whole(
                load_plugins(folder, settings.disabled_plugins) if file else plugins, settings
            )
        except ConfigError as error:
            raise Failure(f"The configuration is wrong. {error}") from None
        click.echo("The configuration is right.")

    def whole_settings() -> Settings:
        return read_settings(click_context())

    almenara.add_command(access_commands(whole_settings))
    for command in plugin_commands(plugins):
        almenara.add_command(command)

    for command in plugins.commands(whole_settings):
        almenara.add_command(command)
    return almenara


def run_server(
    context: click.Context,
    plugins: PluginRegistry,
    host: str | None,
    port: int | None,
    *,
    reload: bool = False,
) -> None:
    """Serve until told to stop. Raises `Failure`."""
    settings = read_settings(context)
    if host is not None:
        settings.server.host = host
    if port is not None:
        settings.server.port = port
    configure_logging(settings.log)
    from almenara.runtime import serve

    try:
        run(lambda: serve(settings, plugins, reload=reload))
    except* (ConfigError, OSError, sqlite3.Error, ValueError) as group:
        error = group.exceptions[0]
        if not isinstance(error, ConfigError | OSError | sqlite3.Error):
            raise
        raise Failure(explain(error, settings)) from None
    leave_threads_behind()


def leave_threads_behind() -> None:
    """End at once where threads go on that no source ended; the interpreter would wait for them."""
    left = [it.name for it in threading.enumerate() if it is not threading.main_thread()]
    if left:
        structlog.get_logger(__name__).warning("threads are left behind", threads=left)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def check_whole(plugins: PluginRegistry, settings: Settings) -> None:
    """Raise `ConfigError` for anything that `serve` would refuse."""
    from almenara.panels.registry import PanelRegistry
    from almenara.panels.renderer import Renderer
    from almenara.security.config_check import check_access
    from almenara.web.dashboards import check as check_dashboards
    from almenara.web.tls import tls_context

    check_access(settings)
    plugins.check(settings)
    if settings.server.tls is not None:
        tls_context(settings.server.tls)
    catalogue = PanelRegistry(Renderer())
    for name in plugins.modules:
        try:
            said = plugins.settings(name, settings)
            panels, pages = plugins.hooks.panels(name, said), plugins.hooks.pages(name, said)
            catalogue.add(name, panels, plugins.hooks.templates(name), pages)
        except Exception as error:
            plugins.record_failure(name, str(error))
    absent = [it.name for it in plugins.infos() if it.state != "active"]
    check_dashboards(settings.dashboards, catalogue, absent)


def explain(error: BaseException, settings: Settings) -> str:
    """What keeps Almenara from running, and what to do."""
    if isinstance(error, ConfigError):
        return f"The configuration is wrong. {error}"
    if isinstance(error, sqlite3.Error):
        return (
            f"The database in {settings.storage.dir} cannot be opened: {error}. Check that the"
            " folder can be written, has space, and is not in use by another Almenara."
        )
    text = str(error)
    return text[:1].upper() + text[1:]


def examine(url: str, token_file: Path | None, wait: float, expected: str | None) -> list[Finding]:
    """What is to be said of the Almenara that runs at `url`. Raises `Failure`."""
    from almenara.cli.probe import probe

    headers = {}
    if token_file is not None:
        headers["Authorization"] = f"Bearer {token_file.read_text(encoding='utf-8').strip()}"
    found: list[Finding] = []

    async def look() -> None:
        found.extend(await probe(url, wait=wait, expected=expected, headers=headers))

    try:
        run(look)
    except ValueError as error:
        raise Failure(str(error)) from None
    return found


def diagnose(context: click.Context, plugins: PluginRegistry) -> list[Finding]:
    """What is to be said of the configuration, the disk and what plugins observe."""
    settings = read_settings(context)
    configure_logging(LogSettings(level="error"))
    found = [*configuration_findings(context, settings, plugins), *disk_findings(settings)]

    async def ask() -> None:
        found.extend(await diagnose_plugins(plugins, settings))

    if not any(it.verdict == "failed" and it.check == "configuration" for it in found):
        run(ask)
    return found


def configuration_findings(
    context: click.Context, settings: Settings, plugins: PluginRegistry
) -> list[Finding]:
    """What is to be said of the configuration."""
    path = context.find_root().params.get("config")
    where = str(path) if path else "the defaults, no --config was given"
    try:
        check_whole(plugins, settings)
    except ConfigError as error:
        return [
            Finding(
                check="configuration",
                verdict="failed",
                message=str(error),
                remedy="Correct it in the file or the environment.",
            )
        ]
    return [Finding(check="configuration", verdict="ok", message=where)]


def disk_findings(settings: Settings) -> list[Finding]:
    """What is to be said of the folder of the database."""
    folder = settings.storage.dir.absolute()
    there = next(it for it in (folder, *folder.parents) if it.exists())
    if not os.access(there, os.W_OK):
        return [
            Finding(
                check="disk",
                verdict="failed",
                message=f"{there} cannot be written",
                remedy="Change its owner, or point storage.dir at another folder.",
            )
        ]
    free = shutil.disk_usage(there).free
    wanted = settings.storage.retention_size
    used = sum(it.stat().st_size for it in folder.glob("almenara.*")) if folder.exists() else 0
    found = f"{folder} uses {used / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
    if free < LOW_SPACE or used + free < wanted:
        return [
            Finding(
                check="disk",
                verdict="warning",
                message=f"{found}; storage.retention_size allows {wanted / 2**30:.1f} GiB",
                remedy="Lower storage.retention_size or give the folder a larger disk.",
            )
        ]
    return [Finding(check="disk", verdict="ok", message=found)]


def show_findings(findings: list[Finding]) -> None:
    """The findings as a table."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for it in findings:
        said = Text(printable(it.message, lines=True))
        if it.remedy:
            said.append(f"\n{printable(it.remedy, lines=True)}", style="bold")
        table.add_row(Text(it.verdict, style=VERDICTS[it.verdict]), Text(it.check), said)
    Console().print(table)


def event_line(event: dict[str, Any]) -> Text:
    """An event of the API as a line of the terminal."""
    import msgspec

    severity = printable(str(event["severity"]))
    line = Text(overflow="fold")
    time = printable(str(event["time"] or event["timestamp"]))
    line.append(f"{time[11:23]} ", style="dim")
    line.append(f"{severity:5} ", style=SEVERITY_STYLES.get(severity, ""))
    line.append(f"{printable(event['type'])} ", style="bold")
    line.append(f"{printable(event['origin'])} ", style="magenta")
    if event["subject"]:
        line.append(f"{printable(event['subject'])} ", style="blue")
    line.append(printable(msgspec.json.encode(event["data"]).decode()[:500]), style="dim")
    return line


def found_plugins(arguments: Sequence[str]) -> PluginRegistry:
    """The plugins that the configuration of these arguments asks for.

    Plugins add commands, so that they are needed before the arguments are parsed. What is wrong
    with the configuration is told by the command that reads it.
    """
    try:
        settings = load_settings(
            _peeked(arguments, "--config", "-c") or _from_environment(CONFIG_VARIABLE)
        )
    except ConfigError:
        settings = Settings()
    folder = (
        _peeked(arguments, "--plugins-dir")
        or _from_environment(PLUGINS_DIR_VARIABLE)
        or settings.plugins_dir
    )
    try:
        return load_plugins(folder, settings.disabled_plugins)
    except ConfigError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from None


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def _peeked(arguments: Sequence[str], *options: str) -> Path | None:
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in options:
            following = arguments[place + 1] if place + 1 < len(arguments) else ""
            return Path(value or following)
    return None


def main() -> None:
    """The entry point of the command."""
    configure_logging(LogSettings(level="error"))
    build(found_plugins(sys.argv[1:]))(prog_name="almenara")
