"""Frames: what the browsers of a channel are sent, rendered and encoded once for all of them."""

from typing import Any

import msgspec


class Frame(msgspec.Struct, frozen=True):
    """A message of a channel in the envelope of hx-ws."""

    text: str
    """Text and not bytes: hx-ws swaps nothing that comes in a binary frame."""
    size: int
    rows: bool
    """Whether it adds rows to those on screen, and so means nothing after a missed frame."""
    packed: dict[bool, bytes] = {}
    """The bytes on the wire, plain and compressed, once they are needed: see `web/protocol.py`."""


def make_frame(content: str, target: str, swap: str, *, rows: bool = False, **notes: Any) -> Frame:
    """Make the frame that swaps a fragment into `target`; `notes` are for the page's script."""
    encoded = msgspec.json.encode(
        {"content": str(content), "target": target, "swap": swap, **notes}
    )
    return Frame(encoded.decode(), len(encoded), rows)
