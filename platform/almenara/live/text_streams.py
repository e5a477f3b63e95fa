"""The text streams of plugins: they take their events before these are stored."""

import re
from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from almenara.errors import NotFound, describe_error
from almenara.hookspecs import TextStream
from almenara.patterns import compile_pattern
from almenara.signals import Event, Signal

log = structlog.get_logger(__name__)

REMEMBERED_TYPES: Final = 10_000


class TextStreams:
    """The text streams by plugin: `panels.view.TextStreams`."""

    def __init__(self) -> None:
        self._streams: dict[str, dict[str, TextStream]] = {}
        self._patterns: list[tuple[re.Pattern[str], TextStream]] = []
        self._known: dict[str, tuple[TextStream, ...]] = {}
        self._failed: set[str] = set()

    def add(self, plugin: str, streams: Sequence[TextStream]) -> None:
        """Add the text streams of a plugin."""
        self._streams[plugin] = {stream.name: stream for stream in streams}
        self._compile()

    def remove(self, plugin: str) -> None:
        """Remove the text streams of a plugin."""
        self._streams.pop(plugin, None)
        self._compile()

    def _compile(self) -> None:
        self._known.clear()
        self._patterns = [
            (compile_pattern(name) or re.compile(re.escape(name)), stream)
            for streams in self._streams.values()
            for stream in streams.values()
            for name in stream.types
        ]

    def stream(self, plugin: str, name: str) -> TextStream:
        stream = self._streams.get(plugin, {}).get(name)
        if stream is None:
            raise NotFound(f"The plugin {plugin} has no text stream named {name}.")
        return stream

    def select_stored(self, batch: Sequence[Signal], origin: str) -> Sequence[Signal]:
        """Give each stream its events of a batch; return what is stored of the batch."""
        if not self._patterns:
            return batch
        stored: list[Signal] = []
        for signal in batch:
            streams = self._streams_of(signal.type) if isinstance(signal, Event) else ()
            if not streams or not isinstance(signal, Event):
                stored.append(signal)
                continue
            if not signal.origin:
                signal = msgspec.structs.replace(signal, origin=origin)
            events: Sequence[Event] = [signal]
            for stream in streams:
                events = [each for event in events for each in self._give(stream, event)]
            stored += events
        return stored

    def _streams_of(self, kind: str) -> tuple[TextStream, ...]:
        streams = self._known.get(kind)
        if streams is None:
            if len(self._known) >= REMEMBERED_TYPES:
                self._known.clear()
            declared = {
                id(stream): stream for types, stream in self._patterns if types.fullmatch(kind)
            }
            streams = self._known[kind] = tuple(declared.values())
        return streams

    def _give(self, stream: TextStream, event: Event) -> Sequence[Event]:
        try:
            return stream.accept(event)
        except Exception as error:
            if stream.name not in self._failed:
                # Once: what fails for one event fails for thousands.
                self._failed.add(stream.name)
                text = describe_error(error, with_type=True)
                log.warning("a text stream failed", stream=stream.name, type=event.type, error=text)
            return [event]
