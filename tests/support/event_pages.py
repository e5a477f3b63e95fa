"""Browsers that follow a list of events over the WebSocket, and keep its rows as a page does."""

import asyncio
import json
import re
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

ROW = re.compile(r'data-sequence="(\d+)"')
VISIBLE = 100
"""Rows that a page shows."""
RECONNECT_PAUSE = 0.2


class EventPage:
    """Follows the list of events, and reconnects after its newest row.

    `filters` are those in the address of the page, such as `type`.
    """

    def __init__(self, port: int, **filters: str) -> None:
        self.port, self.filters = port, filters
        self.rows: list[int] = []
        """The sequences of the rows on the page, newest first."""
        self.sequences: list[int] = []
        """The sequences of all rows that the page has had, oldest first."""
        self.repeated = 0
        """Rows that were added while the page had them already."""
        self.reconnects = -1

    async def run(self) -> None:
        """Follow until cancelled."""
        origin: Any = f"http://127.0.0.1:{self.port}"
        while True:
            filters = f"?{urlencode(self.filters)}" if self.filters else ""
            query = {"panel": f"events{filters}"}
            if self.rows:
                query["after"] = str(self.rows[0])
            try:
                url = f"ws://127.0.0.1:{self.port}/live?{urlencode(query)}"
                async with connect(url, origin=origin, max_size=None) as socket:
                    self.reconnects += 1
                    async for text in socket:
                        self._accept(json.loads(text))
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                pass
            await asyncio.sleep(RECONNECT_PAUSE)

    def _accept(self, frame: dict[str, str]) -> None:
        if "content" not in frame or frame["target"] == "#event-note":
            return
        rows = list(map(int, ROW.findall(frame["content"])))
        newest = self.rows[0] if self.rows else 0
        if frame["swap"] == "afterbegin":
            # A browser adds these rows, whatever it shows already.
            self.repeated += sum(row <= newest for row in rows)
            self.rows = (rows + self.rows)[:VISIBLE]
        else:
            self.rows = rows
        seen = self.sequences[-1] if self.sequences else 0
        self.sequences += [row for row in reversed(rows) if row > seen]
