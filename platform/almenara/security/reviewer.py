"""The periodic review: sessions and live pages end soon after their permission does.

Several loops, so that a provider or a cluster that hangs delays no revocation: `review` uses only
what is known here, `_run_refreshes` requests users from the systems that authenticated them.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final

import structlog

from almenara.cancellation import complete_within
from almenara.config import AuthSettings
from almenara.errors import describe_error
from almenara.security.audit import Audit
from almenara.security.auth_context import UserRefresher
from almenara.security.connections import RECONNECT, Connection, OpenConnections
from almenara.security.credentials import Credentials
from almenara.security.identity import Identity, User
from almenara.security.modes import Mode
from almenara.security.resolver import IdentityResolver
from almenara.security.sessions import Session
from almenara.security.tokens import identity_of
from almenara.signals import now
from almenara.units import SECOND

log = structlog.get_logger(__name__)

INTERVAL: Final = 1.0
"""Seconds between two reviews of the file, of lifetimes and of open WebSockets."""
RENEWAL_TIMEOUT: Final = 5.0
"""Seconds for which a refresh that is with the provider continues when this replica stops it."""


class Reviewer:
    """Ends sessions and closes WebSockets whose permission ended."""

    def __init__(
        self,
        settings: AuthSettings,
        mode: Mode,
        credentials: Credentials,
        resolver: IdentityResolver,
        connections: OpenConnections,
        audit: Audit,
    ) -> None:
        self.settings, self.mode = settings, mode
        self.credentials, self.resolver = credentials, resolver
        self.connections, self.audit = connections, audit

    async def run(self) -> None:
        """Review until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_refreshes(self._due), name="refresh of identities")
            while True:
                await asyncio.sleep(INTERVAL)
                try:
                    await self.review()
                except Exception:
                    log.exception("the review of sessions failed; it is retried")

    async def review(self) -> None:
        """Apply what changed in the file and by the passing of time."""
        credentials = self.credentials
        await credentials.reload()
        for connection in self.connections:
            # An open page counts as activity of its session.
            session = connection.context.session
            if session is not None and session.identity is not None:
                session.last_seen = now()
        await credentials.access_token.refresh_mark()
        await credentials.end_invalid_sessions()
        await credentials.sessions.save_last_seen()
        self.check_connections()

    def check_connections(self) -> None:
        """Close the WebSockets whose identity changed, as far as it is known here."""
        for connection in self.connections:
            self.connections.compare(connection, self._current_identity(connection))

    def _current_identity(self, connection: Connection) -> Identity | None:
        context = connection.context
        if context.session is not None:
            is_alive = self.credentials.sessions.is_alive(context.session)
            return context.session.identity if is_alive else None
        if context.api_token_id:
            token = self.credentials.tokens.get(context.api_token_id)
            return None if token is None else identity_of(token)
        if context.access_token_mark not in ("", self.credentials.access_token.mark):
            return None
        # The new connection is authenticated again. Headers of a proxy cannot be verified without
        # one; a token can, and gets no longer than a session where the cluster is unreachable.
        age = (now() - connection.since) / SECOND
        limits = {
            "proxy": self.settings.proxy.reauthentication_interval,
            "kubernetes": self.settings.session_lifetime,
        }
        if age > limits.get(self.mode, math.inf):
            connection.close(RECONNECT)
        return context.identity

    async def refresh_shared(self) -> None:
        """Refresh the sessions that replicas share, until cancelled. One replica does: a refresh
        token is valid once."""
        await self._receive()
        await self._run_refreshes(self._due_shared)

    async def _receive(self) -> None:
        """Return once this replica has the refresh tokens that the one before has stored."""
        problem = ""
        while True:
            reason = "the other replicas cannot be reached"
            try:
                if await self.credentials.receive():
                    return
            except Exception as error:
                reason = describe_error(error)
            if reason != problem:
                log.warning("sessions cannot be refreshed yet; it is tried again", reason=reason)
            problem = reason
            await asyncio.sleep(INTERVAL)

    async def _run_refreshes(self, find_due: Callable[[], list[Session | Connection]]) -> None:
        """Refresh each session and connection in a task of its own: one that hangs delays no
        other."""
        pending: set[Session | Connection] = set()

        async def refresh(item: Session | Connection) -> None:
            try:
                if isinstance(item, Session):
                    await self._refresh_session(item)
                else:
                    await self._refresh_connection(item)
            except Exception as error:
                # The last answer stays valid for as long as the session may last.
                log.warning("cannot refresh an identity", reason=describe_error(error))
            finally:
                pending.discard(item)

        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(INTERVAL)
                for item in find_due():
                    if item not in pending:
                        pending.add(item)
                        group.create_task(refresh(item), name="refresh of an identity")

    def _due(self) -> list[Session | Connection]:
        sessions = [
            session
            for session in self.credentials.sessions
            if not session.record.sealed and self.credentials.sessions.is_usable(session)
        ]
        connections = [
            connection
            for connection in self.connections
            if connection.context.session is None and not connection.context.api_token_id
        ]
        due: list[Session | Connection] = []
        due += [item for item in sessions if self._is_due(item.refresher, item.refreshed)]
        due += [
            item for item in connections if self._is_due(item.context.refresher, item.refreshed)
        ]
        if self.resolver.depends_on_cluster:
            # Reviews of access are cached, so asking for them often costs little.
            due += [item for item in connections if item.context.refresher is None]
        return due

    def _due_shared(self) -> list[Session | Connection]:
        return [
            session
            for session in self.credentials.sessions
            if session.record.sealed
            and self.credentials.sessions.is_usable(session)
            and self._is_due(session.refresher, session.refreshed)
        ]

    def _is_due(self, refresher: UserRefresher | None, refreshed: int) -> bool:
        if refresher is None:
            return False
        interval = min(refresher.interval, self.resolver.access_refresh_interval)
        return now() - refreshed >= interval * SECOND

    async def _refresh_session(self, session: Session) -> None:
        refresher: UserRefresher = session.refresher
        session.refreshed = moment = now()
        user: User | None = session.identity.user if session.identity is not None else None
        if moment - session.user_fetched >= refresher.interval * SECOND:
            # Rights in the cluster are reviewed more often than those of a provider are refreshed.
            session.user_fetched = moment
            is_valid = await complete_within(RENEWAL_TIMEOUT, self._renew(session, refresher))
            user = await refresher.fetch_user() if is_valid else None
        identity = await self.resolver.resolve(user, self.resolver.access_refresh_interval)
        if session.identity is None:
            return
        if identity is None:
            record = session.record
            await self.credentials.sessions.end(session)
            self.audit.record(
                "session_ended", user=record.user.name, address=record.address, session=session.id
            )
        else:
            session.identity = identity
            await self.credentials.sessions.save_user(session, identity.user)
        self.check_connections()

    async def _renew(self, session: Session, refresher: UserRefresher) -> bool:
        """Renew what refreshes a session, and store it at once."""
        is_valid = await refresher.renew()
        if is_valid:
            await self.credentials.sessions.save_user(session, session.record.user)
        return is_valid

    async def _refresh_connection(self, connection: Connection) -> None:
        connection.refreshed = now()
        context = connection.context
        if context.refresher is None:
            # Due every second, so that the age of the cached review is the bound.
            identity = await self.resolver.resolve(context.identity.user)
        else:
            user = None
            if await context.refresher.renew():
                user = await context.refresher.fetch_user()
            identity = await self.resolver.resolve(user, self.resolver.access_refresh_interval)
        self.connections.compare(connection, identity)
