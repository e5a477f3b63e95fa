"""Events in the database of an Almenara, which may run meanwhile, for `almenara doctor`."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from almenara.bus.codec import RowDecoder
from almenara.bus.schema import connect
from almenara.history import Filter, History
from almenara.signals import Event, now
from almenara.units import DAY

T = TypeVar("T")
TYPES: Final = "*.*.rolled_back"
"""Types of the events that report a system which was restored from an older copy."""
LIMIT: Final = 10


class _DatabaseReader:
    """Reads a database with one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.decoder = RowDecoder(is_quiet=True)
        self._connection = connection

    async def read(self, query: Callable[[sqlite3.Connection], T], caller: str = "") -> T:
        return query(self._connection)


class Report(msgspec.Struct):
    """What such an event has in its data."""

    message: str = ""
    remedy: str = ""


def read_reports(path: Path) -> list[tuple[Event, Report]]:
    """Return the reports of the last day with their events, newest first.

    Raises `sqlite3.Error`, also for a database of another version.
    """
    with closing(connect(path, writable=False)) as connection:
        history = History(_DatabaseReader(connection))
        chosen = Filter(type=TYPES, since=now() - DAY)
        records = asyncio.run(history.events(chosen, limit=LIMIT))
    events = [record.signal for record in records if isinstance(record.signal, Event)]
    return [(event, _read_data(event)) for event in events]


def _read_data(event: Event) -> Report:
    """The data of an event; what is not a report has no text."""
    try:
        return msgspec.json.decode(msgspec.json.encode(event.data), type=Report)
    except msgspec.MsgspecError:
        return Report()
