"""Bodies of pushes: decompression, nesting and JSON, each within its limit."""

import re
import zlib
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec

from almenara.config import IntakeSettings
from almenara.intake.errors import RefusedPushError

T = TypeVar("T")

GZIP: Final = zlib.MAX_WBITS | 16
STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A string. One that is not closed ends with the body, so that the time is linear: no quote in it
is tried as the start of another string."""
ONE_BRACKET: Final = bytes.maketrans(b"{}", b"[]")
NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def decompress(body: bytes, encoding: str, settings: IntakeSettings) -> bytes:
    """Return the body without its content encoding. Raises `RefusedPushError`."""
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise RefusedPushError(
            f"Content-Encoding: {encoding[:40]!r} is not supported; use gzip or none.",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    limit = settings.max_decompressed_bytes
    decompressor = zlib.decompressobj(GZIP)
    try:
        content = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise RefusedPushError(f"The body is not gzip: {error}.") from None
    if len(content) > limit:
        raise RefusedPushError(
            f"The body exceeds {limit} bytes after decompression"
            " (max_decompressed_bytes of the intake).",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    if not decompressor.eof or decompressor.unused_data:
        raise RefusedPushError("The body is not exactly one complete gzip stream.")
    return content


def check_nesting(body: bytes, limit: int) -> None:
    """Raise `RefusedPushError` for JSON that is nested deeper than `limit`.

    It runs before anything decodes the body, since decoders recurse. Each round removes the
    innermost pairs of brackets, so the number of rounds is the depth.
    """
    if body.count(b"[") + body.count(b"{") <= limit:
        return
    brackets = STRING.sub(b"", body).translate(ONE_BRACKET, NO_BRACKETS)
    for _ in range(limit):
        if not brackets:
            return
        remaining = brackets.replace(b"[]", b"")
        if len(remaining) == len(brackets):
            # Not balanced, so that it is not JSON either.
            break
        brackets = remaining
    if brackets:
        raise RefusedPushError(
            f"The body is not JSON, or nested deeper than {limit} (max_nesting of the intake)."
        )


def decode_json(body: bytes, kind: type[T], limit: int, *, strict: bool = True) -> T:
    """Return JSON as a type. Raises `RefusedPushError`, which names the field that is wrong."""
    check_nesting(body, limit)
    try:
        return msgspec.json.decode(body, type=kind, strict=strict)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").lstrip(".")
        raise RefusedPushError(f"{field or 'The body'}: {message}.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedPushError(f"The body is not JSON: {error}.") from None


def follow_path(document: Any, path: str) -> Any:
    """Return the value at a path such as `commits.0.id` in decoded JSON; None where it is missing.

    A name that contains dots is found as well, before its parts are.
    """
    if not path:
        return document
    if isinstance(document, dict):
        if path in document:
            return document[path]
        name, _, rest = path.partition(".")
        return follow_path(document[name], rest) if rest and name in document else None
    name, _, rest = path.partition(".")
    if isinstance(document, list) and name.isdecimal() and len(name) < 10:
        index = int(name)
        return follow_path(document[index], rest) if index < len(document) else None
    return None
