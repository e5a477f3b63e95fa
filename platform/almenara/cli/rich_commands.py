"""Commands of plugins in the look of the others: plugins make theirs with click."""

from typing import Any, Final

import click
from rich_click import RichCommand, RichGroup

FIELDS: Final = (
    "name", "context_settings", "callback", "params", "help", "epilog", "short_help",
    "options_metavar", "add_help_option", "no_args_is_help", "hidden", "deprecated",
)  # fmt: skip
GROUP_FIELDS: Final = (*FIELDS, "invoke_without_command", "subcommand_metavar", "chain")


def to_rich(command: click.Command) -> click.Command:
    """Return a command whose help and errors are printed as those of the core, with its own
    commands; unchanged if it is of a class of its own, which may print something else."""
    if type(command) is click.Command:
        return RichCommand(**_read(command, FIELDS))
    if type(command) is click.Group:
        return RichGroup(
            **_read(command, GROUP_FIELDS),
            commands={name: to_rich(each) for name, each in command.commands.items()},
            result_callback=command._result_callback,
        )
    return command


def _read(command: click.Command, fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(command, name) for name in fields}
