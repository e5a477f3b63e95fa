"""The options of commands that select events, as the filters of the events page do."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import rich_click as click

TIME: Final = "RFC 3339, or a duration before now such as `15m`."
EVENT_OPTIONS: Final = {
    "source": "Pattern of the source that emitted the event.",
    "type": "Pattern of the type: `planning.story.*`.",
    "subject": "Pattern of the subject.",
    "severity": "Minimum severity: DEBUG, INFO, WARN, ERROR or FATAL.",
    "text": 'Words in the payload; `"exact phrase"`, or `prefix*`.',
    "correlation": "Correlation id.",
}
"""The help of each option that only events have."""
SHARED_OPTIONS: Final = {
    "origin": "Pattern of the origin: `SOURCE/STREAM` or `SOURCE/**`.",
    "since": f"Start: {TIME}",
    "until": f"End: {TIME}",
}
"""The help of each option that samples have too."""

Command = Callable[..., Any]


def add_options(options: Mapping[str, str], heading: str = "") -> Callable[[Command], Command]:
    """Return a decorator that adds text options to a command, in order; `heading` starts the help
    of each."""

    def decorate(command: Command) -> Command:
        for name, text in reversed(list(options.items())):
            described = f"{heading}{text[0].lower()}{text[1:]}" if heading else text
            command = click.option(f"--{name}", name, help=described)(command)
        return command

    return decorate
