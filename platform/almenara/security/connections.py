"""Open WebSockets: limits per user and address, and closing them when their identity changes."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from almenara.config import ServerSettings
from almenara.security.auth_context import AuthContext
from almenara.security.identity import Identity
from almenara.security.modes import SIGN_IN_OFF, Mode, is_loopback
from almenara.security.trusted_proxies import rate_key
from almenara.signals import now

SIGNED_OUT: Final = 4401
"""Close code: the identity lost access; the page asks to sign in again."""
RECONNECT: Final = 1012
"""Close code `service restart`: the page connects again, and is authenticated again."""


class Connection(msgspec.Struct, eq=False):
    """An open WebSocket."""

    context: AuthContext
    close: Callable[[int], None]
    since: int
    address: str
    refreshed: int
    """When the identity was last confirmed, in microseconds."""


class OpenConnections:
    """The open WebSockets, counted by user and by address."""

    def __init__(self, server: ServerSettings, mode: Mode) -> None:
        self._server, self._mode = server, mode
        self._connections: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        self._by_user: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections))

    def check_limits(self, context: AuthContext | None, address: str) -> str | None:
        """Return why another WebSocket is refused; None where it is within the limits."""
        server = self._server
        if not is_loopback(address):
            count = self._by_address[rate_key(address)]
            if count >= server.websockets_per_address:
                return f"Your address already has {count} live pages open. Close one."
        if context is not None and self._mode not in SIGN_IN_OFF:
            count = self._by_user[context.user_key]
            if count >= server.websockets_per_user:
                return f"You already have {count} live pages open. Close one."
        return None

    def add(self, context: AuthContext, address: str, close: Callable[[int], None]) -> Connection:
        """Register a WebSocket; `close` is called with a close code when its identity changes."""
        moment = now()
        connection = Connection(context, close, moment, address, moment)
        self._connections.add(connection)
        self._by_address[rate_key(address)] += 1
        self._by_user[context.user_key] += 1
        return connection

    def remove(self, connection: Connection) -> None:
        """Unregister a WebSocket."""
        self._connections.remove(connection)
        for counts, key in (
            (self._by_address, rate_key(connection.address)),
            (self._by_user, connection.context.user_key),
        ):
            counts[key] -= 1
            if not counts[key]:
                # Addresses come and go for ever, so keys without connections must not stay.
                del counts[key]

    def compare(self, connection: Connection, current: Identity | None) -> None:
        """Close a WebSocket whose identity permits less now, or more."""
        if connection.context.identity.has_lost_access(current):
            connection.close(SIGNED_OUT)
        elif current != connection.context.identity:
            # More is visible now: the page connects again and gets it.
            connection.close(RECONNECT)
