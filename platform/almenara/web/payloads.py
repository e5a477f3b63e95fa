"""Payloads for display: highlighted JSON and hexadecimal bytes, both cut at a limit."""

import re
from typing import Any, Final

import msgspec

from almenara.cloudevents import to_structured
from almenara.signals import Event

DISPLAYED_CHARACTERS: Final = 96 * 1024
DISPLAYED_BYTES: Final = 4 * 1024
DEEPEST_INDENT: Final = 64
"""Levels of nesting that are indented further than the one before."""
BYTES_PER_LINE: Final = 16

TOKEN: Final = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*"?)(?P<key>\s*:)?'
    r"|(?P<number>-?\d[\d.eE+-]*)|(?P<word>true|false|null)|(?P<other>[^\"\d-]|-)",
    re.DOTALL,
)


class Token(msgspec.Struct, frozen=True):
    """A piece of JSON text and its kind: `key`, `string`, `number`, `word`, or empty for
    punctuation."""

    kind: str
    text: str


class FormattedPayload(msgspec.Struct, frozen=True, kw_only=True):
    """A payload as highlighted JSON."""

    tokens: list[Token]
    characters: int
    """The length of the whole JSON text."""
    is_cut: bool
    """Whether `tokens` hold only the beginning."""


class HexLine(msgspec.Struct, frozen=True):
    """Sixteen bytes: their offset, in hexadecimal, and as ASCII."""

    offset: str
    digits: str
    text: str


def encode_json(value: Any) -> str | None:
    """Return a value as JSON in one line; None where it cannot be encoded."""
    try:
        return msgspec.json.encode(value).decode("utf-8", "replace")
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def indent_json(text: str) -> str:
    """Put each member of JSON text on its own line, up to the display limit.

    Works on tokens rather than on the value: depth cannot exhaust the stack, and numbers and
    escapes stay exactly as written.
    """
    pieces: list[str] = []
    depth = 0
    length = 0
    for match in TOKEN.finditer(text):
        piece = match[0]
        if piece in ("{", "["):
            depth += 1
            pieces.append(piece + _break_line(depth))
        elif piece in ("}", "]"):
            depth -= 1
            if pieces and pieces[-1] in (
                "{" + _break_line(depth + 1),
                "[" + _break_line(depth + 1),
            ):
                pieces[-1] = pieces[-1][0] + piece
            else:
                pieces.append(_break_line(depth) + piece)
        elif piece == ",":
            pieces.append("," + _break_line(depth))
        elif match["key"] is not None:
            pieces.append(match["string"] + ": ")
        elif not piece.isspace():
            pieces.append(piece)
        length += len(pieces[-1]) if pieces else 0
        if length > DISPLAYED_CHARACTERS:
            break
    return "".join(pieces)


def _break_line(depth: int) -> str:
    return "\n" + "  " * min(depth, DEEPEST_INDENT)


def format_json(value: Any) -> FormattedPayload | None:
    """Return a value as indented, highlighted JSON; None where it cannot be encoded."""
    text = encode_json(value)
    if text is None:
        return None
    # Indenting only adds characters, so no more than this many of the one line can be displayed.
    indented = indent_json(text[: DISPLAYED_CHARACTERS + 1])
    return FormattedPayload(
        tokens=highlight_json(indented[:DISPLAYED_CHARACTERS]),
        characters=len(text),
        is_cut=len(text) > DISPLAYED_CHARACTERS or len(indented) > DISPLAYED_CHARACTERS,
    )


def highlight_json(text: str) -> list[Token]:
    """Split JSON text into tokens, neighbouring punctuation joined into one."""
    tokens: list[Token] = []
    plain: list[str] = []

    def add(kind: str, piece: str) -> None:
        if plain:
            tokens.append(Token("", "".join(plain)))
            plain.clear()
        tokens.append(Token(kind, piece))

    for match in TOKEN.finditer(text):
        if (string := match["string"]) is not None:
            after = match["key"]
            add("string" if after is None else "key", string)
            plain.append(after or "")
        elif match["number"] is not None:
            add("number", match[0])
        elif match["word"] is not None:
            add("word", match[0])
        else:
            plain.append(match[0])
    if plain:
        tokens.append(Token("", "".join(plain)))
    return tokens


def format_hex(data: bytes) -> list[HexLine]:
    """Return the first bytes up to the display limit, sixteen a line."""
    lines = []
    for offset in range(0, min(len(data), DISPLAYED_BYTES), BYTES_PER_LINE):
        part = data[offset : offset + BYTES_PER_LINE]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "\u00b7" for byte in part)
        digits = part[:8].hex(" ") + "  " + part[8:].hex(" ")
        lines.append(HexLine(f"{offset:06x}", digits.ljust(48), text))
    return lines


def format_envelope(event: Event) -> FormattedPayload | None:
    """Return an event as a CloudEvent in structured mode."""
    return format_json(to_structured(event))
