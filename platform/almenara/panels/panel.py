"""A panel that is ready to render: a template, what fills it, and which signals change it."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import jinja2
import msgspec
import structlog

from almenara.bus import Record
from almenara.clock import clock_at
from almenara.errors import describe_error
from almenara.history import Filter
from almenara.hookspecs import Filter as FilterField, LogQuery, PanelExport
from almenara.panels.charts import ReadChart
from almenara.panels.filters import PanelFilters
from almenara.panels.formats import encode_query
from almenara.panels.renderer import Renderer
from almenara.panels.time_window import LIVE, TimeWindow
from almenara.panels.view import View
from almenara.signals import Event, now

log = structlog.get_logger(__name__)

RENDER_TIMEOUT: Final = 15.0
"""Seconds after which a panel that is still being prepared shows an error."""

Prepare = Callable[[View, Any], Awaitable[Mapping[str, Any]]]
"""Makes the values of a template from a view and the values of the panel's filters."""
IsAffected = Callable[[Sequence[Record], Any], bool]
"""Whether a batch, of signals within the viewer's scope, changes what the panel shows."""


def is_never_affected(batch: Sequence[Record], filters: PanelFilters) -> bool:
    """For panels that change with the clock alone."""
    return False


def has_matching_event(batch: Sequence[Record], filters: Filter) -> bool:
    """For panels of the events that match the filters."""
    return any(
        isinstance(record.signal, Event) and filters.matches(record.signal) for record in batch
    )


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """A panel of the core or, built from its declaration in `hookspecs`, of a plugin."""

    name: str
    title: str
    template: str
    prepare: Prepare
    is_affected: IsAffected = is_never_affected
    filters: frozenset[str] = frozenset()
    """The filters that the panel accepts. Others are ignored, so that browsers that differ only
    in those share a channel."""
    filter_fields: Mapping[str, FilterField] = {}
    """How filters are entered, where the author describes it, by their name."""
    parse: Callable[[Mapping[str, str]], PanelFilters] = Filter.from_query
    """Reads the filters from the parameters of an address. Raises `ValueError`."""
    min_interval: float = 0.0
    """Seconds between two renders at least; a channel's tick is shorter."""
    refresh: float | None = None
    """Seconds after which it is rendered again without a signal, because it shows time passing."""
    kind: str = "core"
    plugin: str = ""
    """The plugin that brought it; empty for the core's own."""
    width: int = 12
    height: int = 0
    empty: str = ""
    """The text while there is nothing to show."""
    on_overview: bool = False
    """Whether the overview shows it."""
    bare: bool = False
    """Whether it is displayed without a card and a title around it."""
    is_event_list: bool = False
    """Whether it is a list of events, to which new ones are added at the top."""
    has_range: bool = False
    """Whether it shows the whole time window of its page, so that those of other windows differ."""
    exports: Sequence[PanelExport] = ()
    """The files that it can be downloaded as."""
    log_query: LogQuery | None = None
    """The log it follows, for panels of the kind `log`."""
    text_stream: str = ""
    """The text stream of its plugin that it displays, if any."""
    read_chart: ReadChart | None = None
    """Reads what a browser draws, for panels that are charts."""
    chart_span: float = 0.0
    """Seconds that a chart shows where its page shows no other range."""
    chart_marks: Mapping[str, bool] = {}
    """The events that a chart can mark, by title, and whether it does so by default."""
    is_repeatable: bool = False
    """Whether a page can have it more than once, with other filters."""

    @property
    def anchor(self) -> str:
        """The id of its element, in characters that are safe in a selector."""
        return "panel-" + self.name.replace(".", "-")

    def anchor_for(self, filters: PanelFilters) -> str:
        """The id of its element with these filters, for panels that a page can have repeatedly."""
        if not self.is_repeatable:
            return self.anchor
        query = urlencode(sorted(filters.to_query().items()))
        return f"{self.anchor}-{zlib.crc32(query.encode()):08x}"

    def parse_filters(self, query: Mapping[str, str]) -> PanelFilters:
        """Read the panel's filters from the parameters of an address. Raises `ValueError`."""
        return self.parse({name: text for name, text in query.items() if name in self.filters})

    def channel(self, filters: PanelFilters, window: TimeWindow = LIVE) -> str:
        """The name of its channel with these filters and this time window."""
        times = window.to_query() if self.has_range or not window.is_live else {}
        return self.name + encode_query({**filters.to_query(), **times})

    async def render(
        self,
        view: View,
        filters: PanelFilters,
        renderer: Renderer,
        replaced: Mapping[str, Any] | None = None,
    ) -> str:
        """Render the panel as of now or, where that fails, the error in its place.

        `replaced` are values of the template that replace those which the panel prepares.
        """
        try:
            text = await self._render(self.template, view, filters, renderer, replaced)
        except Exception as error:
            if self.name not in renderer.failed_panels:
                log.exception("a panel could not be rendered", panel=self.name, plugin=self.plugin)
            renderer.failed_panels.add(self.name)
            message = describe_render_error(error, self.template)
            return renderer.render("panel_error.html", {"panel": self, "message": message})
        if self.name in renderer.failed_panels:
            renderer.failed_panels.discard(self.name)
            log.info("a panel renders again", panel=self.name)
        return text

    async def render_export(
        self, export: PanelExport, view: View, filters: PanelFilters, renderer: Renderer
    ) -> str:
        """Render one of the `exports`. Raises what its template and its data raise."""
        template = f"{self.plugin}/{export.template}"
        return await self._render(template, view, filters, renderer)

    async def _render(
        self,
        template: str,
        view: View,
        filters: PanelFilters,
        renderer: Renderer,
        replaced: Mapping[str, Any] | None = None,
    ) -> str:
        # Whatever the panel computes with the present time is as of the moment of the view.
        with clock_at(view.moment):
            async with asyncio.timeout(RENDER_TIMEOUT):
                values = await self._prepare(view, filters)
            context = {
                "filter": filters, "panel": self, "moment": now(), **values, **(replaced or {}),
            }  # fmt: skip
            return await renderer.render_in_slices(template, context)

    async def _prepare(self, view: View, filters: PanelFilters) -> Mapping[str, Any]:
        """Prepare the values, once more for as long as samples of the past were missing."""
        while True:
            seen = view.resources.misses
            values = await self.prepare(view, filters)
            if not await view.resources.load_missing(seen):
                return values


def describe_render_error(error: Exception, template: str) -> str:
    """Return why a panel could not be rendered, with the line of its template if it is there."""
    if isinstance(error, TimeoutError):
        return f"its data did not arrive within {RENDER_TIMEOUT:.0f} s"
    if isinstance(error, jinja2.TemplateSyntaxError):
        # A plugin's loader reports the name within the plugin.
        name = error.name or template
        place = template if template.endswith(f"/{name}") else name
        return f"{type(error).__name__}: {error.message} ({place}, line {error.lineno})"
    if isinstance(error, jinja2.TemplateNotFound):
        return f"there is no template {error.name}; return it from almenara_templates"
    text = describe_error(error)
    text = text if text == type(error).__name__ else f"{type(error).__name__}: {text}"
    line = _template_line(error, template)
    return f"{text} ({template}, line {line})" if line is not None else text


def _template_line(error: Exception, template: str) -> int | None:
    """The line of the template in which an error arose: the innermost frame that is in it."""
    line = None
    step = error.__traceback__
    own_name = template.partition("/")[2]
    while step is not None:
        filename = step.tb_frame.f_code.co_filename
        if filename in ("<template>", template) or filename.endswith(f"/{own_name}"):
            line = step.tb_lineno
        step = step.tb_next
    return line
