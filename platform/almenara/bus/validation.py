"""Checks of published signals: a plugin's slip is refused to that plugin, with the field named.

Types are annotations only in Python, and what is stored wrongly once is read again at every start.
So each field of each signal is checked before it is stored. The first test of each function is the
fast path of a valid signal, a fraction of a microsecond; the error is worked out only after it.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from almenara.errors import AlmenaraError
from almenara.signals import Event, Resource, Sample, Severity, Signal

LARGEST_INTEGER: Final = 2**63 - 1
RESERVED_ORIGIN: Final = re.compile(r"almenara(?![\w-])")
"""Origins of what Almenara publishes itself: `almenara`, `almenara.alerting`."""
SHOWN: Final = 60
"""Characters of a wrong value in the error."""

EVENT_FIELDS: Final = {
    "id": (str,),
    "source": (str,),
    "type": (str,),
    "time": (int,),
    "subject": (str,),
    "severity": (Severity,),
    "origin": (str,),
    "correlation": (str, type(None)),
    "attributes": (dict,),
    "raw": (bytes, type(None)),
    "problem": (str, type(None)),
    "deduplication_key": (str,),
}
RESOURCE_FIELDS: Final = {
    "kind": (str,),
    "name": (str,),
    "namespace": (str,),
    "status": (str,),
    "severity": (Severity,),
    "state": (dict,),
    "time": (int,),
    "deleted": (bool,),
    "origin": (str,),
}
SAMPLE_FIELDS: Final = {
    "kind": (str,),
    "name": (str,),
    "metric": (str,),
    "value": (float, int),
    "namespace": (str,),
    "unit": (str,),
    "time": (int,),
    "origin": (str,),
}


class InvalidSignalError(AlmenaraError, ValueError):
    """A published signal has a wrong field; the text names the signal, the field and its value."""


def check_batch(batch: object) -> None:
    """Check that a batch is a list or tuple. Raises `InvalidSignalError`."""
    if not isinstance(batch, list | tuple):
        raise InvalidSignalError(
            f"publish() takes a list of signals, and was called with {_show(batch)}"
        )


def check_origins(batch: Sequence[Any]) -> None:
    """Check that no signal of a plugin has an origin of Almenara's own, whose commands and audit
    events are trusted. Raises `InvalidSignalError`.
    """
    for index, signal in enumerate(batch):
        origin = getattr(signal, "origin", "")
        if isinstance(origin, str) and RESERVED_ORIGIN.match(origin):
            raise InvalidSignalError(
                f"batch[{index}]: {describe_signal(signal)}: the origin {_show(origin, False)} is"
                " reserved for Almenara; leave origin empty, or begin it with the source's name"
            )


def check_state(key: object, value: object) -> None:
    """Check what a plugin stores under a key. Raises `InvalidSignalError`."""
    if type(key) is not str or type(value) is not bytes:
        raise InvalidSignalError(
            f"save() takes text and bytes, and was called with {_show(key)} and {_show(value)}"
        )


def check_signal(signal: Signal) -> None:
    """Check the type of every field and the range of every number. Raises `InvalidSignalError`."""
    if type(signal) is Event:
        _check_event(signal)
    elif type(signal) is Resource:
        _check_resource(signal)
    elif type(signal) is Sample:
        _check_sample(signal)
    else:
        raise InvalidSignalError(f"{_show(signal)} is not an Event, a Resource or a Sample")


def describe_signal(signal: object) -> str:
    """Return the kind and the identity of a signal, for errors; whatever its fields hold."""
    if isinstance(signal, Event):
        return f"Event {_show(signal.id, with_type=False)}"
    if isinstance(signal, Resource):
        return f"Resource {_show(signal.kind, False)} {_show(signal.name, False)}"
    if isinstance(signal, Sample):
        return f"Sample {_show(signal.metric, False)} of {_show(signal.name, False)}"
    return type(signal).__name__


def _check_event(event: Event) -> None:
    if not (
        type(event.id) is str
        and type(event.source) is str
        and type(event.type) is str
        and type(event.time) is int
        and type(event.subject) is str
        and type(event.severity) is Severity
        and type(event.origin) is str
        and (event.correlation is None or type(event.correlation) is str)
        and type(event.attributes) is dict
        and (event.raw is None or type(event.raw) is bytes)
        and (event.problem is None or type(event.problem) is str)
        and type(event.deduplication_key) is str
    ):
        _raise_wrong_field(event, EVENT_FIELDS)
    for name, value in event.attributes.items():
        if type(name) is not str or type(value) is not str:
            raise InvalidSignalError(
                f"{describe_signal(event)}: attributes must map text to text, and"
                f" attributes[{_show(name, False)}] is {_show(value)}"
            )
    _check_time(event, event.time)


def _check_resource(resource: Resource) -> None:
    if not (
        type(resource.kind) is str
        and type(resource.name) is str
        and type(resource.namespace) is str
        and type(resource.status) is str
        and type(resource.severity) is Severity
        and type(resource.state) is dict
        and type(resource.time) is int
        and type(resource.deleted) is bool
        and type(resource.origin) is str
    ):
        _raise_wrong_field(resource, RESOURCE_FIELDS)
    _check_time(resource, resource.time)


def _check_sample(sample: Sample) -> None:
    if not (
        type(sample.kind) is str
        and type(sample.name) is str
        and type(sample.metric) is str
        and (type(sample.value) is float or type(sample.value) is int)
        and type(sample.namespace) is str
        and type(sample.unit) is str
        and type(sample.time) is int
        and type(sample.origin) is str
    ):
        _raise_wrong_field(sample, SAMPLE_FIELDS)
    try:
        is_finite = math.isfinite(sample.value)
    except OverflowError:
        is_finite = False
    if not is_finite:
        # JSON has no infinity: it would be read back as null.
        raise InvalidSignalError(
            f"{describe_signal(sample)}: value is {_show(sample.value)}, which is not a finite"
            " 64-bit floating-point number"
        )
    _check_time(sample, sample.time)


def _check_time(signal: Signal, time: int) -> None:
    if not -LARGEST_INTEGER <= time <= LARGEST_INTEGER:
        raise InvalidSignalError(
            f"{describe_signal(signal)}: time is {_show(time, False)}, which is more than 64 bits;"
            " times are microseconds since the epoch"
        )


def _raise_wrong_field(signal: Signal, fields: Mapping[str, Collection[type]]) -> None:
    for name, types in fields.items():
        value = getattr(signal, name)
        # A bool is an int in Python, and True is not a time; hence the exact type.
        if type(value) not in types:
            expected = " or ".join(
                "None" if kind is type(None) else kind.__name__ for kind in types
            )
            hint = f", for example Severity.{Severity.WARN.name}" if Severity in types else ""
            raise InvalidSignalError(
                f"{describe_signal(signal)}: {name} is {_show(value)}; it must be of type"
                f" {expected}{hint}"
            )


def _show(value: Any, with_type: bool = True) -> str:
    """A wrong value, cut; a `repr` of a plugin's own class may do anything, so it is not called."""
    kind = type(value)
    if kind in (str, bytes):
        text = repr(value[:SHOWN]) + ("…" if len(value) > SHOWN else "")
    elif kind is int and not -(10**30) < value < 10**30:
        text = "a very large number"
    elif kind in (int, float, bool, type(None), Severity):
        text = repr(value)
    else:
        return f"of type {kind.__name__}"
    return f"{text} ({kind.__name__})" if with_type and value is not None else text
