"""`almenara plugins`: list, check and create plugins."""

import json
from pathlib import Path
from typing import Any, Final

import msgspec
import rich_click as click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from almenara.cli.common import CommandError, ExistingFilePath
from almenara.config.yaml_text import parse_yaml
from almenara.errors import describe_error
from almenara.plugins import PluginError, PluginRegistry

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
    help="YAML file with settings of the plugin. The default is the plugin's defaults.",
)
def check(plugin: str, settings: Path | None) -> None:
    """Check PLUGIN against the rules for plugins: the name of an installed one, or a path."""
    from almenara.testing.check import check as check_plugin

    try:
        tree: Any = parse_yaml(settings.read_text(encoding="utf-8")) if settings else {}
    except (OSError, ValueError) as error:
        # A wrong encoding, too, is a ValueError.
        raise CommandError(
            f"{settings} is not a YAML file: {describe_error(error)}. Correct it, or name another."
        ) from None
    try:
        results = check_plugin(plugin, tree or {})
    except (PluginError, ValueError, RuntimeError) as error:
        raise CommandError(str(error)) from None
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for result in results:
        verdict = Text(result.verdict, style=VERDICT_STYLES[result.verdict])
        table.add_row(verdict, result.rule, Text(result.text))
    Console().print(table)
    if any(result.verdict == "failed" for result in results):
        raise SystemExit(1)
