"""What `access.db` contains, in memory: read at start, and again whenever a command changed it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from almenara.config import Settings
from almenara.security.access_token import HOLDER, AccessToken
from almenara.security.identity import Identity
from almenara.security.modes import Mode
from almenara.security.secret_hash import SecretVerifier
from almenara.security.sessions import Session, Sessions
from almenara.security.store import (
    ACCESS,
    SESSION,
    TOKEN,
    AccessChanges,
    AccessStore,
    ApiToken,
    SessionRecord,
    decode_changes,
)
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
        self._revisions: dict[str, int] = {}
        """Those of the values that were read, by key."""
        self._unconfirmed: dict[str, SessionRecord] = {}
        """Sessions of the file that this replica cannot confirm, by id."""
        self.revision = 0
        """How often what is in memory was changed."""

    async def load(self) -> None:
        """Read the file. Sessions that only a provider or a cluster can confirm are deleted: what
        it takes to confirm them ended with the process, unless replicas share it."""
        await self.access_token.refresh_mark()
        await self.reload()
        for record in list(self._unconfirmed.values()):
            is_shared = self.sessions.share is not None and record.is_shareable
            if not is_shared or self._is_revoked(record):
                await self._remove_unconfirmed(record)

    async def _restore(self, record: SessionRecord) -> None:
        """Add a stored session if it can be confirmed."""
        if (confirmed := await self._confirm(record)) is None:
            self._unconfirmed[record.id] = record
        else:
            self._unconfirmed.pop(record.id, None)
            self.sessions.restore(record, *confirmed)

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
            self._suspend(session)
        else:
            session.identity, session.refresher = confirmed
            session.refreshed = session.user_fetched = now()

    def _suspend(self, session: Session) -> None:
        """End a session in memory for as long as it cannot be confirmed."""
        self._unconfirmed[session.id] = session.record
        self.sessions.drop(session)

    def _identity_of(self, record: SessionRecord) -> Identity | None:
        if record.user.token_id:
            token = self.tokens.get(record.user.token_id)
            return None if token is None else identity_of(token)
        if self.mode == "token" and record.access_token_mark == self.access_token.mark:
            return HOLDER
        return None

    async def reload(self) -> None:
        """Read what has changed in the file."""
        async with self.sessions.lock:
            # What is written while it is read must not be missed.
            stamp = await asyncio.to_thread(self.store.stamp)
            if stamp == self._stamp:
                return
            revisions, changed = await asyncio.to_thread(
                self.store.file.read_changes, (ACCESS, TOKEN, SESSION), self._revisions
            )
            deleted = (self._revisions.keys() | self._list_keys()) - revisions.keys()
            values = {key: stored.value for key, stored in changed.items()}
            await self.apply({**dict.fromkeys(deleted), **values})
            self._stamp, self._revisions = stamp, revisions

    def _list_keys(self) -> set[str]:
        """Return the keys of what is in memory; some was added without reading it."""
        session_ids = {session.id for session in self.sessions} | self._unconfirmed.keys()
        tokens = {f"{TOKEN}{token.id}" for token in self.tokens}
        return tokens | {f"{SESSION}{session_id}" for session_id in session_ids}

    async def apply(self, values: Mapping[str, bytes | None]) -> None:
        """Apply values of the file that have changed; None stands for one that was deleted.

        The caller has `sessions.lock`: what is in memory and the file change together.
        """
        changes = decode_changes(values)
        if not values:
            return
        self.revision += 1
        self._apply_tokens(changes)
        # A revocation waits for nothing.
        for key in changes.deleted:
            session_id = key.removeprefix(SESSION)
            self._unconfirmed.pop(session_id, None)
            if (session := self.sessions.get(session_id)) is not None:
                self.sessions.drop(session)
        if changes.can_confirm_sessions:
            for record in list(self._unconfirmed.values()):
                await self._restore(record)
        for record in changes.sessions:
            if (known := self.sessions.get(record.id)) is not None:
                await self._update(known, record)
            else:
                await self._restore(record)

    def _apply_tokens(self, changes: AccessChanges) -> None:
        if changes.access_hash is not None:
            self.access_token.set_hash(changes.access_hash)
        for token in changes.tokens:
            self.tokens.put(token)
        for key in changes.deleted:
            if key.startswith(TOKEN):
                self.tokens.drop(key.removeprefix(TOKEN))

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
        """End the sessions that expired, or whose API token or access token was withdrawn.

        What replicas share and has only expired stays in the file for a while: the clock of this
        replica may be wrong, and the others have to decide by their own.
        """
        for session in self.sessions:
            record = session.record
            has_expired_token = (
                bool(record.user.token_id) and self.tokens.get(record.user.token_id) is None
            )
            if (
                self._is_revoked(record)
                or self.sessions.is_obsolete(record, session.last_seen)
                or (has_expired_token and self.sessions.share is None)
            ):
                await self.sessions.end(session)
            elif has_expired_token:
                self._suspend(session)
        for record in list(self._unconfirmed.values()):
            if self._is_revoked(record) or self.sessions.is_obsolete(record, record.last_seen):
                await self._remove_unconfirmed(record)

    def _is_revoked(self, record: SessionRecord) -> bool:
        """Return whether the API token or access token that started a session was withdrawn."""
        token_id, mark = record.user.token_id, record.access_token_mark
        return bool(
            (token_id and not self.tokens.is_known(token_id))
            or (mark and mark != self.access_token.mark)
        )

    async def _remove_unconfirmed(self, record: SessionRecord) -> None:
        async with self.sessions.lock:
            await asyncio.to_thread(self.store.remove_session, record.id)
            self._unconfirmed.pop(record.id, None)
        await self._share()

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
