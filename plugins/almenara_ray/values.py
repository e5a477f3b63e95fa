"""Typed access to JSON that Ray returns. Unexpected types become empty values, not exceptions."""

import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from almenara.units import MILLISECOND
from almenara_ray.errors import MalformedAnswerError
from almenara_ray.redaction import redact, redact_tree

OBJECT_LIMIT: Final = 8_000
"""Bytes of a job's metadata or runtime environment that are stored."""
LATEST: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""


def decode_json(body: bytes) -> Any:
    """Return the JSON of an answer. Raises `MalformedAnswerError`."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # Ray writes metadata and environments as Python's json does: NaN and lone surrogates,
        # which no standard decoder accepts, are among them.
        with contextlib.suppress(ValueError, RecursionError):
            return _replace_surrogates(json.loads(body, parse_constant=lambda _: None))
        content = "HTML" if body.lstrip()[:1] == b"<" else "not JSON"
        raise MalformedAnswerError(
            f"its answer is {content} ({str(error)[:120]}); is this Ray's dashboard?"
        ) from None


def _replace_surrogates(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {as_text(name): _replace_surrogates(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_replace_surrogates(value) for value in tree]
    return as_text(tree) if isinstance(tree, str) else tree


def unwrap(body: bytes) -> dict[str, Any]:
    """Return `data` of an answer in Ray's envelope of `result`, `msg` and `data`.

    Raises `MalformedAnswerError`, with Ray's own message where `result` is false.
    """
    tree = decode_json(body)
    if not isinstance(tree, dict):
        raise MalformedAnswerError("its answer is not an object")
    if tree.get("result") is False:
        raise MalformedAnswerError(f"it reports: {redact(as_text(tree.get('msg'))[:200])}")
    data = tree.get("data")
    if not isinstance(data, dict):
        raise MalformedAnswerError("its answer has no data")
    return data


def as_text(value: Any) -> str:
    """Return a string, empty for anything else; lone surrogates, which no database stores, are
    replaced."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def as_object(value: Any) -> dict[str, Any]:
    """Return an object, empty for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return a list, empty for anything else."""
    return value if isinstance(value, list) else []


def as_number(value: Any) -> float | None:
    """Return a finite number, or the one in a string: protobuf's JSON writes 64 bits as such."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_integer(value: Any) -> int | None:
    """Return an integer of 32 bits; None for anything else."""
    number = as_number(value)
    return int(number) if number is not None and abs(number) < 2**31 else None


def as_numbers(value: Any) -> list[float]:
    """Return a list of numbers; empty where it has anything else."""
    numbers = [as_number(element) for element in as_list(value)]
    return [number for number in numbers if number is not None] if None not in numbers else []


def as_time(value: Any) -> int | None:
    """Return microseconds since the epoch from Ray's milliseconds; None for 0, its missing time."""
    number = as_number(value)
    if number is None or not 0 < number <= LATEST:
        return None
    return int(number) * MILLISECOND


def as_amounts(value: Any) -> dict[str, float]:
    """Return amounts by resource name, without the `node:<address>` resource of each node."""
    return {
        resource_name(name)[:100]: number
        for name, amount in list(as_object(value).items())[:200]
        if (number := as_number(amount)) is not None and not name.startswith("node:")
    }


def resource_name(name: str) -> str:
    """Return Ray's name of a resource: protobuf's JSON has `object_store_memory` in camel case."""
    return "object_store_memory" if name == "objectStoreMemory" else as_text(name)


def as_redacted_object(value: Any) -> dict[str, Any]:
    """Return an object without secrets, or a note of its size where it is too large to store."""
    if not isinstance(value, Mapping) or not value:
        return {}
    redacted = redact_tree(value)
    size = len(msgspec.json.encode(redacted))
    if size > OBJECT_LIMIT:
        return {"(left out)": f"{size:,} bytes"}
    return {as_text(name): inner for name, inner in redacted.items()}
