"""The one who says who is there: every request and every WebSocket is put to `Access.admit`."""

import asyncio
import hmac
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import structlog

from almenara.bus import Bus
from almenara.config import Settings
from almenara.hookspecs import ClusterRight
from almenara.scope import FULL_SCOPE
from almenara.security import tokens as api_tokens
from almenara.security.audit import Audit
from almenara.security.auth_context import AuthContext, Provider, Renewal
from almenara.security.connections import COME_AGAIN, Open, OpenPages
from almenara.security.identity import Identity, Person, Role, everybody, identity_of
from almenara.security.modes import mode_of
from almenara.security.proxy_headers import Proxying
from almenara.security.rate_limit import Attempts
from almenara.security.request import ClusterError, Refused, RequestInfo
from almenara.security.secret_hash import TooManySecretsError, Verifying, digest
from almenara.security.sessions import Session, Sessions
from almenara.security.store import ApiToken, Kept, KeptSession, Store
from almenara.security.tokens import Tokens
from almenara.security.trusted_proxies import TrustedProxies, counted_as
from almenara.signals import now

if TYPE_CHECKING:
    from almenara.security.kubernetes import Cluster, Reviewed, Rights

log = structlog.get_logger(__name__)

LOOK_EVERY: Final = 1.0
"""Seconds between looks at the file, at lifetimes and at open WebSockets."""
SECOND: Final = 1_000_000


class Access:
    """Who is there, as far as sessions, tokens and whoever signs people in can tell."""

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        namespaces: Callable[[], Iterable[str]],
        rights: Callable[[], Iterable[ClusterRight]],
    ) -> None:
        self.mode = mode_of(settings)
        self.settings, self.server = settings.auth, settings.server
        auth = settings.auth
        self.store = Store(settings.storage.dir)
        self.sessions = Sessions(self.store, auth)
        self.tokens = Tokens()
        self.audit = Audit(bus)
        self.attempts = Attempts(auth.max_sign_in_attempts)
        self.pages = OpenPages(self.server, self.mode)
        self._verifying = Verifying()
        self._access_hash = ""
        self._access_seen = ""
        self._mark = ""
        """What changes when the access token does."""
        self._stamp: tuple[int, int] | None = None
        certified = settings.server.tls is not None and settings.server.tls.client_ca is not None
        self._proxying = Proxying(auth.proxy, certified=certified)
        self.proxies = TrustedProxies(settings.server.trusted_proxies)
        self.oidc: Provider | None = None
        if self.mode == "oidc" and auth.oidc is not None:
            from almenara.security.oidc import Provider as OidcProvider

            self.oidc = OidcProvider(auth.oidc, self)
        self.cluster: Cluster | None = None
        self._reviewed: Reviewed | None = None
        self._rights: Rights | None = None
        if self.mode == "kubernetes" or auth.authorization == "kubernetes":
            # Its library, and the provider's, are there where they are asked for.
            from almenara.security import kubernetes

            self.cluster = kubernetes.Cluster(auth.kubernetes)
            self._reviewed = kubernetes.Reviewed(
                self.cluster, auth.kubernetes.token_review_interval
            )
            if auth.authorization == "kubernetes":
                self._rights = kubernetes.Rights(self.cluster, auth.kubernetes, namespaces, rights)

    # -- requests

    async def admit(self, asking: RequestInfo) -> AuthContext | None:
        """Who makes a request; None where nobody signed in. Raises `Refused`."""
        if asking.headers.get("authorization"):
            return await self._by_header(asking)
        if self.mode == "none":
            return AuthContext(identity=everybody(Role.ADMIN))
        if self.mode == "insecure-none":
            return AuthContext(identity=everybody(Role.VIEWER))
        if self.mode == "proxy":
            return await self._by_proxy(asking)
        if secret := asking.session_cookie(self.settings.allow_plain_http):
            session = self.sessions.find(secret)
            if session is not None and session.identity is not None:
                return AuthContext(identity=session.identity, session=session)
        return None

    async def _by_header(self, asking: RequestInfo) -> AuthContext | None:
        token = asking.bearer
        if not token or len(token) > 8192:
            raise Refused(401, "The Authorization header is not `Bearer` and one token.")
        # What others of the same address try does not hold up who was let in before.
        found = await self._issued(token) if self._was_verified(token) else None
        if found is None:
            self._check_attempts(asking)
            found = await self._holder(token)
        if found is None:
            self._failed(asking, "a token")
            raise Refused(401, "The token is unknown, has expired or was revoked.")
        return found

    def _was_verified(self, token: str) -> bool:
        if parted := api_tokens.parts(token):
            return self.tokens.was_verified(*parted)
        return bool(self._access_seen) and hmac.compare_digest(self._access_seen, digest(token))

    async def _holder(self, token: str) -> AuthContext | None:
        found = await self._issued(token)
        # What a command made a moment ago is in the file already.
        if found is None and await self._read_again():
            found = await self._issued(token)
        return found

    async def _issued(self, token: str) -> AuthContext | None:
        if parted := api_tokens.parts(token):
            known = await self._api_token(*parted)
            if known is None:
                return None
            return AuthContext(
                identity=api_tokens.identity_of(known), api_token=known.id, by_header=True
            )
        if self.mode == "token" and await self.is_access_token(token):
            return AuthContext(identity=_holder_of_all(), bearer=self._mark, by_header=True)
        if self.mode == "kubernetes":
            identity = await self.identity(await self.reviewed(token))
            if identity is not None:
                return AuthContext(identity=identity, bearer=digest(token), by_header=True)
        return None

    async def _api_token(self, token_id: str, secret: str) -> ApiToken | None:
        token = self.tokens.get(token_id)
        if token is None:
            return None
        if not self.tokens.was_verified(token_id, secret):
            if not await self._fits(secret, token.hash):
                return None
            self.tokens.note_verified(token_id, secret)
        return self.tokens.get(token_id)

    async def is_access_token(self, token: str) -> bool:
        """Whether it is the access token. Raises `Refused`."""
        if self.settings.token is not None:
            wanted = await asyncio.to_thread(self.settings.token.reveal)
            fits = hmac.compare_digest(wanted.encode(), token.encode("utf-8", "replace"))
            if fits:
                self._access_seen = digest(token)
            return fits
        if not self._access_hash:
            return False
        if self._access_seen and hmac.compare_digest(self._access_seen, digest(token)):
            return True
        if not await self._fits(token, self._access_hash):
            return False
        self._access_seen = digest(token)
        return True

    async def _fits(self, secret: str, kept: str) -> bool:
        try:
            return await self._verifying.fits(secret, kept)
        except TooManySecretsError:
            raise Refused(503, "Too many sign-ins at once; try again in a moment.", 2.0) from None

    async def reviewed(self, token: str) -> Person | None:
        """Who the cluster says a token is of. Raises `Refused`."""
        if self._reviewed is None:
            return None
        try:
            return await self._reviewed.person(token)
        except ClusterError as error:
            log.warning("the cluster could not say whose a token is", reason=str(error))
            raise Refused(
                503, "The Kubernetes API server cannot say whose the token is; the log says why."
            ) from None

    async def _by_proxy(self, asking: RequestInfo) -> AuthContext | None:
        try:
            person = self._proxying.person(asking, trusted=asking.peer in self.proxies)
        except Refused as refused:
            self.audit.refused(
                "identity_refused",
                who=asking.header(self._proxying.user),
                address=asking.address,
                reason=refused.detail,
            )
            raise
        if person is None:
            return None
        identity = await self.identity(person)
        if identity is None:
            raise Refused(
                403, f"{person.name} has no role here; auth.roles names nobody like that."
            )
        return AuthContext(identity=identity)

    async def identity(self, person: Person | None) -> Identity | None:
        """The role of somebody and what they see, by the configuration and the cluster.

        Raises `Refused`.
        """
        found = None if person is None else identity_of(person, self.settings)
        if found is None or self._rights is None:
            return found
        try:
            return await self._rights.narrowed(found)
        except* ClusterError as group:
            log.warning("the cluster could not say who may what", reason=str(group.exceptions[0]))
        raise Refused(
            503, "The Kubernetes API server cannot say what you may see; the log says why."
        )

    # -- signing in and out

    def check_encrypted(self, asking: RequestInfo) -> None:
        """Raise `Refused` where everybody on the way could read what somebody signs in with."""
        if not (asking.secure or asking.local or self.settings.allow_plain_http):
            raise Refused(
                403,
                "This page came over http, so everybody on the way could read your token and your"
                " session. Use https: a proxy in front, or server.tls. To sign in over http all the"
                " same, set auth.allow_plain_http.",
            )

    def _check_attempts(self, asking: RequestInfo) -> None:
        wait = self.attempts.wait(counted_as(asking.address))
        if wait > 0:
            raise Refused(429, f"Too many wrong sign-ins; wait {wait:.0f} s before the next.", wait)

    def _failed(self, asking: RequestInfo, what: str) -> None:
        self.attempts.failed(counted_as(asking.address))
        self.audit.refused(
            "sign_in_refused", who="", address=asking.address, reason=f"{what} was wrong"
        )

    async def sign_in(self, asking: RequestInfo, token: str) -> str:
        """Exchange a token that somebody typed for a session; the secret of its cookie.

        Raises `Refused`.
        """
        self.check_encrypted(asking)
        self._check_attempts(asking)
        found = await self._holder(token.strip()[:8192]) if token.strip() else None
        if found is None:
            self._failed(asking, "the token")
            raise Refused(401, "That token is unknown, has expired or was revoked.")
        renewal = None
        if self.mode == "kubernetes" and not found.api_token:
            renewal = ReviewedAgain(self, token.strip())
        access = "" if found.api_token or renewal is not None else self._mark
        return await self.begin(asking, found.identity, access=access, renewal=renewal)

    async def begin(
        self,
        asking: RequestInfo,
        identity: Identity,
        *,
        access: str = "",
        renewal: Renewal | None = None,
    ) -> str:
        """A new session for somebody who proved who they are; the secret of its cookie.

        The session that the browser had before is over: nobody can have planted it.
        """
        self.attempts.succeeded(counted_as(asking.address))
        if (
            before := self.sessions.find(asking.session_cookie(self.settings.allow_plain_http))
        ) is not None:
            await self.sessions.end(before)
        session, secret = await self.sessions.begin(
            identity,
            address=asking.address,
            agent=asking.header("user-agent"),
            access=access,
            renewal=renewal,
        )
        self.audit.note(
            "signed_in",
            who=identity.name,
            address=asking.address,
            role=identity.role.name.lower(),
            how=self.mode,
            session=session.id,
        )
        return secret

    async def sign_out(self, session: Session, address: str) -> None:
        """End somebody's own session, and its open pages."""
        who = session.kept.person.name
        await self.end(session)
        self.audit.note("signed_out", who=who, address=address, session=session.id)

    async def end(self, session: Session) -> None:
        """End a session, and close its open pages at once."""
        await self.sessions.end(session)
        self.pages.check(self._known)

    def _read_mark(self) -> str:
        if self.settings.token is not None:
            return digest(self.settings.token.reveal())
        return digest(self._access_hash)

    async def add_token(self, token: ApiToken) -> None:
        """Keep an API token, good from now on."""
        await asyncio.to_thread(self.store.add_token, token)
        await self._read_again()

    async def remove_token(self, token_id: str) -> bool:
        """Revoke an API token, with the sessions that came of it; whether there was one."""
        there = await asyncio.to_thread(self.store.remove_token, token_id)
        await self.look()
        return there

    # -- the passing of time

    async def start(self) -> None:
        """Read the file. Sessions that only another can confirm have ended with the process."""
        kept = await asyncio.to_thread(self.store.read)
        self._stamp = self.store.stamp()
        self._take(kept)
        self._mark = await asyncio.to_thread(self._read_mark)
        for session in kept.sessions:
            identity = self._kept_identity(session)
            if identity is not None and now() < session.expires:
                self.sessions.restore(session, identity)
            else:
                await asyncio.to_thread(self.store.remove_session, session.id)

    def _kept_identity(self, kept: KeptSession) -> Identity | None:
        if kept.person.token:
            token = self.tokens.get(kept.person.token)
            return None if token is None else api_tokens.identity_of(token)
        if self.mode == "token" and kept.access == self._mark:
            return _holder_of_all()
        return None

    def _take(self, kept: Kept) -> None:
        if kept.access_hash != self._access_hash:
            self._access_hash, self._access_seen = kept.access_hash, ""
            if self.settings.token is None:
                self._mark = digest(kept.access_hash)
        self.tokens.replace(kept.tokens)

    @property
    def has_access_token(self) -> bool:
        """Whether there is a token that anybody could sign in with."""
        return bool(self.settings.token is not None or self._access_hash)

    async def run(self) -> None:
        """Look after sessions, tokens and open WebSockets, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.audit.run(), name="access log")
                group.create_task(self._ask_again(), name="asking again")
                while True:
                    await asyncio.sleep(LOOK_EVERY)
                    try:
                        await self.look()
                    except Exception:
                        log.exception("sessions could not be looked after; it is tried again")
        finally:
            for it in (self.cluster, self.oidc):
                if it is not None:
                    await it.close()

    async def look(self) -> None:
        """Take in what changed: in the file, and by the passing of time. It waits for nobody else,
        so that whoever is revoked is out in time while the provider or the cluster hangs."""
        await self._read_again()
        for it in self.pages:
            # A page that is open is being looked at.
            if (session := it.ticket.session) is not None and session.identity is not None:
                session.seen = now()
        self._mark = await asyncio.to_thread(self._read_mark)
        for session in self.sessions:
            person = session.kept.person
            revoked = person.token and self.tokens.get(person.token) is None
            if (
                revoked
                or not self.sessions.alive(session)
                or (session.kept.access and session.kept.access != self._mark)
            ):
                await self.sessions.end(session)
        await self.sessions.note_seen()
        self.pages.check(self._known)

    async def _read_again(self) -> bool:
        """Take in what the file holds; whether it had changed."""
        async with self.sessions.turn:
            stamp = await asyncio.to_thread(self.store.stamp)
            if stamp == self._stamp:
                return False
            kept = await asyncio.to_thread(self.store.read)
            self._stamp = stamp
            self._take(kept)
            there = {it.id for it in kept.sessions}
            for session in self.sessions:
                if session.id not in there:
                    self.sessions.drop(session)
            return True

    async def _ask_again(self) -> None:
        """Ask the provider and the cluster who people are now, until cancelled: each in a task, so
        that an answer that does not come holds up no other."""
        asked: set[Session | Open] = set()

        async def ask(it: Session | Open) -> None:
            try:
                await (self._renew(it) if isinstance(it, Session) else self._review(it))
            except Exception as error:
                # Whoever could say is away; what they said last holds for as long as a session may.
                log.warning("nobody could confirm who somebody is", reason=str(error))
            finally:
                asked.discard(it)

        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(LOOK_EVERY)
                due: list[Session | Open] = [it for it in self.sessions if self._due(it)]
                if self._rights is not None:
                    due += [it for it in self.pages if it.ticket.session is None]
                for it in due:
                    if it not in asked:
                        asked.add(it)
                        group.create_task(ask(it), name="asking again")

    def _due(self, session: Session) -> bool:
        if session.identity is None or session.renewal is None:
            return False
        every = session.renewal.every
        if self._rights is not None:
            every = min(every, self.settings.kubernetes.access_review_interval)
        return bool(now() - session.renewed >= every * SECOND)

    async def _renew(self, session: Session) -> None:
        renewal: Renewal = session.renewal
        session.renewed = now()
        identity = await self.identity(await renewal.person())
        if session.identity is None:
            return
        if identity is None:
            who = session.kept.person.name
            await self.sessions.end(session)
            self.audit.note("session_ended", who=who, address=session.kept.address,
                            session=session.id)  # fmt: skip
        else:
            session.identity = identity
        self.pages.check(self._known)

    async def _review(self, it: Open) -> None:
        if not it.ticket.api_token:
            self.pages.compare(it, await self.identity(it.ticket.identity.person))

    def _known(self, it: Open) -> Identity | None:
        """Who somebody with an open WebSocket is now, as far as nobody need be asked."""
        ticket = it.ticket
        if ticket.session is not None:
            return ticket.session.identity
        if ticket.api_token:
            token = self.tokens.get(ticket.api_token)
            return None if token is None else api_tokens.identity_of(token)
        if self.mode in ("proxy", "kubernetes"):
            if now() - it.since > self.settings.proxy.reauthentication_interval * SECOND:
                # Coming again, it passes whoever knows whether it still may.
                it.close(COME_AGAIN)
        elif self.mode == "token" and ticket.bearer != self._mark:
            return None
        return ticket.identity


class ReviewedAgain:
    """Asks the cluster again whose a token is."""

    def __init__(self, access: Access, token: str) -> None:
        self.access, self.token = access, token
        self.every = access.settings.kubernetes.token_review_interval

    async def person(self) -> Person | None:
        return await self.access.reviewed(self.token)


def _holder_of_all() -> Identity:
    person = Person(name="access token", subject="token", shared=True)
    return Identity(person=person, role=Role.ADMIN, scope=FULL_SCOPE)
