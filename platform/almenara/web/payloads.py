"""Payloads as people read them: coloured JSON, hexadecimal bytes; both cut where they are long."""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from almenara.cloudevents import to_structured
from almenara.signals import Event

SHOWN_TEXT: Final = 96 * 1024
SHOWN_BYTES: Final = 4 * 1024
DEEPEST: Final = 64
"""Levels of nesting that are still indented."""
BYTES_PER_LINE: Final = 16

TOKEN: Final = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*"?)(?P<key>\s*:)?'
    r"|(?P<number>-?\d[\d.eE+-]*)|(?P<word>true|false|null)|(?P<other>[^\"\d-]|-)",
    re.DOTALL,
)


class Token(msgspec.Struct, frozen=True):
    """A piece of JSON text and what it is: `key`, `string`, `number`, `word`, or empty for the
    punctuation between them."""

    kind: str
    text: str


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A payload ready to be drawn."""

    tokens: list[Token]
    characters: int
    """How long the whole is."""
    cut: bool
    """Whether only its beginning is here."""


class HexLine(msgspec.Struct, frozen=True):
    """Sixteen bytes: where, as figures, and as text."""

    offset: str
    figures: str
    text: str


def as_json(value: Any) -> str | None:
    """The value as JSON in one line; None where it cannot be written."""
    try:
        return msgspec.json.encode(value).decode("utf-8", "replace")
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


def indented(text: str) -> str:
    """The JSON text with a line for each member. Depth is no danger: nothing here recurses."""
    out: list[str] = []
    depth = 0
    length = 0
    for match in _tokens(text):
        piece = match[0]
        if piece in ("{", "["):
            depth += 1
            out.append(piece + _line(depth))
        elif piece in ("}", "]"):
            depth -= 1
            if out and out[-1] in ("{" + _line(depth + 1), "[" + _line(depth + 1)):
                out[-1] = out[-1][0] + piece
            else:
                out.append(_line(depth) + piece)
        elif piece == ",":
            out.append("," + _line(depth))
        elif match["key"] is not None:
            out.append(match["string"] + ": ")
        elif not piece.isspace():
            out.append(piece)
        length += len(out[-1]) if out else 0
        if length > SHOWN_TEXT:
            break
    return "".join(out)


def _tokens(text: str) -> Iterator[re.Match[str]]:
    return TOKEN.finditer(text)


def _line(depth: int) -> str:
    return "\n" + "  " * min(depth, DEEPEST)


def shown(value: Any) -> Shown | None:
    """The value as coloured JSON; None where it cannot be written as JSON."""
    text = as_json(value)
    if text is None:
        return None
    # No more than this many characters of the one line can reach the page.
    pretty = indented(text[: SHOWN_TEXT + 1])
    return Shown(
        tokens=coloured(pretty[:SHOWN_TEXT]),
        characters=len(text),
        cut=len(text) > SHOWN_TEXT or len(pretty) > SHOWN_TEXT,
    )


def coloured(text: str) -> list[Token]:
    """The pieces of JSON text, neighbouring punctuation joined."""
    found: list[Token] = []
    plain: list[str] = []

    def add(kind: str, piece: str) -> None:
        if plain:
            found.append(Token("", "".join(plain)))
            plain.clear()
        found.append(Token(kind, piece))

    for match in _tokens(text):
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
        found.append(Token("", "".join(plain)))
    return found


def hex_lines(data: bytes) -> list[HexLine]:
    """The first bytes, sixteen to a line."""
    lines = []
    for offset in range(0, min(len(data), SHOWN_BYTES), BYTES_PER_LINE):
        part = data[offset : offset + BYTES_PER_LINE]
        text = "".join(chr(it) if 0x20 <= it < 0x7F else "\u00b7" for it in part)
        figures = part[:8].hex(" ") + "  " + part[8:].hex(" ")
        lines.append(HexLine(f"{offset:06x}", figures.ljust(48), text))
    return lines


def envelope_of(event: Event) -> Shown | None:
    """The event as a structured CloudEvent."""
    return shown(to_structured(event))
