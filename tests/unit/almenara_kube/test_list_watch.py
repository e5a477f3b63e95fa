"""Listing and watching whatever bytes an API server sends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

from almenara.sdk import ExpiredError
from almenara_kube.client import ApiClient
from almenara_kube.credentials import CredentialLoader
from almenara_kube.errors import ApiError, ProtocolError
from almenara_kube.list_watch import (
    INITIAL_END,
    Batch,
    Changes,
    Listing,
    ListTurn,
    Reflector,
    list_pages,
)
from almenara_kube.objects import KubernetesObject
from almenara_kube.settings import ClientSettings, KubeContext
from almenara_kubernetes.kinds import PODS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("type", "object", "metadata", "spec", "code", "reason", "extra")),
            inner, max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip
DEEP = b'{"type":"ADDED","object":' + b"[" * 5_000 + b"]" * 5_000 + b"}"


def change(number: int, kind: str = "MODIFIED", **more: Any) -> bytes:
    metadata = {"name": f"pod-{number}", "namespace": "shop", "resourceVersion": str(number)}
    return msgspec.json.encode({"type": kind, "object": {"metadata": metadata, **more}})


def garbled(line: bytes, place: int) -> bytes:
    """The line, cut within its bytes, those of a letter among them."""
    return line[: max(1, place % len(line))]


def sort_changes(lines: list[bytes]) -> list[bytes]:
    """The changes as an API server sends them, the oldest first."""
    return sorted(
        lines,
        key=lambda each: int(msgspec.json.decode(each)["object"]["metadata"]["resourceVersion"]),
    )


CHANGE = st.builds(
    change,
    st.integers(1, 99),
    st.sampled_from(("ADDED", "MODIFIED", "DELETED")),
    status=JSON, spec=JSON, somethingNew=JSON,
)  # fmt: skip
GARBAGE = (
    st.binary(max_size=60)
    | st.builds(garbled, st.just(change(7, status={"phase": "\u00dcn\U0001f600"})), st.integers())
    | st.builds(msgspec.json.encode, JSON)
    | st.builds(
        lambda code, reason: msgspec.json.encode(
            {"type": "ERROR", "object": {"code": code, "reason": reason}}
        ),
        st.sampled_from((0, 410, 429, 500)) | JSON,
        st.sampled_from(("", "Expired")) | JSON,
    )
    | st.sampled_from(
        (DEEP, b'{"type":"\xff","object":{}}', b'{"type":"ADDED"}', b"\xef\xbb\xbf{}")
    )
).filter(lambda each: b"\n" not in each)


class OneAnswer(ApiClient):
    """A connection on which these bytes come, and end."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        super().__init__(CredentialLoader(KubeContext()).load)
        self.parts = chunks

    async def get(self, *_: Any, **__: Any) -> bytes:
        return b"".join(self.parts)

    @contextlib.asynccontextmanager
    async def stream(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        parts = self.parts

        class Coming:
            async def chunks(self) -> AsyncIterator[bytes]:
                for each in parts:
                    yield each

        yield Coming()


class ScriptedLists(ApiClient):
    """A server with one pod while its last answer is 200, and that refuses with any other; watches
    end at once."""

    def __init__(self, *answers: int) -> None:
        settings = ClientSettings(refused_every=0.01, backoff_first=0.01)
        super().__init__(CredentialLoader(KubeContext()).load, settings)
        self._answers = list(answers)
        self.is_done = asyncio.Event()
        self._reachable.set()

    async def get(self, *_: Any, **__: Any) -> bytes:
        if not self._answers:
            self.is_done.set()
            await asyncio.Event().wait()
        if (status := self._answers.pop(0)) != 200:
            raise ApiError(status, "", "refused")
        metadata = {"name": "one", "namespace": "shop", "resourceVersion": "1"}
        items = [{"metadata": metadata}]
        return msgspec.json.encode({"metadata": {"resourceVersion": "1"}, "items": items})

    @contextlib.asynccontextmanager
    async def stream(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise ApiError(404, "", "refused")
        yield


def in_parts(whole: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({each % (len(whole) + 1) for each in cuts} | {0, len(whole)})
    return [whole[first:last] for first, last in pairwise(places)]


def watched(chunks: Sequence[bytes]) -> tuple[list[tuple[KubernetesObject, bool]], Any, str | None]:
    """The changes that a watch of these bytes brings, what it ends with, and where it then is."""
    taken: list[tuple[KubernetesObject, bool]] = []

    async def accept(batch: Batch) -> None:
        assert isinstance(batch, Changes)
        taken.extend(batch.changes)

    async def watch() -> tuple[Any, str | None]:
        reflector = Reflector(OneAnswer(chunks), PODS, "", accept, lambda *_: None)
        reflector.position = "0"
        error: Exception | None = None
        try:
            await reflector._watch(reflector._parameters("0"))
        except (ProtocolError, ExpiredError, ApiError) as caught:
            error = caught
        return error, reflector.position

    error, position = asyncio.run(watch())
    return taken, error, position


@given(
    good=st.lists(CHANGE, max_size=4).map(sort_changes),
    garbage=GARBAGE,
    cuts=st.lists(st.integers(0, 10_000), max_size=6),
)
@example(good=[change(1), change(2)], garbage=b"{nonsense", cuts=[30])
@example(good=[change(1)], garbage=DEEP, cuts=[])
@settings(max_examples=300, deadline=None)
def test_watch_accepts_changes_before_garbage_and_skips_nothing(
    good: list[bytes], garbage: bytes, cuts: list[int]
) -> None:
    behind = change(100)
    whole = b"".join(line + b"\n" for line in (*good, garbage, behind))

    taken, error, position = watched(in_parts(whole, cuts))

    names = [each.metadata.name for each, _ in taken]
    expected = [msgspec.json.decode(each)["object"]["metadata"] for each in good]
    assert names[: len(good)] == [each["name"] for each in expected]
    if error is None:
        # It was a change after all, or an empty line: then what is behind it was taken in as well.
        assert (names[-1], position) == ("pod-100", "100")
    else:
        # The next watch begins before the garbage, so that nothing is left out.
        assert len(names) == len(good)
        assert position == (expected[-1]["resourceVersion"] if expected else "0")
        assert str(error) or isinstance(error, ExpiredError)
        assert len(str(error)) < 1_000


@pytest.mark.parametrize("kind", ["MODIFIED", "BOOKMARK"])
def test_watch_of_a_server_that_was_restored_expires(kind: str) -> None:
    taken, error, position = watched([change(9) + b"\n", change(8, kind) + b"\n"])
    assert [each.metadata.name for each, _ in taken] == ["pod-9"]
    assert isinstance(error, ExpiredError)
    assert position == "9"


def test_watch_gives_up_a_line_without_end() -> None:
    taken, error, position = watched([change(1) + b"\n", *[b"x" * 1024**2] * 17])

    assert [each.metadata.name for each, _ in taken] == ["pod-1"]
    assert isinstance(error, ProtocolError)
    assert (str(error), position) == ("a change of pods has no end", "1")


def stream_list(*lines: bytes) -> list[Batch]:
    """The batches that a streamed list of these lines, each in a chunk of its own, brings."""
    batches: list[Batch] = []

    async def accept(batch: Batch) -> None:
        batches.append(batch)

    async def watch() -> str | None:
        client = OneAnswer([line + b"\n" for line in lines])
        reflector = Reflector(client, PODS, "", accept, lambda *_: None)
        async with ListTurn(client.list_turns) as turn:
            await reflector._watch(reflector._parameters(""), turn)
        return reflector.position

    assert asyncio.run(watch()) == "50"
    return batches


def end_of_list(version: int) -> bytes:
    metadata = {"resourceVersion": str(version), "annotations": {INITIAL_END: "true"}}
    return msgspec.json.encode({"type": "BOOKMARK", "object": {"metadata": metadata}})


def described(objects: Sequence[KubernetesObject]) -> list[tuple[str, str]]:
    return [(each.metadata.name, each.metadata.resource_version) for each in objects]


def test_streamed_list_has_the_last_state_of_objects_that_change_meanwhile() -> None:
    def state(name: str, version: int, kind: str) -> bytes:
        return change(version, kind).replace(f"pod-{version}".encode(), name.encode())

    batches = stream_list(
        state("deleted", 1, "ADDED"), state("kept", 2, "ADDED"), state("modified", 3, "ADDED"),
        state("recreated", 4, "ADDED"), state("deleted", 5, "DELETED"),
        state("modified", 6, "MODIFIED"), state("recreated", 7, "DELETED"),
        state("recreated", 8, "ADDED"), state("never listed", 9, "DELETED"), end_of_list(10),
        state("kept", 50, "DELETED"),
    )  # fmt: skip

    listing, changes = batches
    assert isinstance(listing, Listing)
    assert isinstance(changes, Changes)
    assert described(listing.objects) == [("kept", "2"), ("modified", "6"), ("recreated", "8")]
    assert [(each.metadata.name, is_deleted) for each, is_deleted in changes.changes] == [
        ("kept", True)
    ]


def test_streamed_list_has_every_object_whose_name_cannot_be_read() -> None:
    nameless = b'{"type": "ADDED", "object": {"metadata": 5}}'

    (listing,) = stream_list(nameless, change(1, "ADDED"), nameless, end_of_list(50))

    assert isinstance(listing, Listing)
    assert described(listing.objects) == [("pod-1", "1"), ("", ""), ("", "")]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        # The 404 of the watch that follows a list is the first of two.
        ((200, 404), [1, 0]),
        ((404, 404, 404), [0]),
        ((404, 200, 403, 404, 200), [1, 1]),
    ],
)
def test_objects_of_a_kind_that_is_not_served_any_more_are_deleted(
    answers: tuple[int, ...], expected: list[int]
) -> None:
    listed: list[int] = []

    async def accept(batch: Batch) -> None:
        assert isinstance(batch, Listing)
        listed.append(len(batch.objects))

    async def reflect() -> None:
        client = ScriptedLists(*answers)
        reflector = Reflector(client, PODS, "", accept, lambda *_: None)
        task = asyncio.create_task(reflector.run())
        async with asyncio.timeout(10):
            await client.is_done.wait()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(reflect())
    assert listed == expected


@given(body=st.binary(max_size=80) | st.builds(msgspec.json.encode, JSON | st.fixed_dictionaries(
    {"metadata": JSON, "items": st.lists(JSON, max_size=3) | JSON})))  # fmt: skip
@example(body=b'{"items":' + b"[" * 5_000 + b"]" * 5_000 + b"}")
@example(body=b'{"metadata":{"continue":"\xff"},"items":[]}')
@settings(max_examples=200, deadline=None)
def test_list_pages_reads_or_rejects_any_bytes(body: bytes) -> None:
    async def read() -> None:
        with contextlib.suppress(ProtocolError):
            # A list that always continues would be requested without end.
            async with asyncio.timeout(0.05):
                await list_pages(OneAnswer([body]), PODS, "", limit=500)

    with contextlib.suppress(TimeoutError):
        asyncio.run(read())
