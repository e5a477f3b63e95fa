"""Listing and then watching one kind, through everything that an API server and a network do.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal

import msgspec

from almenara.sdk import Backoff, monotonic, sleep
from almenara_kubernetes.connection import Connection, RefusedError
from almenara_kubernetes.credentials import UnreachableError
from almenara_kubernetes.objects import UNREADABLE, KubernetesObject
from almenara_kubernetes.watched import Watched

STREAMED_LISTS_SINCE: Final = (1, 32)
"""Older servers may take `sendInitialEvents` for nothing, and then never say that it is all."""
INITIAL_END: Final = "k8s.io/initial-events-end"
LONGEST_LINE: Final = 16 * 1024**2
TRIES_FROM_ONE_POSITION: Final = 4
"""Watches from one position that may fail before everything is listed anew."""
CHANGES: Final = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK"})
NOT_FOR_US: Final = frozenset({403, 404, 405})
OVERLOADED: Final = frozenset({401, 429, 503})
"""Answers that say nothing about the position that was asked from."""
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
Standing = Literal["ok", "forbidden", "absent", "failing"]


class Listed(msgspec.Struct, frozen=True):
    """All that there is of a kind in a namespace: what is not among it is gone."""

    objects: Sequence[KubernetesObject]


class Changes(msgspec.Struct, frozen=True):
    """What came since, in order: each object, and whether that was the last of it."""

    changes: Sequence[tuple[KubernetesObject, bool]]


Batch = Listed | Changes
Accept = Callable[[Batch], Awaitable[None]]
Told = Callable[[Standing, str], None]


class ExpiredError(Exception):
    """The position is too old to watch from."""


class BrokenError(Exception):
    """A watch brought what is no change; the text says what."""


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[msgspec.Raw] | None = None


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""
    reason: str = ""


EVENTS: Final = msgspec.json.Decoder(_Event)
LISTS: Final = msgspec.json.Decoder(_List)
ERRORS: Final = msgspec.json.Decoder(_Error)


class Reflector:
    """Keeps whoever accepts its batches at the state of the API server, for one kind.

    `namespace` is empty for all. `told` hears how it stands, whenever that may have changed.
    """

    def __init__(
        self,
        connection: Connection,
        watched: Watched,
        namespace: str,
        accept: Accept,
        told: Told,
        *,
        selector: str = "",
        metadata_only: bool = False,
    ) -> None:
        self.connection, self.watched, self.namespace = connection, watched, namespace
        self.settings = connection.settings
        self.accept, self.told = accept, told
        self.selector, self.metadata_only = selector, metadata_only
        self.position: str | None = None
        """The resourceVersion up to which everything was accepted; None before the list."""
        self.lists = 0
        """How many times everything was listed."""
        self._streamed = True
        self._heard = False

    @property
    def path(self) -> str:
        """Where the API serves the kind."""
        return path_of(self.watched, self.namespace)

    async def run(self) -> None:
        """Reflect, until cancelled."""
        backoff = Backoff(self.settings.backoff_first, self.settings.backoff_limit)
        expiries = Backoff(self.settings.backoff_first, self.settings.backoff_limit)
        expired, tries = -self.settings.backoff_limit, 0
        while True:
            await self.connection.reachable()
            began, error = monotonic(), await self._turn()
            if self._heard:
                backoff.succeeded()
                tries = 0
            wait = 0.0
            if isinstance(error, ExpiredError):
                # The first new list comes at once; a server that expires every one has to wait.
                if monotonic() - expired < self.settings.backoff_limit:
                    wait = expiries.failed()
                else:
                    expiries.succeeded()
                self.position, expired = None, monotonic()
            elif isinstance(error, RefusedError) and error.status in NOT_FOR_US:
                self.position = None
                self.told("forbidden" if error.status == 403 else "absent", str(error))
                wait = self.settings.refused_every * (1 + random.uniform(-0.1, 0.1))  # nosec B311 # spreads requests, guards nothing
            elif error is not None:
                self.told("failing", f"{self.watched.plural}: {error}")
                wait = backoff.failed()
                if isinstance(error, UnreachableError):
                    self.connection.doubt()
                elif not (isinstance(error, RefusedError) and error.status in OVERLOADED):
                    tries += 1
            elif not self._heard and monotonic() - began < self.settings.backoff_first:
                # A server that ends every watch at once would be asked without a pause.
                wait = backoff.failed()
            if tries >= TRIES_FROM_ONE_POSITION:
                self.position, tries = None, 0
            await sleep(wait)

    async def _turn(self) -> Exception | None:
        """List where that is needed, and watch until the watch ends; what it ended with."""
        self._heard = False
        try:
            await self._list_and_watch()
        except (ExpiredError, RefusedError, UnreachableError, BrokenError) as error:
            return error
        return None

    async def _list_and_watch(self) -> None:
        if self.position is not None:
            await self._watch(self._parameters(self.position))
            return
        if self._streamed and self.connection.version >= STREAMED_LISTS_SINCE:
            try:
                await self._watch(
                    {
                        **self._parameters(""),
                        "sendInitialEvents": "true",
                        "resourceVersionMatch": "NotOlderThan",
                    },
                    initial=True,
                )
            except RefusedError as error:
                if error.status not in (400, 406, 422):
                    raise
                self._streamed = False
            else:
                return
        async with self.connection.lists:
            await self._list()

    def _parameters(self, position: str) -> dict[str, str]:
        seconds = self.settings.watch_seconds * (1 + random.uniform(-0.1, 0.1))  # nosec B311 # spreads requests, guards nothing
        found = {
            "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": f"{seconds:.0f}",
            "resourceVersion": position,
        }  # fmt: skip
        if self.selector:
            found["labelSelector"] = self.selector
        return found

    async def _list(self) -> None:
        objects, position = await self._pages(self.settings.page)
        await self._listed(objects, position)

    async def _listed(self, objects: Sequence[KubernetesObject], position: str) -> None:
        self.lists += 1
        await self.accept(Listed(objects))
        self.position = position
        self._heard = True
        self.told("ok", "")

    async def _pages(self, limit: int) -> tuple[list[KubernetesObject], str]:
        try:
            return await pages(
                self.connection, self.watched, self.namespace,
                limit=limit, selector=self.selector, metadata_only=self.metadata_only,
            )  # fmt: skip
        except RefusedError as error:
            # The pages took so long that the rest of them is not known any more: all in one, then.
            if error.status != 410 or not limit:
                raise
            return await self._pages(0)

    async def _watch(self, parameters: dict[str, str], *, initial: bool = False) -> None:
        if initial:
            # Whoever lists holds the turn until all of it is there.
            await self.connection.lists.acquire()
        holds = initial
        found: list[KubernetesObject] | None = [] if initial else None
        accept = METADATA_ONLY if self.metadata_only else ""
        try:
            async with self.connection.stream(
                self.path, parameters, silence=self.settings.silence, accept=accept
            ) as stream:
                if not initial:
                    self.told("ok", "")
                rest = b""
                async for chunk in stream.chunks():
                    lines = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
                    rest = lines.pop()
                    if len(rest) > LONGEST_LINE:
                        raise BrokenError(f"a change of {self.watched.plural} has no end")
                    found = await self._take(lines, found)
                    if holds and found is None:
                        self.connection.lists.release()
                        holds = False
            if found is not None:
                raise BrokenError(f"the list of {self.watched.plural} broke off")
        except RefusedError as error:
            if error.status == 410:
                raise ExpiredError from None
            raise
        finally:
            if holds:
                self.connection.lists.release()

    async def _take(
        self, lines: Sequence[bytes], found: list[KubernetesObject] | None
    ) -> list[KubernetesObject] | None:
        """Take lines in; `found` is what there is of a list that is not whole yet."""
        changes: list[tuple[KubernetesObject, bool]] = []
        position = self.position
        error: Exception | None = None
        for line in lines:
            if not line.strip():
                continue
            event = _event(line, self.watched)
            if isinstance(event, Exception):
                error = event
                break
            thing = self.watched.decode(event.object)
            if event.type == "BOOKMARK":
                version = thing.metadata.resource_version
                if found is not None and thing.metadata.annotations.get(INITIAL_END) == "true":
                    await self._listed(found, version)
                    found = None
                position = version or position
            elif found is not None:
                found.append(thing)
            else:
                changes.append((thing, event.type == "DELETED"))
                position = thing.metadata.resource_version or position
        if changes:
            await self.accept(Changes(changes))
        if found is None:
            self._heard = self._heard or position != self.position
            self.position = position
        if error is not None:
            raise error
        return found


def _event(line: bytes, watched: Watched) -> _Event | Exception:
    """The change in a line of a watch, or what is wrong with it."""
    try:
        event = EVENTS.decode(line)
    except UNREADABLE:
        shown = line[:80].decode("utf-8", "replace")
        return BrokenError(f"a watch of {watched.plural} brought what is no change: {shown!r}")
    if event.type == "ERROR":
        return _told_error(event.object, watched)
    if event.type not in CHANGES:
        return BrokenError(f"a watch of {watched.plural} brought a {event.type[:40]!r}")
    return event


def _told_error(body: msgspec.Raw, watched: Watched) -> Exception:
    """What an error inside of a watch means."""
    try:
        status = ERRORS.decode(body)
    except UNREADABLE:
        return BrokenError(f"a watch of {watched.plural} ended with an error nobody can read")
    if status.code == 410 or status.reason in ("Expired", "Gone"):
        return ExpiredError()
    return RefusedError(status.code, status.reason, status.message or "the watch failed")


def path_of(watched: Watched, namespace: str) -> str:
    """Where the API serves a kind, in a namespace or, where that is empty, in all."""
    inside = f"/namespaces/{namespace}" if namespace and watched.namespaced else ""
    return f"{watched.path}{inside}/{watched.plural}"


async def pages(
    connection: Connection,
    watched: Watched,
    namespace: str,
    *,
    limit: int,
    selector: str = "",
    metadata_only: bool = False,
) -> tuple[list[KubernetesObject], str]:
    """All objects of a kind, page by page, and the resourceVersion they are of.

    Raises `RefusedError`, `UnreachableError` and `BrokenError`.
    """
    objects: list[KubernetesObject] = []
    parameters: dict[str, Any] = {"limit": str(limit)} if limit else {}
    if selector:
        parameters["labelSelector"] = selector
    accept = METADATA_LIST if metadata_only else ""
    while True:
        body = await connection.get(path_of(watched, namespace), parameters, accept=accept)
        try:
            page = LISTS.decode(body)
        except UNREADABLE:
            raise BrokenError(f"the list of {watched.plural} is no list") from None
        objects += [watched.decode(raw) for raw in page.items or ()]
        if not page.metadata.continue_:
            return objects, page.metadata.resource_version
        parameters["continue"] = page.metadata.continue_
