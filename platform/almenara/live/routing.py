"""Which channels a signal concerns: the scope first, then fields that filters match exactly."""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from almenara.bus import Record
from almenara.history.filter import forget_search_texts
from almenara.live.channel import Channel
from almenara.panels.view import View
from almenara.signals import Event, Sample, Signal


def is_visible(view: View, signal: Signal) -> bool:
    """Whether a signal is within a view's scope."""
    if view.scope.permits(signal):
        return True
    if not isinstance(signal, Sample):
        return False
    # A sample has no labels: those of its resource count, if that is visible.
    resource = view.resources.get(*signal.key)
    return resource is not None and view.scope.permits(
        msgspec.structs.replace(resource, origin=signal.origin)
    )


class ScopeRouter:
    """Routes signals among the channels of one scope, by a field that their filters match exactly.

    A channel of one type, source or subject is given only events with that value; channels
    without such a field are given everything.
    """

    def __init__(self, view: View) -> None:
        self._view = view
        self._exact: dict[str, dict[str, set[Channel]]] = {}
        """Channels by field and value."""
        self._others: set[Channel] = set()
        self._matches: dict[Channel, tuple[str, str] | None] = {}

    def __len__(self) -> int:
        return len(self._matches)

    def add(self, channel: Channel) -> None:
        """Route signals to a channel from now on."""
        self.discard(channel)
        match = self._matches[channel] = channel.exact_match
        if match is None:
            self._others.add(channel)
        else:
            field, value = match
            self._exact.setdefault(field, {}).setdefault(value, set()).add(channel)

    def discard(self, channel: Channel) -> None:
        """Route no more signals to a channel."""
        match = self._matches.pop(channel, None)
        if match is None:
            self._others.discard(channel)
            return
        field, value = match
        channels = self._exact[field][value]
        channels.discard(channel)
        if not channels:
            del self._exact[field][value]
            if not self._exact[field]:
                del self._exact[field]

    def accept(self, batch: Sequence[Record]) -> None:
        """Give every channel the part of a batch that may concern it, in order."""
        if not self._view.scope.is_full:
            # Before any filter is evaluated, so that neither frames nor their times depend on
            # what is hidden.
            batch = [record for record in batch if is_visible(self._view, record.signal)]
            if not batch:
                return
        for channel in self._others:
            channel.accept(batch)
        for field, channels_by_value in self._exact.items():
            parts: defaultdict[str, list[Record]] = defaultdict(list)
            for record in batch:
                if isinstance(record.signal, Event):
                    value = getattr(record.signal, field)
                    if value in channels_by_value:
                        parts[value].append(record)
            for value, records in parts.items():
                for channel in channels_by_value[value]:
                    channel.accept(records)


class SignalRouter:
    """Routes signals to the channels of all scopes; each scope looks at a batch once."""

    def __init__(self) -> None:
        self._routers: dict[str, ScopeRouter] = {}

    def add(self, channel: Channel) -> None:
        """Route signals to a channel from now on."""
        key = channel.view.scope.key
        if (router := self._routers.get(key)) is None:
            router = self._routers[key] = ScopeRouter(channel.view)
        router.add(channel)

    def discard(self, channel: Channel) -> None:
        """Route no more signals to a channel."""
        key = channel.view.scope.key
        if (router := self._routers.get(key)) is not None:
            router.discard(channel)
            if not len(router):
                del self._routers[key]

    def accept(self, batch: Sequence[Record]) -> None:
        """Give every channel the part of a batch that may concern it, in order."""
        for router in self._routers.values():
            router.accept(batch)
        forget_search_texts()
