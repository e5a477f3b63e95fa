"""Kinds of intakes that plugins add: formats in which senders push signals.

Part of the contract: `almenara.hookspecs` has all of these names.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from almenara.signals import Signal
from almenara.structs import NamedStructMeta


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """What a sender pushed in one request."""

    body: bytes
    """The decompressed body, within the limits of its intake."""
    headers: Mapping[str, str]
    """Headers by lower-case name."""
    received: int
    """The time of arrival, in microseconds since the epoch."""


class PushRefusedError(ValueError):
    """Raised for a push that no retry makes acceptable. Its text goes to the sender: what is wrong
    with which field, and what is expected."""


class IntakeKind(msgspec.Struct, frozen=True, kw_only=True, metaclass=NamedStructMeta):
    """A format in which senders push signals. An intake of this kind is configured in the section
    `intake`, and has the limits, the tokens and the figures of every other."""

    name: str
    """In lower-case letters, digits, `_` and `-`; senders push to `/intake/<name>`."""
    read: Callable[[Push], Sequence[Signal]]
    """Returns the signals of a push, all of which are stored or none. It runs in a thread, and must
    be a function of the push alone: a repeated push must have the same ids. Raises
    `PushRefusedError`; an error of `msgspec` is a body that is not in the format."""
    is_json: bool = True
    """Whether the body is JSON, whose nesting is checked before `read` decodes it."""
