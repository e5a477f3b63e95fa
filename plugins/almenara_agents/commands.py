"""`almenara agents test`: what the events of a file become."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import click
import msgspec

from almenara.cloudevents import CloudEventError, from_structured
from almenara.hookspecs import ProcessorState
from almenara.sdk import now, type_from_address
from almenara.signals import Event, Resource, Signal, parse_time
from almenara_agents.mapping import Fact, Mapper, Unusable
from almenara_agents.processor import derive
from almenara_agents.settings import AgentsSettings

T = TypeVar("T")

SHOWN_FIELDS: Final = ("story", "task", "agent", "role", "winner", "phase")


class MemoryState:
    """`hookspecs.ProcessorState` in memory."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}

    def get(self, key: str, kind: type[T]) -> T | None:
        value = self._values.get(key)
        return None if value is None else msgspec.json.decode(value, type=kind)

    def set(self, key: str, value: Any) -> None:
        self._values[key] = msgspec.json.encode(value)

    def delete(self, key: str) -> None:
        self._values.pop(key, None)

    def keys(self, prefix: str = "") -> Sequence[str]:
        return sorted(key for key in self._values if key.startswith(prefix))


class MemoryStep:
    """`hookspecs.Step` in memory, without timers: no time passes in a file."""

    def __init__(self, state: ProcessorState, sequence: int, time: int) -> None:
        self.state, self.sequence, self.time = state, sequence, time

    def event_id(self, *parts: str) -> str:
        return ":".join((str(self.sequence), *parts))

    def set_timer(self, key: str, at: int) -> None: ...

    def cancel_timer(self, key: str) -> None: ...


def read_event(line: bytes, number: int) -> Event:
    """The event in a line: a CloudEvent, or fields with `event_type` or `type`; its subject may be
    in `subject`. Raises `ValueError`."""
    body = msgspec.json.decode(line)
    if not isinstance(body, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 # of the file, not of a caller
    if "specversion" in body:
        return from_structured(body, received=now(), default_id=str(number))
    subject = body.get("subject") if isinstance(body.get("subject"), str) else ""
    names = (body.get("event_type"), body.get("type"), type_from_address(subject or ""))
    stamp = body.get("timestamp")
    return Event(
        id=str(number), source="file", subject=subject or "", data=body,
        type=next((name for name in names if isinstance(name, str) and name), "unknown"),
        time=parse_time(stamp) if isinstance(stamp, str) else now(),
    )  # fmt: skip


def describe_lines(lines: Sequence[bytes], settings: AgentsSettings) -> Iterator[str]:
    """What each line of a file reports, then the resources that all of them make."""
    mapper, state = Mapper(settings.mappings), MemoryState()
    resources: dict[tuple[str, str, str], Resource] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event = read_event(line, number)
        except (CloudEventError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            yield f"{number}: not read: {error}"
            continue
        fact = mapper.read(event, event.time, number)
        yield f"{number}: {event.type}: {describe_fact(fact)}"
        if isinstance(fact, Fact):
            for signal in derive(
                fact, event.origin, MemoryStep(state, number, event.time), settings
            ):
                collect(resources, signal)
    yield ""
    for key, resource in sorted(resources.items()):
        details = msgspec.json.encode(resource.state).decode()
        yield f"{key[0]} {resource.name}: {resource.status} {details}"


def collect(resources: dict[tuple[str, str, str], Resource], signal: Signal) -> None:
    """Apply a derived resource to those that exist."""
    if isinstance(signal, Resource):
        if signal.deleted:
            resources.pop(signal.key, None)
        else:
            resources[signal.key] = signal


def describe_fact(fact: Fact | Unusable) -> str:
    """What an event reports, in one line."""
    if isinstance(fact, Unusable):
        return f"ignored, {fact.reason}"
    fields = [f"{name}={value}" for name in SHOWN_FIELDS if (value := getattr(fact, name))]
    return " ".join([fact.step, *fields])


def commands(read_settings: Callable[[], Any]) -> Sequence[click.Command]:
    """The commands of this plugin."""

    @click.group("agents")
    def agents() -> None:
        """Agents and their councils."""

    @agents.command("test")
    @click.argument("file", type=click.File("rb"))
    def test(file: Any) -> None:
        """Print what the events of FILE (one JSON object a line) become."""
        for line in describe_lines(file.read().splitlines(), read_settings()):
            click.echo(line)

    return [agents]
