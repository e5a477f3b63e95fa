"""Rules about what a plugin accepts of others: pushes, and the pieces of texts."""

import json
from typing import Any, Final

import msgspec

from almenara.bus.codec import normalize
from almenara.errors import describe_error
from almenara.hookspecs import IntakeKind, Push, PushRefusedError
from almenara.signals import Event, Signal, now
from almenara.testing.rules.subject import Skip, Subject, memory_context

RECEIVED: Final = 1_800_000_000_000_000
VALUES: Final[tuple[Any, ...]] = (
    None, True, -1, 2**63, 1e300, "", "\x00\x1b[2J", "x" * 10_000, [], {}, [None], [[]], [{}],
    [{"id": None}], {"id": []}, {"events": 1}, {"": ""}, [{"id": "1", "type": "t"}] * 3,
)  # fmt: skip
BODIES: Final = (
    *(json.dumps(value).encode() for value in VALUES),
    b"", b"{", b"\xff\xfe", b"\x00" * 100, b'{"a":' * 60 + b"1" + b"}" * 60, "ü".encode("utf-16"),
)  # fmt: skip
REFUSALS: Final = (PushRefusedError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


async def refuses_hostile_pushes(subject: Subject) -> None:
    kinds = subject.plugins.hooks.intakes(subject.name, subject.settings())
    if not kinds:
        raise Skip("it has no intake with these settings")
    for kind in kinds:
        for body in BODIES:
            first, second = _read(kind, body), _read(kind, body)
            if first != second:
                raise AssertionError(
                    f"intake {kind.name} read the body {body[:60]!r} in two different ways; make"
                    " ids and times from the push alone, because senders repeat pushes"
                )


def _read(kind: IntakeKind, body: bytes) -> list[Signal]:
    """The signals of a push as they are stored; none where it is refused."""
    push = Push(body=body, headers={"content-type": "application/json"}, received=RECEIVED)
    try:
        return [normalize(signal, "intake/test") for signal in kind.read(push)]
    except REFUSALS:
        return []
    except Exception as error:
        reason = describe_error(error, with_type=True)
        raise AssertionError(
            f"intake {kind.name} raised {reason} for the body {body[:60]!r}; raise PushRefusedError"
            " with the field that is wrong"
        ) from error


async def accepts_hostile_pieces_of_text(subject: Subject) -> None:
    with memory_context() as context:
        streams = subject.plugins.hooks.text_streams(subject.name, subject.settings(), context)
    if not streams:
        raise Skip("it has no text stream with these settings")
    for stream in streams:
        for name in stream.types:
            kind = name.replace("*", "x").replace(">", "x")
            for number, value in enumerate(VALUES):
                event = Event(
                    id=str(number), source="test", type=kind, subject="a.b", time=now(),
                    origin="test", data=msgspec.Raw(msgspec.json.encode(value)),
                )  # fmt: skip
                try:
                    stored = [normalize(each, "test") for each in stream.accept(event)]
                except Exception as error:
                    reason = describe_error(error, with_type=True)
                    raise AssertionError(
                        f"text stream {stream.name} raised {reason} for an event {kind} with the"
                        f" data {str(value)[:60]}; return the event where it is not usable"
                    ) from error
                if not all(isinstance(each, Event) for each in stored):
                    raise AssertionError(
                        f"text stream {stream.name} must return events to store for {kind}"
                    )
