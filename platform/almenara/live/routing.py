"""Which channels a signal concerns, without asking each channel about each signal."""

from collections import defaultdict
from collections.abc import Sequence

from almenara.bus import Record
from almenara.live.channel import Channel
from almenara.signals import Event


class SignalRouter:
    """An index of channels by a plain name in their filters.

    A channel of one type, source or the like is asked only about events of that name; the others
    are asked about everything.
    """

    def __init__(self) -> None:
        self._named: dict[str, dict[str, set[Channel]]] = {}
        self._others: set[Channel] = set()
        self._places: dict[Channel, tuple[str, str] | None] = {}

    def add(self, channel: Channel) -> None:
        """From now on, tell the channel what concerns it."""
        self.discard(channel)
        place = self._places[channel] = channel.named
        if place is None:
            self._others.add(channel)
        else:
            field, name = place
            self._named.setdefault(field, {}).setdefault(name, set()).add(channel)

    def discard(self, channel: Channel) -> None:
        """Tell the channel nothing any more."""
        place = self._places.pop(channel, None)
        if place is None:
            self._others.discard(channel)
            return
        field, name = place
        interested = self._named[field][name]
        interested.discard(channel)
        if not interested:
            del self._named[field][name]
            if not self._named[field]:
                del self._named[field]

    def accept(self, batch: Sequence[Record]) -> None:
        """Tell every channel what of a batch may concern it, in order."""
        for channel in self._others:
            channel.accept(batch)
        for field, names in self._named.items():
            found: defaultdict[str, list[Record]] = defaultdict(list)
            for record in batch:
                if isinstance(record.signal, Event):
                    name = getattr(record.signal, field)
                    if name in names:
                        found[name].append(record)
            for name, records in found.items():
                for channel in names[name]:
                    channel.accept(records)
