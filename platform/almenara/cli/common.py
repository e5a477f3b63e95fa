"""What the commands share: options, settings, errors, and the event loop."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import rich_click as click

from almenara.bus.storage_errors import describe_open_error, is_full
from almenara.config import ConfigError, Settings, load_settings
from almenara.errors import describe_error
from almenara.terminal import escape_control_characters
from almenara.urls import redact_urls

CONFIG_VARIABLE: Final = "ALMENARA_CONFIG"
PLUGINS_DIR_VARIABLE: Final = "ALMENARA_PLUGINS_DIR"

FilePath: Final = click.Path(dir_okay=False, path_type=Path)
ExistingFilePath: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

CONFIG_OPTION: Final = click.option(
    "--config", "-c", type=FilePath, help="YAML file with the configuration."
)
PLUGINS_DIR_OPTION: Final = click.option(
    "--plugins-dir",
    type=click.Path(path_type=Path),
    help="Directory of plugins, each a `.py` file or a package. Overrides `plugins_dir`.",
)


class CommandError(click.ClickException):
    """An error of a command, printed without control characters and credentials of URLs."""

    def __init__(self, message: str) -> None:
        super().__init__(printable_text(message))


def printable_text(text: str) -> str:
    """Return a text without control characters and without the credentials in its URLs."""
    return redact_urls(escape_control_characters(text, keep_newlines=True))


def override_options(context: click.Context, **options: Any) -> None:
    """Let options after the command take effect as if they were in front of it."""
    root = context.find_root().params
    root.update({name: value for name, value in options.items() if value is not None})


def read_settings(context: click.Context) -> Settings:
    """Return the settings of `--config`. Raises `CommandError` if they are wrong."""
    options = context.find_root().params
    try:
        settings = load_settings(options.get("config"))
    except ConfigError as error:
        raise configuration_error(error) from None
    if options.get("plugins_dir") is not None:
        settings.plugins_dir = options["plugins_dir"]
    return settings


def configuration_error(error: ConfigError) -> CommandError:
    """Return the error of a command for wrong settings."""
    return CommandError(f"The configuration is wrong. {error}")


def copy_error(action: str, error: Exception, source: Path, target: Path) -> CommandError:
    """Return the error of a command that copies databases from one place to another."""
    if is_full(error):
        return CommandError(
            f"The {action} failed: the disk that holds {target} is full. Free space on it, and run"
            " the command again."
        )
    if isinstance(error, FileNotFoundError) and not target.parent.exists():
        return CommandError(
            f"The {action} failed: there is no directory {target.parent}. Create it first, or name"
            " another one."
        )
    if isinstance(error, sqlite3.Error):
        return CommandError(f"The {action} failed. {describe_open_error(error, source)}")
    return CommandError(f"The {action} failed: {describe_error(error)}")


def run_async(action: Callable[[], Any]) -> None:
    """Run a coroutine to its end, on uvloop if it is installed. Ctrl-C exits with status 130."""
    try:
        import uvloop

        loop_factory: Any = uvloop.new_event_loop
    except ImportError:
        loop_factory = None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        try:
            runner.run(action())
        except KeyboardInterrupt:
            raise SystemExit(130) from None
