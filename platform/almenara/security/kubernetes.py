"""The Kubernetes API server as the one who knows tokens (TokenReview) and rights
(SubjectAccessReview)."""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import structlog

from almenara.config import ConfigError, KubernetesAccessSettings
from almenara.hookspecs import ClusterRight
from almenara.security.bounded_http import BoundedTransport
from almenara.security.config_check import cluster_context
from almenara.security.identity import Identity, Person
from almenara.security.request import ClusterError
from almenara.security.secret_hash import digest

log = structlog.get_logger(__name__)

POD: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WHOLE_ANSWER: Final = 5.0
"""Seconds that an answer of the API server may take, from the question to its last byte."""
TIMEOUT: Final = httpx.Timeout(WHOLE_ANSWER, connect=2.0)
REMEMBERED: Final = 2_000
AT_ONCE: Final = 16
CLUSTER: Final = ""


class User(msgspec.Struct):
    """Whose a token is, as TokenReview tells it."""

    username: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str] | None] | None = None


class Status(msgspec.Struct):
    """The answer to either question; what is not said is no."""

    authenticated: bool = False
    user: User | None = None
    audiences: list[str] | None = None
    allowed: bool = False
    denied: bool = False


class Review(msgspec.Struct):
    """The object that an answer comes in."""

    status: Status


class Cluster:
    """The two questions that are put to the API server. Close it with `close`."""

    def __init__(self, settings: KubernetesAccessSettings) -> None:
        self.settings = settings
        self._turns = asyncio.Semaphore(AT_ONCE)
        server, ca = settings.server, settings.ca
        self._token: Callable[[], str] = lambda: ""
        if settings.token is not None:
            self._token = settings.token.reveal
        if not server:
            host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
            port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
            if not host:
                raise ConfigError(
                    "auth.kubernetes.server: Almenara does not run in a cluster; name the API"
                    " server here"
                )
            server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
            ca = ca or POD / "ca.crt"
            if settings.token is None:
                # The kubelet rotates it, so it is read each time.
                self._token = lambda: (POD / "token").read_text(encoding="utf-8").strip()
        self._client = httpx.AsyncClient(
            base_url=server,
            transport=BoundedTransport(cluster_context(settings, ca), WHOLE_ANSWER),
            timeout=TIMEOUT, trust_env=False, follow_redirects=False,
        )  # fmt: skip

    async def close(self) -> None:
        """Give up the connections."""
        await self._client.aclose()

    async def person(self, token: str) -> Person | None:
        """Whose token it is; None where it is nobody's. Raises `ClusterError`."""
        spec: dict[str, Any] = {"token": token}
        if self.settings.audiences:
            spec["audiences"] = self.settings.audiences
        status = await self._ask("authentication.k8s.io", "TokenReview", spec)
        user, wanted = status.user, set(self.settings.audiences)
        if not status.authenticated or user is None or not user.username:
            return None
        if wanted and wanted.isdisjoint(status.audiences or ()):
            return None
        return Person(
            name=user.username,
            subject=f"kubernetes:{user.username}",
            groups=tuple(sorted(user.groups or ())),
            uid=user.uid,
            extra=tuple(sorted((name, tuple(it or ())) for name, it in (user.extra or {}).items())),
        )

    async def may(self, person: Person, right: ClusterRight, namespace: str) -> bool:
        """Whether somebody has a right in a namespace, or everywhere for the empty one.

        Raises `ClusterError`.
        """
        attributes = {
            "verb": right.verb, "group": right.group, "resource": right.resource,
            "subresource": right.subresource, "namespace": namespace,
        }  # fmt: skip
        spec = {
            "user": person.name,
            "uid": person.uid,
            "groups": list(person.groups),
            "extra": {name: list(values) for name, values in person.extra},
            "resourceAttributes": attributes,
        }
        status = await self._ask("authorization.k8s.io", "SubjectAccessReview", spec)
        return status.allowed and not status.denied

    async def _ask(self, group: str, kind: str, spec: dict[str, Any]) -> Status:
        body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        headers = {"authorization": f"Bearer {token}"} if (token := await self._own()) else {}
        try:
            async with self._turns:
                response = await self._client.post(
                    f"/apis/{group}/v1/{kind.lower()}s", json=body, headers=headers
                )
            if response.status_code not in (200, 201):
                raise ClusterError(
                    f"the API server answered {response.status_code} to a {kind}; Almenara needs"
                    " the rights of the ClusterRole system:auth-delegator"
                )
            return msgspec.json.decode(response.content, type=Review).status
        except (httpx.HTTPError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ClusterError(f"the API server did not answer a {kind}: {error}") from None

    async def _own(self) -> str:
        try:
            return await asyncio.to_thread(self._token)
        except OSError as error:
            raise ClusterError(f"Almenara's own token cannot be read: {error}") from None


class Reviewed:
    """Answers about tokens, believed for a while."""

    def __init__(self, cluster: Cluster, seconds: float) -> None:
        self.cluster, self.seconds = cluster, seconds
        self._known: OrderedDict[str, tuple[float, Person]] = OrderedDict()

    async def person(self, token: str) -> Person | None:
        """Whose token it is. Raises `ClusterError`."""
        name = digest(token)
        if (known := self._known.get(name)) and time.monotonic() - known[0] < self.seconds:
            return known[1]
        self._known.pop(name, None)
        found = await self.cluster.person(token)
        if found is not None:
            self._known[name] = (time.monotonic(), found)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found


LIST_PODS: Final = ClusterRight(verb="list", resource="pods")
LIST_NODES: Final = ClusterRight(verb="list", resource="nodes")


class Answers(msgspec.Struct, frozen=True):
    """What the API server said of one person's rights."""

    since: float
    asked: frozenset[str]
    """The namespaces that were asked about."""
    seen: frozenset[str]
    """Those of them that they may see, and `CLUSTER` where what belongs to the cluster."""
    rights: frozenset[tuple[str, str]]
    """Further rights, each with the namespace in which they have it."""


class Rights:
    """What somebody may see in the cluster, asked of the API server and believed for a while."""

    def __init__(
        self,
        cluster: Cluster,
        settings: KubernetesAccessSettings,
        namespaces: Callable[[], Iterable[str]],
        taken: Callable[[], Iterable[ClusterRight]],
    ) -> None:
        self.cluster, self.settings = cluster, settings
        self.namespaces, self.taken = namespaces, taken
        """What there is to ask about: namespaces, and the rights that anything takes."""
        self._known: OrderedDict[Person, Answers] = OrderedDict()
        self._asking: dict[Person, asyncio.Lock] = {}

    async def narrowed(self, identity: Identity) -> Identity:
        """The same person, who sees of the cluster what they may list there. Raises
        `ClusterError`."""
        answers = await self._answers(identity.person)
        prefix = self.settings.namespace_prefix
        seen = (f"{prefix}{it}" if it != CLUSTER else prefix.rstrip("/") for it in answers.seen)
        scope = msgspec.structs.replace(
            identity.scope,
            guarded=tuple(sorted(self.settings.sources)),
            namespaces=tuple(sorted(seen)),
            rights=tuple(sorted((right, f"{prefix}{it}") for right, it in answers.rights)),
        )
        return msgspec.structs.replace(identity, scope=scope)

    async def _answers(self, person: Person) -> Answers:
        prefix = self.settings.namespace_prefix
        there = frozenset(
            it.removeprefix(prefix) for it in self.namespaces() if it and it.startswith(prefix)
        )
        # Two requests of one person at once ask once.
        async with self._asking.setdefault(person, asyncio.Lock()):
            known = self._known.get(person)
            if (
                known is None
                or time.monotonic() - known.since >= self.settings.access_review_interval
            ):
                fresh = await self._ask(person, there)
                nodes = await self.cluster.may(person, LIST_NODES, CLUSTER)
                seen = fresh.seen | ({CLUSTER} if nodes else set())
                self._known[person] = known = msgspec.structs.replace(fresh, seen=seen)
                self._known.move_to_end(person)
                while len(self._known) > REMEMBERED:
                    forgotten, _ = self._known.popitem(last=False)
                    self._asking.pop(forgotten, None)
            elif not there <= known.asked:
                more = await self._ask(person, there - known.asked)
                self._known[person] = known = Answers(
                    known.since, known.asked | there, known.seen | more.seen,
                    known.rights | more.rights,
                )  # fmt: skip
        return known

    async def _ask(self, person: Person, names: frozenset[str]) -> Answers:
        since = time.monotonic()
        seen = await self._where(person, LIST_PODS, names)
        rights = {
            (str(right), it)
            for right in self.taken()
            for it in await self._where(person, right, seen)
        }
        return Answers(since, names, seen, frozenset(rights))

    async def _where(
        self, person: Person, right: ClusterRight, names: frozenset[str]
    ) -> frozenset[str]:
        """Those of the namespaces in which somebody has a right."""
        # Who has it everywhere has it in each; that is one question instead of many.
        if not names or await self.cluster.may(person, right, ""):
            return names
        asked = sorted(names)
        answers = await asyncio.gather(*(self.cluster.may(person, right, it) for it in asked))
        return frozenset(it for it, may in zip(asked, answers, strict=True) if may)
