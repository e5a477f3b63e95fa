"""`almenara`: the root command, with the commands of the core and of the plugins."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import rich_click as click
from click import get_current_context

from almenara import __version__
from almenara.cli.access import access
from almenara.cli.alerts import alerts
from almenara.cli.backup import backup, restore
from almenara.cli.bus import bus
from almenara.cli.common import CONFIG_VARIABLE, PLUGINS_DIR_VARIABLE, FilePath, read_settings
from almenara.cli.config import config
from almenara.cli.dev import dev
from almenara.cli.doctor import doctor
from almenara.cli.export import export
from almenara.cli.output import checked_output
from almenara.cli.plugins import plugin_alias, plugins
from almenara.cli.rich_commands import to_rich
from almenara.cli.serve import serve
from almenara.cli.storage import storage
from almenara.cli.tail import tail
from almenara.config import ConfigError, LogSettings, Settings, load_settings
from almenara.logs import configure_logging, silence_logging
from almenara.plugins import PluginRegistry, load_plugins

RUN_COMMANDS = (serve, dev, backup, restore, bus)
INSPECT_COMMANDS = (tail, export, alerts, doctor, storage, plugins, config, access)


def main() -> None:
    """Run the command line of this process."""
    # Commands report plugins that failed themselves where it matters, and serve logs them.
    silence_logging()
    with checked_output():
        cli = build_cli(load_requested_plugins(sys.argv[1:]))
        configure_logging(LogSettings(level="error"))
        cli(prog_name="almenara")


def build_cli(registry: PluginRegistry) -> click.RichGroup:
    """Return the root command. Its commands receive the registry as the object of the context."""

    @click.group(
        name="almenara",
        context_settings={"help_option_names": ["-h", "--help"], "obj": registry},
    )
    @click.version_option(__version__, prog_name="almenara")
    @click.option(
        "--config",
        "-c",
        type=FilePath,
        envvar=CONFIG_VARIABLE,
        help="YAML file with the configuration. Without it, all settings have their defaults.",
    )
    @click.option(
        "--plugins-dir",
        type=click.Path(path_type=Path),
        envvar=PLUGINS_DIR_VARIABLE,
        help="Directory of plugins, each a `.py` file or a package. Overrides `plugins_dir`.",
    )
    def almenara(config: Path | None, plugins_dir: Path | None) -> None:
        """**Almenara** monitors fleets in real time: sources emit signals, one bus stores them in
        order, and panels show them as they happen.

        All settings are in one YAML file. An environment variable overrides a setting:
        `ALMENARA_SERVER__PORT=9000` sets `server.port`.
        """

    provided = registry.commands(lambda: read_settings(get_current_context()))
    # Plugins may share a command; the last one of a name is used.
    plugin_commands = [*{command.name: to_rich(command) for command in provided}.values()]
    for command in (*RUN_COMMANDS, *INSPECT_COMMANDS, plugin_alias, *plugin_commands):
        almenara.add_command(command)
    click.rich_click.TEXT_MARKUP = "markdown"
    click.rich_click.COMMAND_GROUPS = {
        "almenara": [
            {"name": title, "commands": [str(command.name) for command in commands]}
            for title, commands in (
                ("Run", RUN_COMMANDS),
                ("Inspect", INSPECT_COMMANDS),
                ("Plugins", plugin_commands),
            )
        ]
    }
    return almenara


def load_requested_plugins(arguments: Sequence[str]) -> PluginRegistry:
    """Return the plugins of the configuration that the arguments name.

    Plugins add commands, so they are loaded before the arguments are parsed. A wrong configuration
    is not reported here, but by the command that reads it.
    """
    path = _peek_option(arguments, "--config", "-c") or _path_from_environment(CONFIG_VARIABLE)
    try:
        settings = load_settings(path)
    except ConfigError:
        settings = Settings()
    directory = (
        _peek_option(arguments, "--plugins-dir")
        or _path_from_environment(PLUGINS_DIR_VARIABLE)
        or settings.plugins_dir
    )
    try:
        return load_plugins(directory, settings.disabled_plugins)
    except ConfigError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(1) from None


def _path_from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def _peek_option(arguments: Sequence[str], *names: str) -> Path | None:
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in names:
            next_argument = arguments[index + 1] if index + 1 < len(arguments) else ""
            return Path(value or next_argument)
    return None
