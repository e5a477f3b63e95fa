"""Decodes what publishers wrap JSON and text in: compression, UTF-16, binary formats, batches.

Of what cannot be decoded the bytes are stored, with the name of what they are.
"""

import re
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from almenara_nats.binary_formats import ProtobufDecoder, decode_cbor, decode_msgpack

GZIP: Final = zlib.MAX_WBITS | 16
WINDOW_BITS: Final[Mapping[str, tuple[int, ...]]] = {
    "gzip": (GZIP,),
    "x-gzip": (GZIP,),
    # Some publishers leave out the header of zlib.
    "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS),
}
"""Formats of a content encoding, as zlib numbers them."""
ZSTD: Final = "zstd"
DECODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "application/msgpack": decode_msgpack,
    "application/x-msgpack": decode_msgpack,
    "application/vnd.msgpack": decode_msgpack,
    "application/cbor": decode_cbor,
}
PROTOBUF: Final = frozenset(
    ("application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf")
)
UNDECODED: Final[Mapping[str, str]] = {
    "application/avro": "it is Avro, which is not decoded",
    "avro/binary": "it is Avro, which is not decoded",
    **dict.fromkeys(
        PROTOBUF, "it is Protobuf of an unknown schema; name the schema in plugins.nats.protobuf"
    ),
}
"""Why the bytes of a content type are stored as they came."""
BATCH: Final = "application/cloudevents-batch+json"
BATCH_LIMIT: Final = 1_000
"""Events of a batch; a longer one is one event."""
UTF_16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?|-?\bInfinity\b|\bNaN\b', re.DOTALL)
"""A string, which may be unfinished, or a number that JSON does not have. It matches in linear
time: a string that is not closed ends with the text."""

decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Content(msgspec.Struct, frozen=True):
    """A payload without its encodings."""

    body: bytes
    problem: str = ""
    """Why the body is the payload as it came."""


def decode_content(
    headers: Mapping[str, str],
    payload: bytes,
    limit: int,
    subject: str = "",
    protobuf: ProtobufDecoder | None = None,
) -> Content:
    """Return the JSON or text in a payload, of `limit` bytes at most; never raises."""
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        if encoding not in WINDOW_BITS and encoding != ZSTD:
            return Content(payload, f"its content encoding {encoding[:40]!r} is not decoded")
        try:
            payload = (
                _decompress_zstd(payload, limit)
                if encoding == ZSTD
                else _decompress(payload, encoding, limit)
            )
        except ValueError as error:
            return Content(payload, str(error))
    content_type, _, parameters = headers.get("content-type", "").lower().partition(";")
    content_type = content_type.strip()
    try:
        if protobuf is not None and content_type in ("", *PROTOBUF):
            decoded = protobuf.decode(subject, payload)
            if decoded is not None:
                return Content(decoded)
        if content_type in DECODERS:
            return Content(DECODERS[content_type](payload))
    except ValueError as error:
        return Content(payload, str(error))
    if content_type in UNDECODED:
        return Content(payload, UNDECODED[content_type])
    if payload.startswith(UTF_16_MARKS) or "utf-16" in parameters:
        return _decode_utf_16(payload, parameters)
    return Content(payload)


def _decompress(payload: bytes, encoding: str, limit: int) -> bytes:
    """Raises `ValueError` with the reason where the payload is damaged or too long."""
    reason = ""
    for bits in WINDOW_BITS[encoding]:
        decompressor = zlib.decompressobj(bits)
        try:
            body = decompressor.decompress(payload, limit + 1)
        except zlib.error as error:
            reason = f"it is not {encoding}, as its content encoding says: {error}"
            continue
        if len(body) > limit:
            raise ValueError(f"it has more than {limit:,} bytes once decompressed")
        if decompressor.eof:
            return body
        reason = f"its {encoding} data is cut off"
    raise ValueError(reason)


def _decompress_zstd(payload: bytes, limit: int) -> bytes:
    """Raises `ValueError` with the reason where the payload is damaged or too long."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
    try:
        body = decompressor.decompress(payload, limit + 1)
    except zstd.ZstdError as error:
        raise ValueError(f"it is not zstd, as its content encoding says: {error}") from error
    if len(body) > limit:
        raise ValueError(f"it has more than {limit:,} bytes once decompressed")
    if not decompressor.eof:
        raise ValueError("its zstd data is cut off")
    return body


def _decode_utf_16(payload: bytes, parameters: str) -> Content:
    name = "utf-16"
    if not payload.startswith(UTF_16_MARKS):
        # Without a mark, big endian is the default of the standard (RFC 2781, section 4.3).
        name = "utf-16-le" if "utf-16le" in parameters else "utf-16-be"
    try:
        return Content(payload.decode(name).encode())
    except UnicodeError as error:
        return Content(payload, f"its UTF-16 is damaged: {str(error)[:200]}")


def split_batch(headers: Mapping[str, str], body: bytes) -> Sequence[bytes]:
    """Return the events of a CloudEvents batch as JSON; empty for anything else."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != BATCH:
        return ()
    try:
        items = decode_items(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ()
    return [bytes(item) for item in items] if len(items) <= BATCH_LIMIT else ()


def quote_special_numbers(content: bytes) -> bytes:
    """Return JSON with the numbers NaN, Infinity and -Infinity as strings; Python writes them."""
    return TOKEN.sub(_quote_number, content)


def _quote_number(match: re.Match[bytes]) -> bytes:
    token = match[0]
    return token if token.startswith(b'"') else b'"' + token + b'"'
