"""`almenara plugins`: list, check and begin plugins."""

import json
from pathlib import Path
from typing import Any, Final

import msgspec
import rich_click as click
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from almenara.plugins import PluginRegistry

STATES: Final = {"active": "green", "disabled": "dim", "failed": "red"}
VERDICTS: Final = {"passed": "green", "skipped": "yellow", "failed": "red"}


def plugin_commands(plugins: PluginRegistry) -> list[click.Command]:
    """`plugins`, and the same as `plugin`, which reads better in front of `new`."""

    @click.group(name="plugins")
    def group() -> None:
        """List, check and begin plugins."""

    @group.command("list")
    @click.option("--json", "as_json", is_flag=True, help="As JSON.")
    def list_plugins(as_json: bool) -> None:
        """Show every plugin: version, origin, API version, hooks and state."""
        described = plugins.infos()
        if as_json:
            click.echo(json.dumps(msgspec.to_builtins(described), indent=2))
            return
        table = Table(box=None, padding=(0, 2, 0, 0))
        for title in ("Name", "Version", "Origin", "API", "State", "Hooks"):
            table.add_column(title, header_style="bold", overflow="fold")
        for it in described:
            hooks = ", ".join(hook.removeprefix("almenara_") for hook in it.hooks)
            said = Text(hooks)
            if it.error:
                said.append(("\n" if hooks else "") + it.error, style=STATES[it.state])
            table.add_row(
                it.name, it.version or "-", it.origin, str(it.api_version),
                Text(it.state, style=STATES[it.state]), said,
            )  # fmt: skip
        Console().print(table)

    @group.command()
    def document() -> None:
        """Print the reference of the contract with plugins, in Markdown."""
        from almenara.plugins.reference import render_contract_reference

        click.echo(render_contract_reference(), nl=False)

    @group.command()
    @click.argument("name")
    @click.option(
        "--into",
        type=click.Path(file_okay=False, path_type=Path),
        default=None,
        help="Folder to make; without it `almenara-NAME` here.",
    )
    def new(name: str, into: Path | None) -> None:
        """Begin a plugin NAME: a distribution that installs, tests itself and shows up."""
        from almenara.scaffold import create

        folder = into or Path(f"almenara-{name}")
        try:
            files = create(name, folder)
        except (ValueError, OSError) as error:
            raise click.ClickException(str(error)) from None
        for file in files:
            click.echo(f"  {file}")
        click.echo(
            f"\nNext:\n  cd {folder}\n  pip install -e '.[test]'\n  pytest\n  almenara plugins list"
        )

    @group.command()
    @click.argument("plugin")
    @click.option(
        "--settings",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="YAML file with settings to check it with; without it the defaults.",
    )
    def check(plugin: str, settings: Path | None) -> None:
        """Hold PLUGIN, an installed one's name or a path, against the rules of a good plugin."""
        from almenara.testing.check import check as check_plugin

        tree: Any = yaml.safe_load(settings.read_text(encoding="utf-8")) if settings else {}
        try:
            results = check_plugin(plugin, tree or {})
        except (ValueError, RuntimeError) as error:
            raise click.ClickException(str(error)) from None
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for it in results:
            table.add_row(Text(it.verdict, style=VERDICTS[it.verdict]), it.rule, Text(it.text))
        Console().print(table)
        if any(it.verdict == "failed" for it in results):
            raise SystemExit(1)

    alias = click.Group("plugin", commands=group.commands, help=group.help, hidden=True)
    return [group, alias]
