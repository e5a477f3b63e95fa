"""What `access.db` contains, in memory: read at start, and again whenever a command changed it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from almenara.config import Settings
from almenara.security.access_token import HOLDER, AccessToken
from almenara.security.identity import Identity
from almenara.security.modes import Mode
from almenara.security.secret_hash import SecretVerifier
from almenara.security.sessions import Session, Sessions
from almenara.security.store import AccessStore, ApiToken, SessionRecord, StoredAccess
from almenara.security.tokens import TokenRegistry, identity_of, parse_token
from almenara.signals import now

Confirmed = tuple[Identity, Any]
"""The identity of a session, and its `UserRefresher` or None."""


class Credentials:
    """The access token, API tokens and sessions of one data folder."""

    def __init__(self, settings: Settings, mode: Mode) -> None:
        self.mode = mode
        self.store = AccessStore(settings.storage.dir)
        self.sessions = Sessions(self.store, settings.auth)
        self.tokens = TokenRegistry()
        self._verifier = SecretVerifier()
        self.access_token = AccessToken(settings.auth.token, self._verifier)
        self.catch_up: Callable[[], Awaitable[bool]] | None = None
        """Waits for what other replicas have stored; None where there are none."""
        self.confirm: Callable[[SessionRecord], Awaitable[Confirmed | None]] | None = None
        """Confirms the sessions of a provider that another replica has started, or this one before
        a restart; None where there is no such provider."""
        self.is_complete: Callable[[], bool] = lambda: True
        """Whether what other replicas have stored was received since the start."""
        self._stamp: tuple[int, int] | None = None
        self.revision = 0
        """How often what is in memory was replaced."""

    async def load(self) -> None:
        """Read the file. Sessions that only a provider or a cluster can confirm are deleted: what
        it takes to confirm them ended with the process, unless replicas share it."""
        # What is written while it is read must not be missed.
        self._stamp = await asyncio.to_thread(self.store.stamp)
        stored = await asyncio.to_thread(self.store.read)
        self._replace(stored)
        await self.access_token.refresh_mark()
        for record in stored.sessions:
            if now() >= record.expires or not await self._restore(record):
                await asyncio.to_thread(self.store.remove_session, record.id)

    async def _restore(self, record: SessionRecord) -> bool:
        """Add a stored session; return whether it is confirmed."""
        if (confirmed := await self._confirm(record)) is None:
            return False
        self.sessions.restore(record, *confirmed)
        return True

    async def _confirm(self, record: SessionRecord) -> Confirmed | None:
        if (identity := self._identity_of(record)) is not None:
            return identity, None
        return await self.confirm(record) if self.confirm is not None else None

    async def _update(self, session: Session, record: SessionRecord) -> None:
        """Note what another replica has stored of a session."""
        is_refreshed = record.refreshed > session.record.refreshed
        self.sessions.update(record)
        if not is_refreshed:
            return
        if (confirmed := await self._confirm(record)) is None:
            self.sessions.drop(session)
        else:
            session.identity, session.refresher = confirmed
            session.refreshed = session.user_fetched = now()

    def _identity_of(self, record: SessionRecord) -> Identity | None:
        if record.user.token_id:
            token = self.tokens.get(record.user.token_id)
            return None if token is None else identity_of(token)
        if self.mode == "token" and record.access_token_mark == self.access_token.mark:
            return HOLDER
        return None

    def _replace(self, stored: StoredAccess) -> None:
        self.revision += 1
        self.access_token.set_hash(stored.access_hash)
        self.tokens.replace(stored.tokens)

    async def reload(self) -> None:
        """Read the file again if it changed."""
        async with self.sessions.lock:
            stamp = await asyncio.to_thread(self.store.stamp)
            if stamp == self._stamp:
                return
            stored = await asyncio.to_thread(self.store.read)
            self._stamp = stamp
            self._replace(stored)
            stored_ids = {record.id for record in stored.sessions}
            for session in self.sessions:
                if session.id not in stored_ids:
                    self.sessions.drop(session)
            for record in stored.sessions:
                if (known := self.sessions.get(record.id)) is not None:
                    await self._update(known, record)
                else:
                    await self._restore(record)

    async def add_token(self, token: ApiToken) -> None:
        """Store an API token, which is valid at once."""
        await asyncio.to_thread(self.store.add_token, token)
        await self.reload()
        await self._share()

    async def remove_token(self, token_id: str) -> bool:
        """Delete an API token; return whether it existed."""
        existed = await asyncio.to_thread(self.store.remove_token, token_id)
        await self._share()
        return existed

    async def _share(self) -> None:
        if self.sessions.share is not None:
            await self.sessions.share()

    async def receive(self) -> bool:
        """Read what commands and other replicas have just stored; return whether that is all of it:
        False where the other replicas cannot be reached."""
        is_current = self.catch_up is None or await self.catch_up()
        await self.reload()
        return is_current

    async def end_invalid_sessions(self) -> None:
        """End the sessions that expired, or whose API token or access token was withdrawn."""
        for session in self.sessions:
            user, mark = session.record.user, session.record.access_token_mark
            if (
                (user.token_id and self.tokens.get(user.token_id) is None)
                or not self.sessions.is_alive(session)
                or (mark and mark != self.access_token.mark)
            ):
                await self.sessions.end(session)

    def is_verified(self, token: str) -> bool:
        """Return whether this API token or access token was verified before."""
        if parsed := parse_token(token):
            return self.tokens.is_verified(*parsed)
        return self.access_token.is_verified(token)

    def is_comparable(self, token: str) -> bool:
        """Return whether a wrong token was compared with a secret that is known here, or confirmed
        by a cluster: then it is wrong for every replica, or a guess that has to count. An API token
        whose id is unknown was compared with nothing."""
        if parsed := parse_token(token):
            return self.tokens.is_known(parsed[0])
        return self.mode != "token" or self.access_token.exists

    async def verify_api_token(self, token_id: str, secret: str) -> ApiToken | None:
        """Return the token that this secret belongs to; None where it is unknown, expired or the
        secret is wrong. Raises `AuthUnavailable`."""
        token = self.tokens.get(token_id)
        if token is None:
            return None
        if not self.tokens.is_verified(token_id, secret):
            if not await self._verifier.verify(secret, token.hash):
                return None
            self.tokens.mark_verified(token_id, secret)
        # Verifying takes a moment, in which the token may have been revoked.
        return self.tokens.get(token_id)
