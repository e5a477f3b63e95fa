"""TokenReview and SubjectAccessReview: the Kubernetes API server authenticates and authorizes.

https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/ and
https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/subject-access-review-v1/
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from almenara.config import ConfigError, KubernetesAccessSettings
from almenara.errors import Unavailable, describe_error
from almenara.hookspecs import ClusterRight
from almenara.security.bounded_http import BoundedTransport
from almenara.security.config_check import cluster_context
from almenara.security.identity import Identity, User
from almenara.security.secret_hash import digest

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
RESPONSE_TIMEOUT: Final = 5.0
"""Seconds from the request to the last byte of the response."""
CONNECT_TIMEOUT: Final = 2.0
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
        self.settings = settings
        self._slots = asyncio.Semaphore(CONCURRENT)
        server, ca = settings.server, settings.ca
        self._read_token: Callable[[], str] = lambda: ""
        if settings.token is not None:
            self._read_token = settings.token.reveal
        if not server:
            host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
            port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            if not host:
                raise ConfigError(
                    "auth.kubernetes.server: Almenara does not run in a cluster; set the address"
                    " of the API server here"
                )
            server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
            ca = ca or SERVICE_ACCOUNT / "ca.crt"
            if settings.token is None:
                # The kubelet rotates it, so it is read for each request.
                file = SERVICE_ACCOUNT / "token"
                self._read_token = lambda: file.read_text(encoding="utf-8").strip()
        self._client = httpx.AsyncClient(
            base_url=server,
            transport=BoundedTransport(cluster_context(settings, ca), RESPONSE_TIMEOUT),
            timeout=httpx.Timeout(RESPONSE_TIMEOUT, connect=CONNECT_TIMEOUT),
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

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
        body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        token = await self._own_token()
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            async with self._slots:
                response = await self._client.post(
                    f"/apis/{group}/v1/{kind.lower()}s", json=body, headers=headers
                )
            if response.status_code not in (200, 201):
                raise Unavailable(
                    f"the API server answered {response.status_code} to a {kind}; Almenara needs"
                    " the rights of the ClusterRole system:auth-delegator"
                )
            return msgspec.json.decode(response.content, type=Review).status
        except (httpx.HTTPError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Unavailable(
                f"the API server did not answer a {kind}: {describe_error(error)}"
            ) from None

    async def _own_token(self) -> str:
        try:
            return await asyncio.to_thread(self._read_token)
        except OSError as error:
            raise Unavailable(
                f"cannot read the ServiceAccount token of Almenara: {describe_error(error)}"
            ) from None


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
