"""The parts of authentication, put together from the settings."""

import asyncio
from collections.abc import Callable, Iterable

from almenara.bus import Bus
from almenara.config import Settings
from almenara.history import History
from almenara.hookspecs import ClusterRight
from almenara.security.access_sync import AccessSync, SessionSource
from almenara.security.audit import Audit
from almenara.security.auth_context import IdentityProvider
from almenara.security.authenticator import Authenticator
from almenara.security.connections import OpenConnections
from almenara.security.credentials import Credentials
from almenara.security.modes import mode_of
from almenara.security.recorded_attempts import RecordedAttempts
from almenara.security.resolver import IdentityResolver
from almenara.security.reviewer import Reviewer
from almenara.security.sign_in import SignIn
from almenara.state_store import StateStore


class AccessControl:
    """Everything that decides who may connect; `web` has no other way to the parts."""

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        namespaces: Callable[[], Iterable[str]],
        rights: Callable[[], Iterable[ClusterRight]],
        replicas: SessionSource | None = None,
        store: StateStore | None = None,
    ) -> None:
        """`namespaces` and `rights` list what to ask the cluster for, where it decides scopes.
        `replicas` is the bus where several share one; without `bus.secret`, they share no tokens
        and sessions, and only count failed sign-ins together. `store` has used logout tokens."""
        auth = settings.auth
        self.mode = mode_of(settings)
        self.server = settings.server
        self.audit = Audit(bus)
        self.credentials = Credentials(settings, self.mode)
        self.sessions, self.tokens = self.credentials.sessions, self.credentials.tokens
        self.sync: AccessSync | None = None
        if replicas is not None and settings.bus.secret is not None:
            self.sync = AccessSync(self.credentials, replicas, settings.bus.secret)
            self.sessions.share, self.credentials.catch_up = self.sync.share, self.sync.catch_up
            self.credentials.is_complete = lambda: self.not_ready is None
        self.connections = OpenConnections(settings.server, self.mode)
        self.resolver = IdentityResolver(auth, self.mode, namespaces, rights)
        self.authenticator = Authenticator(
            settings, self.mode, self.credentials, self.resolver, self.audit
        )
        self.recorded = RecordedAttempts(bus, self.audit, self.authenticator.attempts)
        self._is_shared = replicas is not None
        self.reviewer = Reviewer(
            auth, self.mode, self.credentials, self.resolver, self.connections, self.audit
        )
        self.sign_in = SignIn(self.authenticator, self.reviewer)
        self.provider: IdentityProvider | None = None
        if self.mode == "oidc" and auth.oidc is not None:
            # Imported here, because its libraries are installed with an extra.
            from almenara.security.oidc import OidcProvider

            # Rights in the cluster would be reviewed for each session on each replica.
            shares_sessions = self.sync is not None and not self.resolver.depends_on_cluster
            self.provider = OidcProvider(
                auth.oidc, self.sign_in,
                settings.bus.secret if self.sync is not None else None,
                shares_sessions=shares_sessions, store=store,
            )  # fmt: skip
            self.credentials.confirm = self.provider.confirm

    @property
    def has_access_token(self) -> bool:
        """Whether there is an access token to sign in with."""
        return self.credentials.access_token.exists

    @property
    def not_ready(self) -> str | None:
        """Why this replica cannot authenticate everyone yet; None once it can."""
        if self.sync is None or self.sync.has_received:
            return None
        return "the tokens and sessions of the other replicas are not received yet"

    async def start(self, history: History) -> None:
        """Read the stored tokens and sessions, and recent failed sign-ins from history."""
        await self.credentials.load()
        await self.recorded.load(history)

    async def run(self) -> None:
        """Publish the access log and review sessions and connections, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.audit.run(), name="access log")
                group.create_task(self.reviewer.run(), name="review of access")
                if self._is_shared:
                    group.create_task(self.recorded.run(), name="failed sign-ins")
                if self.sync is not None:
                    group.create_task(self.sync.run(), name="exchange of sessions")
        finally:
            await self.resolver.close()
            if self.provider is not None:
                await self.provider.close()
