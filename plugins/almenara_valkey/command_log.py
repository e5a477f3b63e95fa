"""Entries of the command logs as events.

Redis and Valkey have a log of slow commands (https://valkey.io/commands/slowlog-get/), Valkey 8.1
and later also those of large requests and replies (https://valkey.io/commands/commandlog-get/). The
logs are rings in the memory of a server. Arguments can be anything that an application stores, so
that none is shown but, where the settings say so, the first.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from almenara.signals import Event, Severity
from almenara.units import SECOND
from almenara_valkey.client import CLIENT_NAME, Connection
from almenara_valkey.info import Info, has_command_log

READ: Final = 128
"""The newest entries that are read; a ring has as many by default."""


class Log(msgspec.Struct, frozen=True):
    """One of the logs of a server."""

    name: str
    """Its name in COMMANDLOG GET."""
    event: str
    """The type of its events."""
    measure: str
    """The field of the payload with what was measured."""


SLOW: Final = Log("slow", "valkey.slow_command", "duration_ms")
LOGS: Final = (
    SLOW,
    Log("large-request", "valkey.large_request", "bytes"),
    Log("large-reply", "valkey.large_reply", "bytes"),
)
SUBCOMMANDS: Final = frozenset(
    (
        "acl", "client", "cluster", "command", "commandlog", "config", "debug", "function",
        "latency", "memory", "object", "pubsub", "script", "slowlog", "xgroup", "xinfo",
    )
)  # fmt: skip
"""Commands whose first argument is no data."""
KEY_LENGTH: Final = 200


class CommandLogReader:
    """Reads what is new in the logs of one server."""

    def __init__(self, deployment: str, server: str, *, shows_key: bool) -> None:
        self._deployment, self._server, self._shows_key = deployment, server, shows_key
        self._newest: dict[tuple[str, str], int] = {}
        """The number of the newest entry of each run of the server and each log."""

    async def read(self, connection: Connection, info: Info) -> list[Event]:
        """The events of new entries. Raises `ServerError`."""
        run_id, events = info.get("run_id", ""), list[Event]()
        for log in LOGS if has_command_log(info) else (SLOW,):
            if has_command_log(info):
                reply = await connection.call("COMMANDLOG", "GET", READ, log.name)
            else:
                reply = await connection.call("SLOWLOG", "GET", READ)
            after = self._newest.get((run_id, log.name), -1)
            events += make_log_events(
                log, self._deployment, self._server, run_id, reply, after=after,
                shows_key=self._shows_key,
            )  # fmt: skip
            self._newest = {key: value for key, value in self._newest.items() if key[0] == run_id}
            self._newest[run_id, log.name] = max(after, last_number(reply))
        return events


def make_log_events(
    log: Log,
    deployment: str,
    server: str,
    run_id: str,
    reply: Any,
    *,
    after: int = -1,
    shows_key: bool,
) -> list[Event]:
    """The events of the entries in a reply to COMMANDLOG GET or SLOWLOG GET that follow `after`,
    oldest first.

    The number of an entry is unique in its log until the server is restarted, which the run id
    tells.
    """
    events = []
    for entry in reply if isinstance(reply, list) else []:
        if not isinstance(entry, list) or len(entry) < 4 or not isinstance(entry[3], list):
            continue
        number, started, measured, arguments = entry[:4]
        if not all(isinstance(value, int) for value in (number, started, measured)):
            continue
        client = str(entry[5])[:100] if len(entry) > 5 else ""
        if number <= after or client == CLIENT_NAME:
            continue
        command, data = describe_command(arguments, shows_key=shows_key)
        value, reason = describe_measure(log, command, measured)
        events.append(
            Event(
                id=f"{deployment}/{run_id}/{'' if log is SLOW else log.name + '/'}{number}",
                source=f"valkey/{deployment}",
                type=log.event,
                subject=server,
                time=min(max(started, 0), 2**40) * SECOND,
                severity=Severity.WARN,
                correlation=f"valkey/{deployment}",
                attributes={"namespace": deployment},
                data={
                    "reason": reason,
                    "command": command,
                    log.measure: value,
                    **data,
                    **({"client": client} if client else {}),
                },
            )
        )
    return events[::-1]


def describe_measure(log: Log, command: str, measured: int) -> tuple[float, str]:
    """What was measured of a command, in the unit of the payload, and as a sentence."""
    if log is SLOW:
        return measured / 1000, f"{command} took {measured / 1000:,.1f} ms"
    what = "request" if log.name == "large-request" else "reply"
    return measured, f"the {what} of {command} had {measured:,} bytes"


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
