"""Commands of plugins, in the look of the others."""

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner
from rich_click import RichCommand, RichGroup

from almenara.cli.main import build_cli
from almenara.cli.rich_commands import to_rich
from almenara.plugins import load_plugins


def list_commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from list_commands(each, (*path, name))


CLI = build_cli(load_plugins())


@pytest.mark.parametrize("path", [*list_commands(CLI)], ids=" ".join)
def test_help_of_every_command_has_one_look(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(CLI, [*path, "--help"], prog_name="almenara")
    assert result.exit_code == 0
    assert re.search(rf"Usage: {' '.join(('almenara', *path))} .*╭─ Options ─", result.output, re.S)


@click.group(chain=True, epilog="The end.", no_args_is_help=False)
@click.option("--loud", is_flag=True, help="Say it louder.")
@click.pass_context
def greet(context: click.Context, loud: bool) -> None:
    """Greet."""
    context.obj = loud


@greet.result_callback()
def end(words: list[str], loud: bool) -> None:
    click.echo(" and ".join(words) + ("!" if loud else ""))


@greet.command("hello", short_help="Say hello.")
@click.argument("name")
@click.pass_obj
def hello(loud: bool, name: str) -> str:
    """Say hello to NAME."""
    return f"hello {name.upper() if loud else name}"


class OwnCommand(click.Command):
    pass


greet.add_command(OwnCommand("own", hidden=True, callback=lambda: "own"))


def test_rich_command_does_what_the_command_does() -> None:
    rich = to_rich(greet)
    assert isinstance(rich, RichGroup)
    assert type(rich.commands["hello"]) is RichCommand
    assert type(rich.commands["own"]) is OwnCommand
    arguments = ["--loud", "hello", "ann", "hello", "bob", "own"]
    outputs = [CliRunner().invoke(each, arguments).output for each in (greet, rich)]
    assert outputs == ["hello ANN and hello BOB and own!\n"] * 2
    printed = CliRunner().invoke(rich, ["--help"]).output
    for text in ("Greet.", "Say it louder.", "Say hello.", "The end."):
        assert text in printed
    assert "own" not in printed
