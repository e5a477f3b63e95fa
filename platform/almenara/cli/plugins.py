"""`almenara plugins`: list, check and create plugins."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
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
    read_settings,
)
from almenara.config import ConfigError, LogSettings
from almenara.config.type_words import name_type
from almenara.config.yaml_text import parse_yaml
from almenara.errors import describe_error
from almenara.logs import configure_logging, silence_logging
from almenara.plugins import PluginError, PluginRegistry
from almenara.plugins.discovery import installed_candidates, plugins_in_folder

if TYPE_CHECKING:
    from almenara.testing.rules import Result

STATE_STYLES: Final = {"active": "green", "disabled": "dim", "failed": "red"}
VERDICT_STYLES: Final = {"passed": "green", "skipped": "yellow", "failed": "red"}


@click.group()
def plugins() -> None:
    """List, check and create plugins."""


plugin_alias = click.RichGroup(
    name="plugin",
    commands=plugins.commands,
    help="The same as `almenara plugins`.",
    hidden=True,
)
"""`almenara plugin`, which reads better in front of `new`."""


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_plugins(registry: PluginRegistry, as_json: bool) -> None:
    """List all plugins with version, origin, API version, state and hooks."""
    infos = registry.infos()
    if as_json:
        absent = [
            {"name": name, "state": "not installed", "error": command}
            for name, command in registry.absent.items()
        ]
        click.echo(json.dumps([*msgspec.to_builtins(infos), *absent], indent=2))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("Name", "Version", "Origin", "API", "State", "Hooks"):
        table.add_column(title, header_style="bold", overflow="fold")
    for info in infos:
        hooks = ", ".join(hook.removeprefix("almenara_") for hook in info.hooks)
        details = Text(hooks)
        if info.error:
            details.append(("\n" if hooks else "") + info.error, style=STATE_STYLES[info.state])
        table.add_row(
            info.name, info.version or "-", info.origin, str(info.api_version),
            Text(info.state, style=STATE_STYLES[info.state]), details,
        )  # fmt: skip
    for name, command in registry.absent.items():
        state = Text("not installed", style=STATE_STYLES["disabled"])
        table.add_row(name, "-", "-", "-", state, Text(command))
    Console().print(table)


@plugins.command()
def document() -> None:
    """Print the reference of the plugin contract as Markdown."""
    from almenara.plugins.reference import render_contract_reference

    click.echo(render_contract_reference(), nl=False)


@plugins.command()
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory to create. The default is `almenara-NAME` in the working directory.",
)
@click.option("--notifier", is_flag=True, help="Create a notifier instead of a source.")
def new(name: str, into: Path | None, notifier: bool) -> None:
    """Create a plugin NAME: a distribution with a source, a panel and tests."""
    from almenara.scaffold import create

    directory = into or Path(f"almenara-{name}")
    try:
        files = create(name, directory, is_notifier=notifier)
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from None
    for file in files:
        click.echo(f"  {file}")
    click.echo(
        f"\nNext:\n  cd {directory}\n  pip install -e '.[test]'\n  pytest\n  almenara plugins list"
    )


@plugins.command()
@click.argument("plugin")
@click.option(
    "--settings",
    type=ExistingFilePath,
    help="YAML file with settings of the plugin. The default is its section of `--config`.",
)
@click.option(
    "--receivers",
    type=ExistingFilePath,
    help="YAML file with the settings of a receiver of each kind of notifier, by kind. The rules"
    " about deliveries send test notifications to them.",
)
@CONFIG_OPTION
@PLUGINS_DIR_OPTION
@click.pass_context
def check(
    context: click.Context,
    plugin: str,
    settings: Path | None,
    receivers: Path | None,
    config: Path | None,
    plugins_dir: Path | None,
) -> None:
    """Check PLUGIN against the rules for plugins: a name that `plugins list` shows, or a path.

    Its sources run for some seconds, against the systems that the settings name.
    """
    from almenara.testing.check import check as check_plugin, open_subject

    override_options(context, config=config, plugins_dir=plugins_dir)
    configuration = read_settings(context)
    name, tree = plugin, dict[str, Any]()
    try:
        place = _locate(plugin, configuration.plugins_dir)
        # A failure to load is the error of the command, not also a line of the log.
        silence_logging()
        name = open_subject(place).name
        configure_logging(LogSettings(level="error"))
        tree = _read_tree(settings) if settings else configuration.plugin_settings.get(name, {})
        results = check_plugin(place, tree, _read_tree(receivers) if receivers else {})
    except ConfigError as error:
        hint = (
            ". Pass the settings of the plugin as a YAML file with `--settings`, or use `--config`"
            f" with a configuration that has a section plugins.{name}."
        )
        raise CommandError(str(error) if tree else f"{error}{hint}") from None
    except (PluginError, ValueError, RuntimeError) as error:
        raise CommandError(str(error)) from None
    _print_results(results)
    if any(result.verdict == "failed" for result in results):
        raise SystemExit(1)


def _locate(plugin: str, plugins_dir: Path | None) -> str:
    """The path of a plugin of the plugins directory; other names unchanged."""
    if plugins_dir is None or any(each.name == plugin for each in installed_candidates()):
        return plugin
    return next(
        (str(each.path) for each in plugins_in_folder(plugins_dir) if each.name == plugin), plugin
    )


def _read_tree(file: Path) -> dict[str, Any]:
    """The settings in a YAML file. Raises `CommandError`."""
    try:
        tree = parse_yaml(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError) as error:
        # A wrong encoding, too, is a ValueError.
        raise CommandError(
            f"{file} is not a YAML file: {describe_error(error)}. Correct it, or name another."
        ) from None
    if not isinstance(tree, dict):
        raise CommandError(f"{file} must contain `name: value` lines, found {name_type(tree)}.")
    return tree


def _print_results(results: Sequence["Result"]) -> None:
    """Print the rules that apply, those that do not by their reason, and how many there are."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    skipped: dict[str, list[str]] = {}
    for result in results:
        if result.verdict == "skipped":
            skipped.setdefault(result.text, []).append(result.rule)
            continue
        verdict = Text(result.verdict, style=VERDICT_STYLES[result.verdict])
        table.add_row(verdict, result.rule, Text(result.text))
    for reason, rules in skipped.items():
        verdict = Text("skipped", style=VERDICT_STYLES["skipped"])
        table.add_row(verdict, ", ".join(rules), Text(reason))
    console = Console()
    console.print(table)
    counts = Counter(result.verdict for result in results)
    console.print(
        f"{len(results)} rules: {counts['passed']} passed, {counts['failed']} failed,"
        f" {counts['skipped']} skipped",
        highlight=False,
    )
