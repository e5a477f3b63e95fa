"""Whatever comes over the wire of an API server: lines of watches and logs, quantities, times."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from almenara.sdk import ExpiredError
from almenara_kube.client import ApiClient
from almenara_kube.credentials import CredentialLoader
from almenara_kube.errors import ApiError, ProtocolError
from almenara_kube.list_watch import Batch, Changes, Reflector, list_pages
from almenara_kube.objects import KubernetesObject
from almenara_kube.settings import KubeContext
from almenara_kubernetes.logs import LONGEST_LINE, _Seen
from almenara_kubernetes.quantities import SUFFIXES, moment, quantity
from almenara_kubernetes.watched import PODS

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
).filter(lambda it: b"\n" not in it)


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
                for it in parts:
                    yield it

        yield Coming()


def in_parts(whole: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({it % (len(whole) + 1) for it in cuts} | {0, len(whole)})
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
    good=st.lists(CHANGE, max_size=4),
    garbage=GARBAGE,
    cuts=st.lists(st.integers(0, 10_000), max_size=6),
)
@example(good=[change(1), change(2)], garbage=b"{nonsense", cuts=[30])
@example(good=[change(1)], garbage=DEEP, cuts=[])
@settings(max_examples=300, deadline=None)
def test_what_a_kubernetes_watch_brings_before_garbage_is_taken_in_and_nothing_is_skipped(
    good: list[bytes], garbage: bytes, cuts: list[int]
) -> None:
    behind = change(100)
    whole = b"".join(line + b"\n" for line in (*good, garbage, behind))

    taken, error, position = watched(in_parts(whole, cuts))

    names = [it.metadata.name for it, _ in taken]
    expected = [msgspec.json.decode(it)["object"]["metadata"] for it in good]
    assert names[: len(good)] == [it["name"] for it in expected]
    if error is None:
        # It was a change after all, or an empty line: then what is behind it was taken in as well.
        assert (names[-1], position) == ("pod-100", "100")
    else:
        # The next watch begins before the garbage, so that nothing is left out.
        assert len(names) == len(good)
        assert position == (expected[-1]["resourceVersion"] if expected else "0")
        assert str(error) or isinstance(error, ExpiredError)
        assert len(str(error)) < 1_000


def test_a_kubernetes_watch_that_brings_a_line_without_end_is_given_up() -> None:
    taken, error, position = watched([change(1) + b"\n", *[b"x" * 1024**2] * 17])

    assert [it.metadata.name for it, _ in taken] == ["pod-1"]
    assert isinstance(error, ProtocolError)
    assert (str(error), position) == ("a change of pods has no end", "1")


@given(body=st.binary(max_size=80) | st.builds(msgspec.json.encode, JSON | st.fixed_dictionaries(
    {"metadata": JSON, "items": st.lists(JSON, max_size=3) | JSON})))  # fmt: skip
@example(body=b'{"items":' + b"[" * 5_000 + b"]" * 5_000 + b"}")
@example(body=b'{"metadata":{"continue":"\xff"},"items":[]}')
@settings(max_examples=200, deadline=None)
def test_whatever_a_kubernetes_list_is_it_is_read_or_told_as_none(body: bytes) -> None:
    async def read() -> None:
        with contextlib.suppress(ProtocolError):
            # A list that always says that it goes on is asked for once more, and then enough.
            async with asyncio.timeout(0.05):
                await list_pages(OneAnswer([body]), PODS, "", limit=500)

    with contextlib.suppress(TimeoutError):
        asyncio.run(read())


STAMP = st.builds(
    lambda seconds, nanos: f"2026-01-01T00:00:{seconds:02}.{nanos:09}".rstrip("0").encode() + b"Z",
    st.integers(0, 59), st.integers(1, 999_999_999),
)  # fmt: skip
LINE = st.binary(max_size=80) | st.builds(lambda *it: b" ".join(it), STAMP, st.binary(max_size=40))


@given(lines=st.lists(LINE, max_size=12))
@example(lines=[b"", b" ", b"\xff\xfe", b"9999-99-99T00:00:00Z x", b"0001-01-01T00:00:00-23:59 x"])
@example(lines=["2026-01-01T00:00:00.5Z \u00fcber".encode()[:-4]])
@settings(max_examples=300, deadline=None)
def test_whatever_is_in_a_log_each_line_of_it_is_shown_once_and_can_be_written(
    lines: list[bytes],
) -> None:
    seen = _Seen()
    shown = [it for raw in lines if (it := seen.new(raw, "main")) is not None]

    msgspec.json.encode(shown)
    assert len(shown) == len(lines)
    assert all(len(it.text) <= LONGEST_LINE for it in shown)
    # Gone on with from the second of the newest: what of it was shown is not shown again, what is
    # new is. What has no time may be new, and is shown.
    for _ in range(2):
        seen.resumed()
        newest = seen.time // 1_000_000
        for raw, before in zip(lines, shown, strict=True):
            if before.time is not None and before.time // 1_000_000 >= newest:
                assert seen.new(raw, "main") is None
    new = b"2026-01-01T00:00:59.5Z one that comes later"
    assert seen.new(new, "main") is not None
    assert seen.new(new, "main") is not None


def test_a_huge_line_of_a_log_is_shown_up_to_its_bound() -> None:
    line = _Seen().new(b"2026-01-01T00:00:00Z " + b"\xc3\xbc" * 10**6, "")

    assert line is not None
    assert len(line.text) <= LONGEST_LINE


@given(
    number=st.decimals(-(10**6), 10**6, places=3), suffix=st.sampled_from(sorted(SUFFIXES)),
    exponent=st.none() | st.integers(-9, 9),
)  # fmt: skip
def test_every_quantity_of_kubernetes_means_its_number(
    number: Any, suffix: str, exponent: int | None
) -> None:
    written = f"{number}{suffix if exponent is None else f'e{exponent}'}"
    factor = SUFFIXES[suffix] if exponent is None else 10.0**exponent

    found = quantity(written)

    assert found is not None
    assert math.isclose(found, float(number) * factor, rel_tol=1e-12, abs_tol=1e-30)


@given(written=st.text(max_size=12) | st.from_regex(r"[0-9.eE+\-kKMGmi]{1,70}") | st.floats()
       | st.integers() | st.booleans() | st.none())  # fmt: skip
@example(written="1e999")
@example(written="9" * 400)
@example(written=10**400)
@example(written="\u0661\u0662")
def test_whatever_stands_where_a_quantity_should_it_is_a_finite_number_or_none(
    written: Any,
) -> None:
    found = quantity(written)

    assert found is None or math.isfinite(found)


@given(
    when=st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1)),  # noqa: DTZ001
    offset=st.integers(-14 * 60, 14 * 60),
)
def test_every_time_that_kubernetes_writes_is_read_to_the_microsecond(
    when: datetime, offset: int
) -> None:
    zone = timezone(timedelta(minutes=offset))
    expected = (when.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        microseconds=1
    )

    assert moment(when.isoformat() + "Z") == expected
    assert moment(when.replace(tzinfo=UTC).astimezone(zone).isoformat()) == expected


@given(written=st.text(max_size=40) | st.from_regex(r"[0-9TZ:+.\-]{1,40}"))
@example(written="0001-01-01T00:00:00Z")
@example(written="9999-12-31T23:59:59-23:59")
@example(written="2026-01-01T00:00:00.123456789Z")
def test_whatever_stands_where_a_time_should_it_is_one_or_none(written: str) -> None:
    found = moment(written)

    assert found is None or isinstance(found, int)
