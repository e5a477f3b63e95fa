"""Decodes binary formats into JSON: MessagePack, CBOR (RFC 8949), and Protobuf with a schema.

The libraries are imported with the first message that needs them. Each function raises `ValueError`
with the reason where a payload is damaged or has no form in JSON.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from almenara_nats.settings import ProtobufSchema

if TYPE_CHECKING:
    from google.protobuf.message import Message

DEEPEST: Final = 200
"""Levels of nesting."""
REFERENCES: Final = (25, 28, 29, 256)
"""CBOR tags by which one value stands in many places: a few bytes could become gigabytes."""
COMPUTED: Final = (4, 5, 30, 35, 36, 43_000, 258, 260, 261, 55_799)
"""CBOR tags whose values Python would have to compute or compile; the plain value is stored."""


def decode_msgpack(payload: bytes) -> bytes:
    """Return MessagePack as JSON; byte strings are in base64."""
    try:
        return _encode_json(msgspec.msgpack.decode(payload))
    except RecursionError:
        raise ValueError("its MessagePack is nested too deeply") from None
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"its MessagePack cannot be written as JSON: {str(error)[:200]}"
        ) from error


def decode_cbor(payload: bytes) -> bytes:
    """Return CBOR as JSON; byte strings are in base64, and most tags leave their plain value."""
    import cbor2

    try:
        tree = cbor2.loads(payload, semantic_decoders=_cbor_decoders(cbor2), max_depth=DEEPEST)
        return _encode_json(tree)
    except RecursionError:
        raise ValueError("its CBOR is nested too deeply") from None
    except (cbor2.CBORError, TypeError, ValueError, OverflowError, ArithmeticError) as error:
        reason = str(error.__cause__ or error)[:200]
        raise ValueError(f"its CBOR cannot be written as JSON: {reason}") from error


def _cbor_decoders(cbor2: Any) -> Mapping[int, Any]:
    def refuse(value: Any, immutable: bool) -> Any:
        raise cbor2.CBORDecodeError("references between values are not decoded")

    def keep(value: Any, immutable: bool) -> Any:
        return value

    return {**dict.fromkeys(REFERENCES, refuse), **dict.fromkeys(COMPUTED, keep)}


def _encode_json(tree: Any) -> bytes:
    return msgspec.json.encode(tree, enc_hook=_encode_special)


def _encode_special(value: Any) -> Any:
    if isinstance(value, msgspec.msgpack.Ext):
        return {"type": value.code, "data": bytes(value.data)}
    name = type(value).__name__
    # By name, as the library is imported with the first message that needs it.
    if name in ("CBORTag", "CBORSimpleValue"):
        return value.value
    if name == "UndefinedType":
        return None
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{name} has no form in JSON")


class ProtobufDecoder:
    """Decodes messages by the schemas of the configuration, once these are loaded."""

    def __init__(self, schemas: Sequence[ProtobufSchema]) -> None:
        self._schemas = schemas
        self._types: list[type[Message] | str] = ["the schema is not loaded yet"] * len(schemas)
        """The class of each schema, or why it cannot be used."""

    def load(self) -> list[str]:
        """Read the files of the schemas, and return what is wrong with them."""
        for number, schema in enumerate(self._schemas):
            try:
                self._types[number] = _load_type(schema)
            except ValueError as error:
                self._types[number] = str(error)
        return [problem for problem in self._types if isinstance(problem, str)]

    def decode(self, subject: str, payload: bytes) -> bytes | None:
        """Return a message as JSON with the names of its fields; None where no schema is for its
        subject."""
        for schema, message_type in zip(self._schemas, self._types, strict=True):
            if any(matches_subject(pattern, subject) for pattern in schema.subjects):
                return _decode_message(schema, message_type, payload)
        return None


def _decode_message(
    schema: ProtobufSchema, message_type: "type[Message] | str", payload: bytes
) -> bytes:
    if isinstance(message_type, str):
        raise ValueError(message_type)  # noqa: TRY004 # the payload is refused, not the argument
    from google.protobuf.json_format import MessageToJson
    from google.protobuf.message import DecodeError

    message = message_type()
    try:
        message.ParseFromString(payload)
        text = MessageToJson(
            message, preserving_proto_field_name=True, indent=None, ensure_ascii=False
        )
    except (DecodeError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it is no {schema.message}: {str(error)[:200]}") from error
    return str(text).encode()


def _load_type(schema: ProtobufSchema) -> "type[Message]":
    """Return the class of messages. Raises `ValueError`."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import DecodeError
    from google.protobuf.message_factory import GetMessageClass

    path = schema.descriptor_set
    try:
        files = FileDescriptorSet.FromString(path.read_bytes()).file
        pool = DescriptorPool()
        for file in files:
            pool.Add(file)
        message_type: type[Message] = GetMessageClass(pool.FindMessageTypeByName(schema.message))
    except OSError as error:
        raise ValueError(f"the schema {path} cannot be read: {error.strerror}") from error
    except KeyError:
        raise ValueError(f"the schema {path} has no message {schema.message}") from None
    except (DecodeError, TypeError) as error:
        raise ValueError(
            f"the schema {path} is no complete descriptor set; write it with"
            " protoc --include_imports --descriptor_set_out"
        ) from error
    return message_type


def matches_subject(pattern: str, subject: str) -> bool:
    """Whether a NATS subject matches a pattern with the wildcards `*` and `>`."""
    tokens, words = pattern.split("."), subject.split(".")
    if tokens[-1] == ">":
        tokens.pop()
        if len(words) <= len(tokens):
            return False
        words = words[: len(tokens)]
    return len(tokens) == len(words) and all(
        token in ("*", word) for token, word in zip(tokens, words, strict=True)
    )
