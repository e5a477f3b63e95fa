"""From users to identities: the roles of the configuration, and rights in the cluster."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import structlog

from almenara.config import AuthSettings
from almenara.errors import Unavailable, describe_error
from almenara.hookspecs import ClusterRight
from almenara.security.errors import AuthUnavailable
from almenara.security.identity import Identity, User, resolve_identity
from almenara.security.modes import Mode

if TYPE_CHECKING:
    from almenara.security.kubernetes import AccessReviews, ReviewClient, TokenReviews

log = structlog.get_logger(__name__)

REFRESH_RATE: Final = 2
"""Refreshes in each review interval. Each uses a review of at most one such part, so that all
sessions and connections of a user share reviews, and none is older than the interval in total."""


class IdentityResolver:
    """Assigns role and scope to users, and asks the cluster where the configuration says so."""

    def __init__(
        self,
        settings: AuthSettings,
        mode: Mode,
        namespaces: Callable[[], Iterable[str]],
        rights: Callable[[], Iterable[ClusterRight]],
    ) -> None:
        self.settings = settings
        self._client: ReviewClient | None = None
        self._token_reviews: TokenReviews | None = None
        self._access_reviews: AccessReviews | None = None
        if mode == "kubernetes" or settings.authorization == "kubernetes":
            # Imported here, because aiohttp is installed with an extra.
            from almenara.security import kubernetes

            self._client = kubernetes.ReviewClient(settings.kubernetes)
            self._token_reviews = kubernetes.TokenReviews(
                self._client, settings.kubernetes.token_review_interval
            )
            if settings.authorization == "kubernetes":
                self._access_reviews = kubernetes.AccessReviews(
                    self._client, settings.kubernetes, namespaces, rights
                )

    @property
    def depends_on_cluster(self) -> bool:
        """Whether scopes follow rights in the cluster, which can change at any time."""
        return self._access_reviews is not None

    @property
    def access_refresh_interval(self) -> float:
        """Seconds between two refreshes of rights in the cluster; infinite without such rights."""
        if self._access_reviews is None:
            return math.inf
        return self.settings.kubernetes.access_review_interval / REFRESH_RATE

    async def resolve(self, user: User | None, max_age: float | None = None) -> Identity | None:
        """Return the identity of a user; None where it has no role.

        Cached reviews of its rights in the cluster count for `max_age` seconds, by default for
        `auth.kubernetes.access_review_interval`. Raises `AuthUnavailable`.
        """
        identity = None if user is None else resolve_identity(user, self.settings)
        if identity is None or self._access_reviews is None:
            return identity
        try:
            return await self._access_reviews.restrict(identity, max_age)
        except* Unavailable as group:
            log.warning("cannot review access in the cluster", reason=describe_error(group))
        raise AuthUnavailable(
            "The Kubernetes API server cannot review your access at the moment. The reason is in"
            " the log of Almenara."
        )

    async def review_token(self, token: str, max_age: float | None = None) -> User | None:
        """Return the user of a Kubernetes token; None where it is invalid, or the mode does not
        use such tokens.

        A cached review counts for `max_age` seconds, by default for
        `auth.kubernetes.token_review_interval`. Raises `AuthUnavailable`.
        """
        if self._token_reviews is None:
            return None
        try:
            return await self._token_reviews.fetch_user(token, max_age)
        except Unavailable as error:
            log.warning("cannot review a token in the cluster", reason=describe_error(error))
            raise AuthUnavailable(
                "The Kubernetes API server cannot review your token at the moment. The reason is"
                " in the log of Almenara."
            ) from None

    async def close(self) -> None:
        """Close the connections to the API server."""
        if self._client is not None:
            await self._client.close()


class TokenRefresher:
    """The `UserRefresher` of sessions and connections with a Kubernetes token."""

    def __init__(self, resolver: IdentityResolver, token: str) -> None:
        self._resolver, self._token = resolver, token
        self.interval = resolver.settings.kubernetes.token_review_interval / REFRESH_RATE

    async def renew(self) -> bool:
        return True

    async def fetch_user(self) -> User | None:
        return await self._resolver.review_token(self._token, self.interval)

    async def seal(self) -> str:
        # The token of a user never leaves the process.
        return ""
