"""Sessions: state on the server, of which the browser has only a secret in a cookie."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import structlog

from almenara.config import AuthSettings
from almenara.errors import describe_error
from almenara.security.identity import Identity, User
from almenara.security.secret_hash import digest, generate_secret
from almenara.security.store import AccessStore, SessionRecord
from almenara.signals import now
from almenara.units import DAY, SECOND

log = structlog.get_logger(__name__)

SECURE_COOKIE: Final = "__Host-almenara"
PLAIN_COOKIE: Final = "almenara"
"""Over http: on this machine, and with `auth.allow_plain_http`."""
ROTATION_GRACE: Final = 30 * SECOND
"""How long the previous cookie stays valid once the browser has sent the new one: requests with the
old one may still be on their way."""
SEEN_SHARE: Final = 10
"""`last_seen` runs ahead of the file, and of what other replicas know, by at most this part of the
idle timeout."""
EXPIRED_MARGIN: Final = DAY
"""Time after which a shared session that has expired is deleted, for all replicas. Until then each
decides by its own clock, which may be wrong."""
LARGEST_AGENT: Final = 200
MAX_SESSIONS: Final = 5_000
MAX_USER_SESSIONS: Final = 50
"""Sessions of one user or API token; a further sign-in ends its oldest."""
MAX_SHARED_SESSIONS: Final = 1_000
"""Sessions that were started with the access token."""


class Session:
    """A signed-in browser."""

    def __init__(self, record: SessionRecord, identity: Identity, refresher: Any = None) -> None:
        self.record = record
        self.identity: Identity | None = identity
        """None once the session has ended."""
        self.refresher = refresher
        """A `UserRefresher`, in memory only: it holds tokens of the provider or the cluster."""
        self.refreshed = now()
        """When the identity was last resolved."""
        self.user_fetched = self.refreshed
        """When the user was last fetched by the refresher."""
        self.last_seen = record.last_seen
        self.rotated = now()
        self.previous_digest = ""
        """The digest of the cookie before the current one."""
        self.confirmed: int | None = self.rotated
        """When the browser first sent the current cookie; None while it may not have received
        it."""

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def csrf(self) -> str:
        return self.record.csrf


class Sessions:
    """All sessions, in memory and in the file."""

    def __init__(self, store: AccessStore, settings: AuthSettings) -> None:
        self.store, self.settings = store, settings
        self._by_digest: dict[str, Session] = {}
        self._by_id: dict[str, Session] = {}
        self.share: Callable[[], Awaitable[None]] | None = None
        """Shares what has changed with other replicas; None where there are none. A shared cookie
        is not rotated: two replicas could rotate it at once."""
        self.lock = asyncio.Lock()
        """Guards the file: whoever reads it must not miss a session that is being written."""

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    async def create(
        self,
        identity: Identity,
        *,
        address: str,
        agent: str,
        access_token_mark: str = "",
        refresher: Any = None,
    ) -> tuple[Session, str]:
        """Create a session; return it with the secret of its cookie."""
        secret, moment = generate_secret(), now()
        key = digest(secret)
        record = SessionRecord(
            id=key[:16],
            digest=key,
            csrf=generate_secret(),
            user=identity.user,
            created=moment,
            last_seen=moment,
            expires=moment + int(self.settings.session_lifetime * SECOND),
            address=address,
            agent=agent[:LARGEST_AGENT],
            access_token_mark=access_token_mark,
            sealed=await refresher.seal() if refresher is not None else "",
            refreshed=moment,
        )
        async with self.lock:
            await self._make_room(identity.user)
            await asyncio.to_thread(self.store.put_session, record)
            session = Session(record, identity, refresher)
            self._add(session)
        if self.share is not None:
            await self.share()
        return session, secret

    async def _make_room(self, user: User) -> None:
        """End the oldest sessions beyond the limits: those of the same user first, so that no user
        can sign others out by signing in often."""
        own = self._list_oldest_first(user.subject)
        # The access token is used by several people.
        limit = MAX_SHARED_SESSIONS if user.is_shared and not user.token_id else MAX_USER_SESSIONS
        for session in own[: max(len(own) - limit + 1, 0)]:
            await self._remove(session)
        if len(self._by_id) >= MAX_SESSIONS:
            counts = Counter(session.record.user.subject for session in self._by_id.values())
            ((largest, _),) = counts.most_common(1)
            await self._remove(self._list_oldest_first(largest)[0])

    def _list_oldest_first(self, subject: str) -> list[Session]:
        sessions = [
            session for session in self._by_id.values() if session.record.user.subject == subject
        ]
        return sorted(sessions, key=lambda session: session.last_seen)

    def restore(self, record: SessionRecord, identity: Identity, refresher: Any = None) -> None:
        """Add a session that the file has from before a restart, or from another replica."""
        self._add(Session(record, identity, refresher))

    def update(self, record: SessionRecord) -> None:
        """Note what another replica has stored of a session."""
        session = self._by_id[record.id]
        session.last_seen = max(session.last_seen, record.last_seen)
        if record.digest == session.record.digest:
            session.record = record

    def _add(self, session: Session) -> None:
        self._by_id[session.id] = session
        self._by_digest[session.record.digest] = session

    def find(self, secret: str) -> Session | None:
        """Return the live session of a cookie, and count the request as activity."""
        key = digest(secret)
        session = self._by_digest.get(key)
        if session is None or not self.is_usable(session):
            return None
        if key == session.record.digest:
            session.confirmed = session.confirmed or now()
        elif session.confirmed is not None and now() - session.confirmed > ROTATION_GRACE:
            return None
        session.last_seen = now()
        return session

    def is_known(self, secret: str) -> bool:
        """Return whether the cookie is that of a session here, also of one that has expired."""
        return digest(secret) in self._by_digest

    def get(self, session_id: str) -> Session | None:
        """Return a session by its id."""
        return self._by_id.get(session_id)

    def is_alive(self, session: Session) -> bool:
        """Return whether neither the idle timeout nor the lifetime has passed."""
        return now() < self._find_end(session.record, session.last_seen)

    def is_usable(self, session: Session) -> bool:
        """Return whether a session has neither ended nor expired."""
        return session.identity is not None and self.is_alive(session)

    def is_obsolete(self, record: SessionRecord, last_seen: int) -> bool:
        """Return whether a session has expired for every replica."""
        is_shared = self.share is not None and record.is_shareable
        margin = EXPIRED_MARGIN if is_shared else 0
        return now() >= self._find_end(record, last_seen) + margin

    def _find_end(self, record: SessionRecord, last_seen: int) -> int:
        idle = int(self.settings.session_idle_timeout * SECOND)
        return min(record.expires, last_seen + idle)

    def is_rotation_due(self, session: Session) -> bool:
        """Return whether the cookie is older than `auth.session_rotation_interval`."""
        if self.share is not None:
            return False
        return now() - session.rotated > self.settings.session_rotation_interval * SECOND

    async def rotate(self, session: Session) -> str | None:
        """Replace the cookie of a session and return the secret of the new one.

        None where another request has just rotated it, and where the file cannot be written: the
        current cookie stays valid then.
        """
        secret = generate_secret()
        async with self.lock:
            if not self.is_rotation_due(session) or not self._contains(session):
                return None
            try:
                record = await asyncio.to_thread(
                    self.store.update_session,
                    session.id,
                    digest=digest(secret),
                    last_seen=session.last_seen,
                )
            except sqlite3.Error as error:
                log.warning("cannot rotate a session cookie", reason=describe_error(error))
                return None
            if record is None or not self._contains(session):
                return None
            # A cookie that the browser never sent may not have arrived: then the browser still has
            # the one before it, and that one stays valid instead.
            dropped, previous = session.record.digest, session.previous_digest
            if session.confirmed is not None:
                dropped, previous = previous, dropped
            self._by_digest.pop(dropped, None)
            session.previous_digest, session.record = previous, record
            session.rotated, session.confirmed = now(), None
            self._by_digest[record.digest] = session
        return secret

    async def save_user(self, session: Session, user: User) -> None:
        """Share what a refresh of a session has changed, where other replicas have the session."""
        if not session.record.sealed or session.refresher is None:
            return
        sealed = await session.refresher.seal()
        if (user, sealed) == (session.record.user, session.record.sealed):
            return
        async with self.lock:
            if not self._contains(session):
                return
            record = await asyncio.to_thread(
                self.store.update_session, session.id, user=user, sealed=sealed, refreshed=now()
            )
            if record is None:
                # Another process has ended it; what is in memory follows soon.
                return
            session.record = record
        if self.share is not None:
            await self.share()

    async def end(self, session: Session) -> None:
        """End a session, in memory and in the file."""
        async with self.lock:
            await self._remove(session)
        if self.share is not None:
            await self.share()

    async def _remove(self, session: Session) -> None:
        self.drop(session)
        await asyncio.to_thread(self.store.remove_session, session.id)

    def drop(self, session: Session) -> None:
        """End a session in memory, where the file no longer has it."""
        session.identity = None
        session.refresher = None
        self._by_id.pop(session.id, None)
        for key in (session.record.digest, session.previous_digest):
            if self._by_digest.get(key) is session:
                del self._by_digest[key]

    def _contains(self, session: Session) -> bool:
        return self._by_id.get(session.id) is session

    async def save_last_seen(self) -> None:
        """Write `last_seen` of active sessions, so that the idle timeout survives a restart."""
        step = self.settings.session_idle_timeout * SECOND / SEEN_SHARE
        async with self.lock:
            changes = {
                session.id: {"last_seen": session.last_seen}
                for session in self._by_id.values()
                if session.last_seen - session.record.last_seen > step
            }
            if not changes:
                return
            for record in (await asyncio.to_thread(self.store.update_sessions, changes)).values():
                if (session := self._by_id.get(record.id)) is not None:
                    session.record = record
