"""The live pages that are open: how many somebody may have, and when one has to close."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from almenara.config import ServerSettings
from almenara.security.auth_context import AuthContext
from almenara.security.identity import Identity
from almenara.security.modes import NOBODY_SIGNS_IN, Mode, is_loopback
from almenara.security.trusted_proxies import counted_as
from almenara.signals import now

SIGNED_OUT: Final = 4401
COME_AGAIN: Final = 1012


class Open(msgspec.Struct, eq=False):
    """A WebSocket of somebody."""

    ticket: AuthContext
    close: Callable[[int], None]
    since: int
    address: str


class OpenPages:
    """The open WebSockets, and whose they are."""

    def __init__(self, server: ServerSettings, mode: Mode) -> None:
        self._server, self._mode = server, mode
        self._open: set[Open] = set()
        self._of_address: Counter[str] = Counter()
        self._of_user: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Open]:
        return iter(list(self._open))

    def room(self, ticket: AuthContext | None, address: str) -> str | None:
        """Why somebody may not open another WebSocket; None where they may."""
        server = self._server
        if not is_loopback(address):
            of_address = self._of_address[counted_as(address)]
            if of_address >= server.websockets_per_address:
                return f"{of_address} live pages are open from your address; close one."
        if ticket is not None and self._mode not in NOBODY_SIGNS_IN:
            mine = self._of_user[ticket.user]
            if mine >= server.websockets_per_user:
                return f"{mine} live pages are open already; close one."
        return None

    def opened(self, ticket: AuthContext, address: str, close: Callable[[int], None]) -> Open:
        """Note a WebSocket, which is closed when its ticket is not good any more."""
        it = Open(ticket, close, now(), address)
        self._open.add(it)
        self._of_address[counted_as(address)] += 1
        self._of_user[ticket.user] += 1
        return it

    def closed(self, it: Open) -> None:
        """Forget a WebSocket."""
        self._open.remove(it)
        for counts, whose in (
            (self._of_address, counted_as(it.address)),
            (self._of_user, it.ticket.user),
        ):
            counts[whose] -= 1
            if not counts[whose]:
                # Who is gone must not be remembered: addresses come and go for ever.
                del counts[whose]

    def check(self, known: Callable[[Open], Identity | None]) -> None:
        """Close those whose people may see less now, or more; `known` tells who they are."""
        for it in self:
            self.compare(it, known(it))

    def compare(self, it: Open, identity: Identity | None) -> None:
        """Close one where who opened it may see less now, or more."""
        if it.ticket.identity.lost(identity):
            it.close(SIGNED_OUT)
        elif identity != it.ticket.identity:
            # More may be seen now: the page comes again and gets it.
            it.close(COME_AGAIN)
