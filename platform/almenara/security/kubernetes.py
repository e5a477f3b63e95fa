"""TokenReview and SubjectAccessReview: the Kubernetes API server authenticates and authorizes.

https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/ and
https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/subject-access-review-v1/
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from almenara.config import ConfigError, KubernetesAccessSettings
from almenara.errors import Unavailable, describe_error
from almenara.hookspecs import ClusterRight
from almenara.sdk import blocking
from almenara.security.identity import Identity, User
from almenara.security.secret_hash import digest
from almenara_kube.client import ApiClient
from almenara_kube.credentials import Credentials, read_configured
from almenara_kube.errors import ApiError, UnreachableError
from almenara_kube.objects import DECODE_ERRORS
from almenara_kube.settings import ClientSettings

RESPONSE_TIMEOUT: Final = 5.0
"""Seconds from the request to the last byte of the response."""
CONNECT_TIMEOUT: Final = 2.0
LARGEST_RESPONSE: Final = 1024 * 1024
"""Bytes; a review takes some hundreds."""
LARGEST_CACHE: Final = 2_000
CONCURRENT: Final = 16
CLUSTER: Final = ""
"""The namespace that stands for resources of the cluster itself."""
LIST_PODS: Final = ClusterRight(verb="list", resource="pods")
LIST_NODES: Final = ClusterRight(verb="list", resource="nodes")


class UserInfo(msgspec.Struct):
    """`UserInfo` of authentication.k8s.io/v1."""

    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str] | None] | None = None


class ReviewStatus(msgspec.Struct):
    """The status of either review; fields that are absent mean no."""

    authenticated: bool = False
    user: UserInfo | None = None
    audiences: list[str] | None = None
    allowed: bool = False
    denied: bool = False


class Review(msgspec.Struct):
    """A TokenReview or SubjectAccessReview as the API server returns it."""

    status: ReviewStatus


class ReviewClient:
    """Sends reviews to the API server. Close it with `close`."""

    def __init__(self, settings: KubernetesAccessSettings) -> None:
        """Raises `ConfigError` where no API server is configured outside a cluster."""
        if not settings.server and not os.environ.get("KUBERNETES_SERVICE_HOST"):
            raise ConfigError(
                "auth.kubernetes.server: Almenara does not run in a cluster; set the address"
                " of the API server here"
            )
        self.settings = settings
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._client = ApiClient(
            self._load,
            ClientSettings(answer_timeout=RESPONSE_TIMEOUT, connect_timeout=CONNECT_TIMEOUT),
            longest_answer=LARGEST_RESPONSE,
        )

    async def _load(self, refused: Credentials | None = None) -> Credentials:
        return await blocking(self._read_credentials)

    def _read_credentials(self) -> Credentials:
        settings = self.settings
        try:
            token = settings.token.reveal() if settings.token is not None else ""
        except (OSError, ValueError) as error:
            reason = describe_error(error)
            raise UnreachableError(f"auth.kubernetes.token: {reason}") from None
        return read_configured(
            settings.server, token=token, ca=settings.ca,
            certificate=settings.client_cert, key=settings.client_key,
        )  # fmt: skip

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def review_token(self, token: str) -> User | None:
        """Return the user of a token; None where it is invalid. Raises `Unavailable`."""
        audiences = set(self.settings.audiences)
        spec: dict[str, Any] = {"token": token}
        if audiences:
            spec["audiences"] = self.settings.audiences
        status = await self._create("authentication.k8s.io", "TokenReview", spec)
        info = status.user
        if not status.authenticated or info is None or not info.username:
            return None
        if audiences and audiences.isdisjoint(status.audiences or ()):
            return None
        extra = ((name, tuple(values or ())) for name, values in (info.extra or {}).items())
        return User(
            name=info.username,
            subject=f"kubernetes:{info.username}",
            groups=tuple(sorted(info.groups or ())),
            uid=info.uid,
            extra=tuple(sorted(extra)),
        )

    async def review_access(self, user: User, right: ClusterRight, namespace: str) -> bool:
        """Return whether a user has a right in a namespace, or in all of them for an empty one.

        Raises `Unavailable`.
        """
        spec = {
            "user": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": {name: list(values) for name, values in user.extra},
            "resourceAttributes": {
                "verb": right.verb,
                "group": right.group,
                "resource": right.resource,
                "subresource": right.subresource,
                "namespace": namespace,
            },
        }
        status = await self._create("authorization.k8s.io", "SubjectAccessReview", spec)
        return status.allowed and not status.denied

    async def _create(self, group: str, kind: str, spec: dict[str, Any]) -> ReviewStatus:
        body = msgspec.json.encode({"apiVersion": f"{group}/v1", "kind": kind, "spec": spec})
        try:
            # The limit includes the wait that the server demands by Retry-After.
            async with self._slots, asyncio.timeout(RESPONSE_TIMEOUT):
                response = await self._client.post(f"/apis/{group}/v1/{kind.lower()}s", body)
            return msgspec.json.decode(response, type=Review).status
        except ApiError as error:
            raise Unavailable(
                f"the API server answered {error.status} to a {kind}; Almenara needs the rights of"
                " the ClusterRole system:auth-delegator"
            ) from None
        except TimeoutError:
            reason = f"no complete answer within {RESPONSE_TIMEOUT:g} s"
        except (UnreachableError, *DECODE_ERRORS) as error:
            reason = describe_error(error)
        raise Unavailable(f"the API server did not answer a {kind}: {reason}")


class TokenReviews:
    """Caches the users of valid tokens for some seconds."""

    def __init__(self, client: ReviewClient, seconds: float) -> None:
        self.client, self.seconds = client, seconds
        self._users: OrderedDict[str, tuple[float, User]] = OrderedDict()
        """The time of the review and the user, by the digest of the token."""

    async def fetch_user(self, token: str, max_age: float | None = None) -> User | None:
        """Return the user of a token; None where it is invalid. Raises `Unavailable`."""
        key, max_age = digest(token), self.seconds if max_age is None else max_age
        cached = self._users.get(key)
        if cached is not None and time.monotonic() - cached[0] < max_age:
            return cached[1]
        self._users.pop(key, None)
        user = await self.client.review_token(token)
        if user is not None:
            self._users[key] = (time.monotonic(), user)
            if len(self._users) > LARGEST_CACHE:
                self._users.popitem(last=False)
        return user


class UserAccess(msgspec.Struct, frozen=True):
    """The rights of one user at one time."""

    since: float
    reviewed: frozenset[str]
    """The namespaces that were reviewed."""
    visible: frozenset[str]
    """Those of them in which the user may list pods, and `CLUSTER` if it may list nodes."""
    rights: frozenset[tuple[str, str]]
    """Further rights, each with its namespace."""


class AccessReviews:
    """Restricts scopes to what users may list in the cluster; caches reviews for some seconds."""

    def __init__(
        self,
        client: ReviewClient,
        settings: KubernetesAccessSettings,
        namespaces: Callable[[], Iterable[str]],
        rights: Callable[[], Iterable[ClusterRight]],
    ) -> None:
        """`namespaces` and `rights` return what is reviewed besides listing pods and nodes."""
        self.client, self.settings = client, settings
        self.namespaces, self.rights = namespaces, rights
        self._cache: OrderedDict[User, UserAccess] = OrderedDict()
        self._locks: dict[User, asyncio.Lock] = {}

    async def restrict(self, identity: Identity, max_age: float | None = None) -> Identity:
        """Return the identity with a scope that ends where its rights in the cluster end.

        A cached review counts for `max_age` seconds, by default for
        `auth.kubernetes.access_review_interval`. Raises `Unavailable`, alone or in a group.
        """
        access = await self._access_of(identity.user, max_age)
        prefix = self.settings.namespace_prefix
        visible = (
            f"{prefix}{name}" if name != CLUSTER else prefix.rstrip("/") for name in access.visible
        )
        scope = msgspec.structs.replace(
            identity.scope,
            guarded=tuple(sorted(self.settings.sources)),
            namespaces=tuple(sorted(visible)),
            rights=tuple(sorted((right, f"{prefix}{name}") for right, name in access.rights)),
        )
        return msgspec.structs.replace(identity, scope=scope)

    async def _access_of(self, user: User, max_age: float | None) -> UserAccess:
        prefix = self.settings.namespace_prefix
        max_age = self.settings.access_review_interval if max_age is None else max_age
        names = frozenset(
            name.removeprefix(prefix)
            for name in self.namespaces()
            if name and name.startswith(prefix)
        )
        # Concurrent requests of one user share one review.
        async with self._locks.setdefault(user, asyncio.Lock()):
            access = self._cache.get(user)
            if access is None or time.monotonic() - access.since >= max_age:
                access = await self._review(user, names)
                if await self.client.review_access(user, LIST_NODES, CLUSTER):
                    visible = access.visible | {CLUSTER}
                    access = msgspec.structs.replace(access, visible=visible)
                self._cache[user] = access
                self._cache.move_to_end(user)
                while len(self._cache) > LARGEST_CACHE:
                    oldest, _ = self._cache.popitem(last=False)
                    self._locks.pop(oldest, None)
            elif not names <= access.reviewed:
                more = await self._review(user, names - access.reviewed)
                self._cache[user] = access = UserAccess(
                    since=access.since,
                    reviewed=access.reviewed | names,
                    visible=access.visible | more.visible,
                    rights=access.rights | more.rights,
                )
        return access

    async def _review(self, user: User, names: frozenset[str]) -> UserAccess:
        since = time.monotonic()
        visible = await self._namespaces_with(user, LIST_PODS, names)
        rights = {
            (str(right), name)
            for right in self.rights()
            for name in await self._namespaces_with(user, right, visible)
        }
        return UserAccess(since, names, visible, frozenset(rights))

    async def _namespaces_with(
        self, user: User, right: ClusterRight, names: frozenset[str]
    ) -> frozenset[str]:
        """Return those of the namespaces in which a user has a right."""
        # A right in all namespaces is one review instead of one for each.
        if not names or await self.client.review_access(user, right, ""):
            return names
        ordered = sorted(names)
        reviews = await asyncio.gather(
            *(self.client.review_access(user, right, name) for name in ordered)
        )
        return frozenset(
            name for name, is_allowed in zip(ordered, reviews, strict=True) if is_allowed
        )
