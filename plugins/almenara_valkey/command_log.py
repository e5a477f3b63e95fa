"""Entries of the slow log as events (https://valkey.io/commands/slowlog-get/).

The log is a ring in the memory of a server. Arguments can be anything that an application stores,
so that none is shown but, where the settings say so, the first.
"""

from collections.abc import Sequence
from typing import Any, Final

from almenara.signals import Event, Severity
from almenara.units import SECOND
from almenara_valkey.client import CLIENT_NAME

READ: Final = 128
"""The newest entries that are read; the ring has as many by default."""
SUBCOMMANDS: Final = frozenset(
    (
        "acl", "client", "cluster", "command", "config", "debug", "function", "latency", "memory",
        "object", "pubsub", "script", "slowlog", "xgroup", "xinfo",
    )
)  # fmt: skip
"""Commands whose first argument is no data."""
KEY_LENGTH: Final = 200


def make_slow_events(
    deployment: str, server: str, run_id: str, reply: Any, *, after: int = -1, shows_key: bool
) -> list[Event]:
    """The events of the entries in a reply to SLOWLOG GET that follow `after`, oldest first.

    The number of an entry is unique until the server is restarted, which the run id tells.
    """
    events = []
    for entry in reply if isinstance(reply, list) else []:
        if not isinstance(entry, list) or len(entry) < 4 or not isinstance(entry[3], list):
            continue
        number, started, duration, arguments = entry[:4]
        if not all(isinstance(value, int) for value in (number, started, duration)):
            continue
        client = str(entry[5])[:100] if len(entry) > 5 else ""
        if number <= after or client == CLIENT_NAME:
            continue
        command, data = describe_command(arguments, shows_key=shows_key)
        events.append(
            Event(
                id=f"{deployment}/{run_id}/{number}",
                source=f"valkey/{deployment}",
                type="valkey.slow_command",
                subject=server,
                time=min(max(started, 0), 2**40) * SECOND,
                severity=Severity.WARN,
                correlation=f"valkey/{deployment}",
                attributes={"namespace": deployment},
                data={
                    "reason": f"{command} took {duration / 1000:,.1f} ms",
                    "command": command,
                    "duration_ms": duration / 1000,
                    **data,
                    **({"client": client} if client else {}),
                },
            )
        )
    return events[::-1]


def last_number(reply: Any) -> int:
    """The number of the newest entry in a reply; -1 without any."""
    numbers = [
        entry[0]
        for entry in (reply if isinstance(reply, list) else [])
        if isinstance(entry, list) and entry and isinstance(entry[0], int)
    ]
    return max(numbers, default=-1)


def describe_command(arguments: Sequence[Any], *, shows_key: bool) -> tuple[str, dict[str, Any]]:
    """The name of a command, and what may be shown of its arguments."""
    words = [str(argument) for argument in arguments]
    command = words[0].upper()[:40] if words else "?"
    values = words[1:]
    if command.lower() in SUBCOMMANDS and values:
        command, values = f"{command} {values[0].upper()[:40]}", values[1:]
        return command, {"arguments": len(values)}
    data: dict[str, Any] = {"arguments": len(values)}
    if shows_key and values and command not in ("AUTH", "HELLO", "EVAL", "EVALSHA", "MIGRATE"):
        data["key"] = values[0][:KEY_LENGTH]
    return command, data
