"""What a panel is: a template, what it needs to know, and when it has to be drawn again."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from almenara.bus import Bus, Record
from almenara.history import Filter, History
from almenara.panels.renderer import Renderer
from almenara.resources import Resources
from almenara.settings import PanelSettings
from almenara.signals import Event
from almenara.supervisor import Supervisor


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What panels look at."""

    bus: Bus
    history: History
    resources: Resources
    supervisor: Supervisor
    settings: PanelSettings


Prepare = Callable[[View, Filter], Awaitable[Mapping[str, Any]]]
Touch = Callable[[Sequence[Record], Filter], bool]


def never(batch: Sequence[Record], chosen: Filter) -> bool:
    """For panels that only follow the clock."""
    return False


def matching_event(batch: Sequence[Record], chosen: Filter) -> bool:
    """For panels of the events that the filter lets through."""
    return any(isinstance(it.signal, Event) and chosen.matches(it.signal) for it in batch)


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """A server-rendered view of signals that stays live."""

    name: str
    title: str
    template: str
    prepare: Prepare
    """The values of the template."""
    touched_by: Touch = never
    """Whether a batch changes what is shown."""
    filters: frozenset[str] = frozenset()
    """The filters that mean something here; others are left out, so that browsers that differ only
    in those share a channel."""
    pace: float = 0.0
    """Seconds between two renders at least, where the tick of the channels is too often."""
    refresh: float | None = None
    """Seconds after which it is drawn again without a signal, because it shows the time passing."""
    rows: bool = False
    """Whether it is a list of events, to which new ones are added in front."""

    def accepted(self, chosen: Filter) -> Filter:
        """The part of a filter that means something here."""
        return Filter.from_query(
            {name: text for name, text in chosen.to_query().items() if name in self.filters}
        )

    async def render(self, view: View, chosen: Filter, renderer: Renderer) -> str:
        """The panel as it is now."""
        return renderer.render(
            self.template, {"filter": chosen, **await self.prepare(view, chosen)}
        )
