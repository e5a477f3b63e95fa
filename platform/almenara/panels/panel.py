"""What a panel is: a template, what it needs to know, and when it has to be drawn again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, Self

import jinja2
import msgspec
import structlog

from almenara.bus import Bus, Record
from almenara.config import PanelSettings
from almenara.history import Filter, History
from almenara.hookspecs import Filter as FilterField
from almenara.hookspecs import LogQuery
from almenara.live.log_feed import LogFeeds
from almenara.panels.renderer import Renderer
from almenara.scope import FULL_SCOPE, Scope
from almenara.signals import Event
from almenara.state.resources import Resources
from almenara.supervisor import SourceState


class Sources(Protocol):
    """Who tells how the sources fare."""

    def states(self) -> list[SourceState]: ...


class VisibleSources:
    """The sources as somebody with a scope may see them."""

    def __init__(self, sources: Sources, scope: Scope) -> None:
        self.sources, self.scope = sources, scope

    def states(self) -> list[SourceState]:
        """Those of which anything may be seen; of one seen in part, not how much it says."""
        found = []
        for state in self.sources.states():
            share = self.scope.source_share(state.name)
            if share == "whole":
                found.append(state)
            elif share == "part":
                found.append(
                    SourceState(
                        name=state.name,
                        plugin=state.plugin,
                        isolation=state.isolation,
                        status=state.status,
                        since=state.since,
                    )
                )
        return found


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What panels look at, as far as a scope shows it."""

    bus: Bus
    history: History
    resources: Resources
    supervisor: Sources
    settings: PanelSettings
    feeds: LogFeeds
    scope: Scope = FULL_SCOPE

    def within(self, scope: Scope) -> Self:
        """The same as somebody with that scope may see it."""
        if scope.is_full:
            return self
        return msgspec.structs.replace(
            self,
            history=self.history.within(scope),
            resources=self.resources.within(scope),
            supervisor=VisibleSources(self.supervisor, scope),
            scope=scope,
        )


log = structlog.get_logger(__name__)

DRAWN_WITHIN: Final = 15.0
"""Seconds after which a panel that is still being prepared shows that instead."""


def filter_names(filters: Sequence[str | FilterField]) -> list[str]:
    """The names of filters, however they were declared."""
    return [it if isinstance(it, str) else it.name for it in filters]


class Choice(Protocol):
    """The values of a panel's filters; panels with equal ones share a channel."""

    def to_query(self) -> dict[str, str]: ...


Prepare = Callable[[View, Any], Awaitable[Mapping[str, Any]]]
Touch = Callable[[Sequence[Record], Any], bool]


def never(batch: Sequence[Record], chosen: Choice) -> bool:
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
    asked_for: Mapping[str, FilterField] = {}
    """How those of them are asked for that its author said it of."""
    pace: float = 0.0
    """Seconds between two renders at least, where the tick of the channels is too often."""
    refresh: float | None = None
    """Seconds after which it is drawn again without a signal, because it shows the time passing."""
    read: Callable[[Mapping[str, str]], Choice] = Filter.from_query
    """The choice that the parameters of an address describe. Raises `ValueError`."""
    kind: str = "core"
    plugin: str = ""
    """The plugin that brought it; empty for the core's own."""
    width: int = 12
    height: int = 0
    on_overview: bool = False
    """Whether the overview shows it."""
    bare: bool = False
    """Whether it stands without a card and a title around it."""
    rows: bool = False
    """Whether it is a list of events, to which new ones are added in front."""
    log: LogQuery | None = None
    """What it follows, where it is a log, to which new lines are added at the end."""

    @property
    def anchor(self) -> str:
        """The id of its element, which every selector can name."""
        return "panel-" + self.name.replace(".", "-")

    def choose(self, query: Mapping[str, str]) -> Choice:
        """The part of an address that means something here. Raises `ValueError`."""
        return self.read({name: text for name, text in query.items() if name in self.filters})

    async def render(self, view: View, chosen: Choice, renderer: Renderer) -> str:
        """The panel as it is now or, where it cannot be drawn, what is wrong with it."""
        try:
            async with asyncio.timeout(DRAWN_WITHIN):
                values = await self.prepare(view, chosen)
            text = renderer.render(self.template, {"filter": chosen, "panel": self, **values})
        except Exception as error:
            if self.name not in renderer.broken:
                log.exception("a panel cannot be drawn", panel=self.name, plugin=self.plugin)
            renderer.broken.add(self.name)
            return renderer.render(
                "panel_error.html", {"panel": self, "told": trouble(error, self.template)}
            )
        if self.name in renderer.broken:
            renderer.broken.discard(self.name)
            log.info("a panel can be drawn again", panel=self.name)
        return text


def trouble(error: Exception, template: str) -> str:
    """What keeps a panel from being drawn, and on which line of its template."""
    if isinstance(error, TimeoutError):
        return f"its data could not be had within {DRAWN_WITHIN:.0f} s"
    if isinstance(error, jinja2.TemplateSyntaxError):
        # A plugin's loader tells the name within the plugin.
        name = error.name or template
        where = template if template.endswith(f"/{name}") else name
        return f"{type(error).__name__}: {error.message} ({where}, line {error.lineno})"
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, jinja2.TemplateNotFound):
        return f"there is no template {error.name}; almenara_templates of its plugin must give it"
    step = error.__traceback__
    place = ""
    while step is not None:
        if step.tb_frame.f_code.co_filename in ("<template>", template) or (
            step.tb_frame.f_code.co_filename.endswith(f"/{template.partition('/')[2]}")
        ):
            place = f" ({template}, line {step.tb_lineno})"
        step = step.tb_next
    return said + place
