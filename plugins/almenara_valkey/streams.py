"""Streams and their consumer groups, read from the primaries."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.sdk import monotonic
from almenara.signals import Resource, Sample
from almenara_valkey.client import Connection
from almenara_valkey.errors import CommandError, ElsewhereError, MissingKeyError
from almenara_valkey.info import as_integer
from almenara_valkey.kinds import OK, SEVERITIES, STALLED, STREAM_GROUP

SCAN_COUNT: Final = 500
"""Keys that one SCAN looks at; it blocks the server for well below a millisecond."""
MAX_STREAMS: Final = 200
"""Streams of one server that are observed."""


class GroupProgress(msgspec.Struct):
    """How far a consumer group is, and since when it has not moved."""

    stream: str
    delivered: str
    pending: int
    since: float


class StreamReader:
    """Observes the streams of one server, over its connection."""

    def __init__(self, deployment: str, names: Sequence[str], *, discovers: bool) -> None:
        self._deployment, self._names = deployment, names
        self._discovers = discovers and not names
        self._streams: dict[str, None] = dict.fromkeys(names)
        self._cursor = "0"
        self._progress: dict[str, GroupProgress] = {}
        self.refused: dict[str, str] = {}
        """Why each stream that exists could not be read in the last round."""
        self.problems: Sequence[str] = ()
        """The same, each once, and why streams could not be searched for."""

    async def read(
        self, connection: Connection, stalled_after: float
    ) -> tuple[list[Resource], list[Sample]]:
        """Return the groups of all known streams but those in `refused`. Raises `ServerError` where
        the server does not answer."""
        self.refused, problems = {}, list[str]()
        if self._discovers:
            try:
                await self._search(connection)
            except CommandError as error:
                problems.append(str(error))
        resources: list[Resource] = []
        samples: list[Sample] = []
        for stream in list(self._streams):
            try:
                length = await connection.call("XLEN", stream)
                groups = _read_tables(await connection.call("XINFO", "GROUPS", stream))
            except ElsewhereError:
                continue
            except MissingKeyError:
                if self._discovers:
                    del self._streams[stream]
                continue
            except CommandError as error:
                self.refused[stream] = str(error)
                continue
            for group in groups:
                resource = self._map(stream, group, stalled_after)
                resources.append(resource)
                samples += _make_samples(resource, group, length)
        self.problems = list(dict.fromkeys([*problems, *self.refused.values()]))
        current = {resource.name for resource in resources}
        self._progress = {
            name: progress
            for name, progress in self._progress.items()
            if name in current or progress.stream in self.refused
        }
        return resources, samples

    async def _search(self, connection: Connection) -> None:
        """Look at some more keys; the cursor goes through all of them, again and again."""
        reply = await connection.call("SCAN", self._cursor, "COUNT", SCAN_COUNT, "TYPE", "stream")
        if not (isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], list)):
            return
        self._cursor = str(reply[0])
        for name in reply[1]:
            if len(self._streams) < MAX_STREAMS:
                self._streams.setdefault(str(name))

    def _map(self, stream: str, group: Mapping[str, Any], stalled_after: float) -> Resource:
        name = f"{stream}/{group.get('name', '')}"
        pending = _number(group.get("pending"))
        delivered = str(group.get("last-delivered-id", ""))
        before = self._progress.get(name)
        if before is None or before.delivered != delivered or before.pending > pending:
            before = self._progress[name] = GroupProgress(
                stream, delivered, int(pending), monotonic()
            )
        waits = pending or _number(group.get("lag"))
        is_stalled = bool(waits) and monotonic() - before.since >= stalled_after
        status = STALLED if is_stalled else OK
        state: dict[str, Any] = {
            "stream": stream,
            "group": str(group.get("name", "")),
            "consumers": int(_number(group.get("consumers"))),
        }
        if is_stalled:
            state["reason"] = "entries wait, and none was delivered or acknowledged"
        return Resource(
            kind=STREAM_GROUP, namespace=self._deployment, name=name, status=status,
            severity=SEVERITIES[status], state=state,
        )  # fmt: skip


def _make_samples(resource: Resource, group: Mapping[str, Any], length: Any) -> Iterator[Sample]:
    values = {
        "pending": group.get("pending"),
        # Null where the server cannot tell, as after entries were deleted.
        "lag": group.get("lag"),
        "length": length,
    }
    for metric, value in values.items():
        if (number := as_integer(value)) is not None:
            yield Sample(
                kind=STREAM_GROUP, namespace=resource.namespace, name=resource.name,
                metric=metric, value=float(number),
            )  # fmt: skip


def _number(value: Any) -> float:
    return float(as_integer(value) or 0)


def _read_tables(reply: Any) -> list[dict[str, Any]]:
    if not isinstance(reply, list):
        return []
    return [
        dict(zip(map(str, row[::2]), row[1::2], strict=False))
        for row in reply
        if isinstance(row, list)
    ]
