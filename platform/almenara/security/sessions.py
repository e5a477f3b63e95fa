"""Sessions: kept here and never in the browser, which holds a secret name of one in a cookie."""

import asyncio
import hmac
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import structlog

from almenara.config import AuthSettings
from almenara.security.identity import Identity, Person
from almenara.security.secret_hash import digest, generated
from almenara.security.store import KeptSession, Store
from almenara.signals import now

log = structlog.get_logger(__name__)

SECURE_COOKIE: Final = "__Host-almenara"
PLAIN_COOKIE: Final = "almenara"
"""On http, which only this machine uses, or who asked for it by name."""
SECOND: Final = 1_000_000
GRACE: Final = 30 * SECOND
"""How long a cookie is good once the next one was sent: requests may be under way with it."""
SEEN_STEP: Final = 60 * SECOND
SESSIONS: Final = 5_000


class Session:
    """Somebody who signed in with one browser."""

    def __init__(self, kept: KeptSession, identity: Identity, renewal: Any = None) -> None:
        self.kept = kept
        self.identity: Identity | None = identity
        """None once it has ended."""
        self.renewal = renewal
        """What it takes to ask again whether they may still be here; only in memory."""
        self.renewed = now()
        self.seen = kept.seen
        self.rotated = now()
        self.before = ""
        """The digest of the cookie before this one."""
        self.taken: int | None = self.rotated
        """When the cookie was first sent by the browser; None where it may never have got there."""

    @property
    def id(self) -> str:
        return self.kept.id

    @property
    def csrf(self) -> str:
        return self.kept.csrf

    def csrf_fits(self, token: str) -> bool:
        """Whether a form was made for this session."""
        return hmac.compare_digest(self.kept.csrf.encode(), token.encode("utf-8", "replace"))


Allowed = Callable[[Person], Identity | None]


class Sessions:
    """Every session there is, in memory and in the file."""

    def __init__(self, store: Store, settings: AuthSettings) -> None:
        self.store, self.settings = store, settings
        self._by_digest: dict[str, Session] = {}
        self._by_id: dict[str, Session] = {}
        # A reading of the file must not miss what is being written to it.
        self.turn = asyncio.Lock()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._by_id.values()))

    async def begin(
        self, identity: Identity, *, address: str, agent: str, access: str = "", renewal: Any = None
    ) -> tuple[Session, str]:
        """A new session and the secret of its cookie."""
        secret, moment = generated(), now()
        name = digest(secret)
        kept = KeptSession(
            id=name[:16],
            digest=name,
            csrf=generated(),
            person=identity.person,
            created=moment,
            seen=moment,
            expires=moment + int(self.settings.session_lifetime * SECOND),
            address=address,
            agent=agent[:200],
            access=access,
        )
        async with self.turn:
            if len(self._by_id) >= SESSIONS:
                await self._forget(min(self._by_id.values(), key=lambda it: it.seen))
            await asyncio.to_thread(self.store.keep_session, kept)
            session = Session(kept, identity, renewal)
            self._add(session)
        return session, secret

    def restore(self, kept: KeptSession, identity: Identity) -> None:
        """Take up a session from before a restart."""
        self._add(Session(kept, identity))

    def _add(self, session: Session) -> None:
        self._by_id[session.id] = session
        self._by_digest[session.kept.digest] = session

    def find(self, secret: str) -> Session | None:
        """The session of a cookie, where it is still good; that counts as being seen."""
        name = digest(secret)
        session = self._by_digest.get(name)
        if session is None or session.identity is None or not self.alive(session):
            return None
        if name == session.kept.digest:
            session.taken = session.taken or now()
        elif session.taken is not None and now() - session.taken > GRACE:
            return None
        session.seen = now()
        return session

    def get(self, session_id: str) -> Session | None:
        """A session by its id."""
        return self._by_id.get(session_id)

    def alive(self, session: Session) -> bool:
        """Whether neither of its lifetimes is over."""
        moment = now()
        idle = int(self.settings.session_idle_timeout * SECOND)
        return moment < session.kept.expires and moment < session.seen + idle

    def due(self, session: Session) -> bool:
        """Whether its cookie should be exchanged."""
        return now() - session.rotated > self.settings.session_rotation_interval * SECOND

    async def rotate(self, session: Session) -> str | None:
        """Exchange the cookie of a session; the secret of the new one. None where another request
        has just done so, or where it cannot be written: then the one there is stays good."""
        secret = generated()
        async with self.turn:
            if not self.due(session) or not self._there(session):
                return None
            kept = msgspec.structs.replace(session.kept, digest=digest(secret), seen=session.seen)
            try:
                await asyncio.to_thread(self.store.keep_session, kept)
            except sqlite3.Error as error:
                log.warning("a session's cookie cannot be exchanged", reason=str(error))
                return None
            if not self._there(session):
                return None
            # One that the browser never sent has not got there: it still has the one before.
            lost, old = session.kept.digest, session.before
            if session.taken is not None:
                lost, old = old, lost
            self._by_digest.pop(lost, None)
            session.before, session.kept = old, kept
            session.rotated, session.taken = now(), None
            self._by_digest[kept.digest] = session
        return secret

    async def end(self, session: Session) -> None:
        """End a session, here and in the file."""
        async with self.turn:
            await self._forget(session)

    async def _forget(self, session: Session) -> None:
        self.drop(session)
        await asyncio.to_thread(self.store.remove_session, session.id)

    def drop(self, session: Session) -> None:
        """End a session here; the file does not have it any more."""
        session.identity = None
        session.renewal = None
        self._by_id.pop(session.id, None)
        for name in (session.kept.digest, session.before):
            if self._by_digest.get(name) is session:
                del self._by_digest[name]

    def _there(self, session: Session) -> bool:
        return self._by_id.get(session.id) is session

    async def note_seen(self) -> None:
        """Write down, now and then, when sessions were last used, so that a restart knows."""
        for session in self:
            if session.seen - session.kept.seen > SEEN_STEP:
                async with self.turn:
                    if not self._there(session):
                        continue
                    session.kept = msgspec.structs.replace(session.kept, seen=session.seen)
                    await asyncio.to_thread(self.store.keep_session, session.kept)
