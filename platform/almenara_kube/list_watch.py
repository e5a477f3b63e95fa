"""Listing and then watching one kind, through everything that an API server and a network do.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal

import msgspec

from almenara.sdk import Backoff, ExpiredError, monotonic, sleep
from almenara_kube.client import ApiClient
from almenara_kube.errors import ApiError, ProtocolError, SilentError, UnreachableError
from almenara_kube.kinds import WatchedKind
from almenara_kube.objects import DECODE_ERRORS, KubernetesObject
from almenara_kube.transport import AnswerTooLongError

STREAMED_LISTS_SINCE: Final = (1, 32)
"""Older servers may ignore `sendInitialEvents`, and then never mark the end of the list."""
LIST_SILENCE: Final = 10.0
"""Seconds without any data after which a streamed list is given up."""
FAILED_STREAMED_LISTS: Final = 2
"""Kinds whose streamed list did not end, from which on no further kind tries one."""
INITIAL_END: Final = "k8s.io/initial-events-end"
LONGEST_LINE: Final = 16 * 1024**2
TRIES_FROM_ONE_POSITION: Final = 4
"""Watches from one position that may fail before everything is listed again."""
CHANGES: Final = frozenset({"ADDED", "MODIFIED", "DELETED", "BOOKMARK"})
NOT_SERVED: Final = frozenset({403, 404, 405})
ABSENT: Final = 404
ABSENCES: Final = 2
"""Refusals one after another after which a kind that is not served has no objects: a server that is
starting may not serve custom resources yet."""
OVERLOADED: Final = frozenset({401, 429, 503})
"""Answers that say nothing about the position of the request."""
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
WatchStatus = Literal["ok", "pending", "forbidden", "absent", "failing"]
"""`pending` until the first list is complete; `absent` where the cluster does not serve it."""


class Listing(msgspec.Struct, frozen=True):
    """All objects of a kind in a namespace: those that are not among them are deleted."""

    objects: Sequence[KubernetesObject]
    is_watched: bool = True
    """Whether changes follow; otherwise there are no objects because the kind is not served, or is
    not watched any more."""


class Changes(msgspec.Struct, frozen=True):
    """The changes since, in order: each object, and whether it was deleted."""

    changes: Sequence[tuple[KubernetesObject, bool]]


Batch = Listing | Changes
Accept = Callable[[Batch], Awaitable[None]]
OnStatus = Callable[[WatchStatus, str], None]
"""Called with the status of a watch and its reason, whenever either may have changed."""


class _WatchEvent(msgspec.Struct):
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


EVENT_DECODER: Final = msgspec.json.Decoder(_WatchEvent)
LIST_DECODER: Final = msgspec.json.Decoder(_List)
ERROR_DECODER: Final = msgspec.json.Decoder(_Error)


class UnendedListError(Exception):
    """A streamed list was not ended by its bookmark."""


class StreamedList:
    """The objects of a streamed list that is not complete yet.

    Changes that happen meanwhile arrive among them: the last one of an object counts.
    """

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], KubernetesObject] = {}
        self._nameless: list[KubernetesObject] = []
        """Objects whose name cannot be read."""

    @property
    def objects(self) -> Sequence[KubernetesObject]:
        """The objects that exist."""
        return [*self._objects.values(), *self._nameless]

    def apply(self, obj: KubernetesObject, *, is_deleted: bool) -> None:
        """Add, replace or remove an object."""
        key = obj.metadata.namespace, obj.metadata.name
        if not key[1]:
            self._nameless.append(obj)
        elif is_deleted:
            self._objects.pop(key, None)
        else:
            self._objects[key] = obj


class ListTurn:
    """A turn to list, held until the list is complete or for `LIMIT` seconds.

    One list that hangs does not keep the other kinds waiting.
    """

    LIMIT: Final = 3.0

    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "ListTurn":
        await self._turns.acquire()
        self._timer = asyncio.get_running_loop().call_later(self.LIMIT, self.end)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the turn; another one may begin."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._turns.release()


class Reflector:
    """Passes on the state of one kind in the API server, and then each change of it.

    `namespace` is empty for all of them. The first batch is a `Listing`; further ones replace it
    whenever the position in the change log is lost. `on_status` reports how that goes.
    """

    def __init__(
        self,
        client: ApiClient,
        kind: WatchedKind,
        namespace: str,
        accept: Accept,
        on_status: OnStatus,
        *,
        selector: str = "",
        metadata_only: bool = False,
    ) -> None:
        self.client, self.kind, self.namespace = client, kind, namespace
        self.settings = client.settings
        self.accept, self.on_status = accept, on_status
        self.selector, self.metadata_only = selector, metadata_only
        self.position: str | None = None
        """The resourceVersion up to which everything was accepted; None before the list."""
        self.lists = 0
        """How many times everything was listed."""
        self._is_streamed = True
        self._has_progressed = False
        self._absences = 0

    async def run(self) -> None:
        """Reflect, until cancelled."""
        self.on_status("pending", f"{self.kind.plural}: not listed yet")
        backoff = Backoff(self.settings.backoff_first, self.settings.backoff_limit)
        expiries = Backoff(self.settings.backoff_first, self.settings.backoff_limit)
        expired_at, tries = -self.settings.backoff_limit, 0
        while True:
            await self.client.wait_until_reachable()
            started, error = monotonic(), await self._run_once()
            if self._has_progressed:
                backoff.succeeded()
                tries = self._absences = 0
            wait = 0.0
            if isinstance(error, ExpiredError):
                # The first new list comes at once; a server that expires every one has to wait.
                if monotonic() - expired_at < self.settings.backoff_limit:
                    wait = expiries.failed()
                else:
                    expiries.succeeded()
                self.position, expired_at = None, monotonic()
            elif isinstance(error, ApiError) and error.status in NOT_SERVED:
                self.position = None
                await self._note_absence(error)
                self.on_status("forbidden" if error.status == 403 else "absent", str(error))
                wait = self.settings.refused_every * (1 + random.uniform(-0.1, 0.1))  # nosec B311 # spreads requests, guards nothing
            elif error is not None:
                self.on_status("failing", f"{self.kind.plural}: {error}")
                wait = backoff.failed()
                if isinstance(error, UnreachableError):
                    self.client.request_probe()
                elif not (isinstance(error, ApiError) and error.status in OVERLOADED):
                    tries += 1
            elif not self._has_progressed and monotonic() - started < self.settings.backoff_first:
                # A server that ends every watch at once would otherwise get requests without a
                # pause.
                wait = backoff.failed()
            if tries >= TRIES_FROM_ONE_POSITION:
                self.position, tries = None, 0
            await sleep(wait)

    async def _note_absence(self, error: ApiError) -> None:
        """Pass on that there are no objects, once the cluster does not serve the kind any more:
        those of a custom resource are deleted with its definition."""
        self._absences = self._absences + 1 if error.status == ABSENT else 0
        if self._absences == ABSENCES:
            await self.accept(Listing((), is_watched=False))

    async def _run_once(self) -> Exception | None:
        """List where that is needed, and watch until the watch ends; return what it ended with."""
        self._has_progressed = False
        try:
            await self._list_and_watch()
        except (ExpiredError, ApiError, UnreachableError, ProtocolError) as error:
            return error
        return None

    async def _list_and_watch(self) -> None:
        if self.position is not None:
            await self._watch(self._parameters(self.position))
            return
        async with ListTurn(self.client.list_turns) as turn:
            if self._uses_streamed_list() and await self._watch_from_list(turn):
                return
            await self._list()

    def _uses_streamed_list(self) -> bool:
        return (
            self._is_streamed
            and self.client.version >= STREAMED_LISTS_SINCE
            and self.client.failed_streamed_lists < FAILED_STREAMED_LISTS
        )

    async def _watch_from_list(self, turn: "ListTurn") -> bool:
        """Watch from the list that the server streams; return whether it does.

        A proxy or an aggregated API may drop the bookmark that ends the list, so that it has no
        end: it is given up after a while, and pages are requested instead.
        """
        parameters = {
            **self._parameters(""),
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
        }
        try:
            await self._watch(parameters, turn)
        except ApiError as error:
            if error.status not in (400, 406, 422):
                raise
        except UnendedListError:
            self.client.failed_streamed_lists += 1
        else:
            return True
        self._is_streamed = False
        return False

    def _parameters(self, position: str) -> dict[str, str]:
        seconds = self.settings.watch_seconds * (1 + random.uniform(-0.1, 0.1))  # nosec B311 # spreads requests, guards nothing
        parameters = {
            "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": f"{seconds:.0f}",
            "resourceVersion": position,
        }  # fmt: skip
        if self.selector:
            parameters["labelSelector"] = self.selector
        return parameters

    async def _list(self) -> None:
        objects, position = await self._list_pages(self.settings.page)
        await self._accept_listing(objects, position)

    async def _accept_listing(self, objects: Sequence[KubernetesObject], position: str) -> None:
        self.lists += 1
        await self.accept(Listing(objects))
        self.position = position
        self._has_progressed = True
        self.on_status("ok", "")

    async def _list_pages(self, limit: int) -> tuple[list[KubernetesObject], str]:
        try:
            return await list_pages(
                self.client, self.kind, self.namespace,
                limit=limit, selector=self.selector, metadata_only=self.metadata_only,
            )  # fmt: skip
        except ApiError as error:
            # The pages took so long that the rest of them has expired: all in one, then.
            if error.status != 410 or not limit:
                raise
            return await self._list_pages(0)

    async def _watch(self, parameters: dict[str, str], turn: "ListTurn | None" = None) -> None:
        """Watch until the watch ends. With a turn it begins with the list of all objects, and the
        turn ends with that."""
        listed = StreamedList() if turn is not None else None
        silence = self.settings.silence
        limit = self.settings.answer_timeout if turn is not None else None
        try:
            async with (
                asyncio.timeout(limit) as bound,
                self.client.stream(
                    self.kind.path_in(self.namespace), parameters,
                    silence=silence if turn is None else min(LIST_SILENCE, silence),
                    accept=METADATA_ONLY if self.metadata_only else "",
                ) as stream,
            ):  # fmt: skip
                if turn is None:
                    self.on_status("ok", "")
                rest = b""
                async for chunk in stream.chunks():
                    lines = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
                    rest = lines.pop()
                    if len(rest) > LONGEST_LINE:
                        raise ProtocolError(f"a change of {self.kind.plural} has no end")
                    listed = await self._take_lines(lines, listed)
                    if turn is not None and listed is None:
                        turn.end()
                        turn = None
                        bound.reschedule(None)
                        stream.silence = silence
            if listed is not None:
                raise ProtocolError(f"the list of {self.kind.plural} broke off")
        except ApiError as error:
            if error.status == 410:
                raise ExpiredError from None
            raise
        except (TimeoutError, SilentError) as error:
            # An API server that does not answer at all sends no other list either.
            if turn is None or not self.client.is_reachable:
                if isinstance(error, SilentError):
                    raise
                raise UnreachableError(f"the list of {self.kind.plural} did not end") from None
            raise UnendedListError from None

    async def _take_lines(
        self, lines: Sequence[bytes], listed: StreamedList | None
    ) -> StreamedList | None:
        """Take in lines of a watch. `listed` collects a list that is not complete yet, and is None
        from its end on."""
        changes: list[tuple[KubernetesObject, bool]] = []
        position = self.position
        error: Exception | None = None
        for line in lines:
            if not line.strip():
                continue
            event = _decode_event(line, self.kind)
            if isinstance(event, Exception):
                error = event
                break
            decoded = self.kind.decode(event.object)
            version, is_deleted = decoded.metadata.resource_version, event.type == "DELETED"
            if listed is None and _is_older(version, position):
                # The server was restored from a backup, or is another one: it does not send what
                # it holds, nor what it lacks, to a watch from a position that it has not reached.
                error = ExpiredError()
                break
            if event.type == "BOOKMARK":
                if listed is not None and decoded.metadata.annotations.get(INITIAL_END) == "true":
                    await self._accept_listing(listed.objects, version)
                    listed = None
                position = version or position
            elif listed is not None:
                listed.apply(decoded, is_deleted=is_deleted)
            else:
                changes.append((decoded, is_deleted))
                position = version or position
        if changes:
            await self.accept(Changes(changes))
        if listed is None:
            self._has_progressed = self._has_progressed or position != self.position
            self.position = position
        if error is not None:
            raise error
        return listed


def _is_older(version: str, position: str | None) -> bool:
    """Whether a resourceVersion is before a position; those of the API server are numbers that
    grow (KEP-5504)."""
    if not version.isdecimal() or position is None or not position.isdecimal():
        return False
    return int(version) < int(position)


def _decode_event(line: bytes, kind: WatchedKind) -> _WatchEvent | Exception:
    """The change in a line of a watch, or the error that it means."""
    try:
        event = EVENT_DECODER.decode(line)
    except DECODE_ERRORS:
        start = line[:80].decode("utf-8", "replace")
        return ProtocolError(f"a watch of {kind.plural} sent a line that is no change: {start!r}")
    if event.type == "ERROR":
        return _decode_error(event.object, kind)
    if event.type not in CHANGES:
        return ProtocolError(f"a watch of {kind.plural} sent the unknown type {event.type[:40]!r}")
    return event


def _decode_error(body: msgspec.Raw, kind: WatchedKind) -> Exception:
    """The meaning of an error inside of a watch."""
    try:
        status = ERROR_DECODER.decode(body)
    except DECODE_ERRORS:
        return ProtocolError(f"a watch of {kind.plural} ended with an error that cannot be read")
    if status.code == 410 or status.reason in ("Expired", "Gone"):
        return ExpiredError()
    return ApiError(status.code, status.reason, status.message or "the watch failed")


async def list_pages(
    client: ApiClient,
    kind: WatchedKind,
    namespace: str,
    *,
    limit: int,
    selector: str = "",
    metadata_only: bool = False,
) -> tuple[list[KubernetesObject], str]:
    """List all objects of a kind, page by page; return them and their resourceVersion.

    Raises `ApiError`, `UnreachableError` and `ProtocolError`.
    """
    objects: list[KubernetesObject] = []
    parameters: dict[str, Any] = {"limit": str(limit)} if limit else {}
    if selector:
        parameters["labelSelector"] = selector
    accept = METADATA_LIST if metadata_only else ""
    while True:
        try:
            body = await client.get(kind.path_in(namespace), parameters, accept=accept)
        except AnswerTooLongError:
            # Objects of a kind may be large; half as many of them may fit.
            size = int(parameters.get("limit", "0"))
            if size < 2:
                raise
            parameters["limit"] = str(size // 2)
            continue
        try:
            page = LIST_DECODER.decode(body)
        except DECODE_ERRORS:
            raise ProtocolError(f"the list of {kind.plural} is not a list") from None
        objects += [kind.decode(raw) for raw in page.items or ()]
        if not page.metadata.continue_:
            return objects, page.metadata.resource_version
        parameters["continue"] = page.metadata.continue_
