"""The Jinja environment: everything printed is escaped, and no character stays invisible."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from almenara.panels.formats import FILTERS
from almenara.panels.slices import map_in_slices
from almenara.panels.sparkline import render_sparkline

TEMPLATES: Final = Path(__file__).parent / "templates"

INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that hide themselves or reorder their neighbours; tab and line feed are harmless."""
LINE_BREAK: Final = re.compile(r"(?<=[>}])[ \t]*\n\s*(?=[<{])")
"""A line break between two tags of a template, with the indentation that follows."""
INSIDE_TABLE: Final = re.compile(
    r"(?<=>)[ \t]*\n\s*(?=</?(?:table|caption|thead|tbody|tfoot|tr|th|td|dl|dt|dd)\b)"
)
"""The same before a part of a table or of a description list, where no browser shows it."""


def reveal_invisible(text: str) -> str:
    """The text with control, bidirectional and zero-width characters written as symbols."""
    # Python calls none of them printable, so most texts need no search.
    return text if text.isprintable() else INVISIBLE.sub(_symbol, text)


def _symbol(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\u27e8U+{code:04X}\u27e9"


def _finalize(value: Any) -> Any:
    # Jinja calls this on every printed expression, so no template can forget it.
    if type(value) is str:
        return reveal_invisible(value)
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, Markup):
        return reveal_invisible(value)
    return value


class _Environment(jinja2.Environment):
    """Resolves the names that a plugin's template includes: its own first, then the core's."""

    def join_path(self, template: str, parent: str) -> str:
        prefix, slash, _ = parent.partition("/")
        if not slash:
            return template
        own = f"{prefix}/{template}"
        try:
            if self.loader is not None:
                self.loader.get_source(self, own)
        except jinja2.TemplateNotFound:
            return template
        return own


class _PluginLoader(jinja2.PrefixLoader):
    """Templates of plugins, which keep their full name, so that their includes are resolved."""

    load = jinja2.BaseLoader.load


class _CompactLoader(jinja2.FileSystemLoader):
    """Templates of panels, written one element a line and rendered without `breaks`.

    Frames go to every browser many times a second. Each break becomes a comment with as many
    lines, so that the line numbers in errors stay right.
    """

    def __init__(self, folder: Path, breaks: re.Pattern[str]) -> None:
        super().__init__(folder)
        self._breaks = breaks

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str, Callable[[], bool]]:
        source, path, is_fresh = super().get_source(environment, template)
        compact = self._breaks.sub(lambda match: "{#" + "\n" * match[0].count("\n") + "#}", source)
        return compact, path, is_fresh


class Renderer:
    """Renders the templates of panels, pages and plugins; autoescape is always on."""

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self.failed_panels: set[str] = set()
        """Panels whose last render failed."""
        self._plugin_loaders: dict[str, jinja2.BaseLoader] = {}
        self.environment = _Environment(
            loader=jinja2.ChoiceLoader(
                [
                    _PluginLoader(self._plugin_loaders),
                    _CompactLoader(TEMPLATES, LINE_BREAK),
                    jinja2.FileSystemLoader([*folders]),
                ]
            ),
            autoescape=True,
            finalize=_finalize,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.environment.filters |= {**FILTERS, "sparkline": render_sparkline}

    def add(self, plugin: str, templates: Path | Mapping[str, str]) -> None:
        """Make the templates of a plugin available as `<plugin>/<name>`."""
        self._plugin_loaders[plugin] = (
            _CompactLoader(templates, INSIDE_TABLE)
            if isinstance(templates, Path)
            else jinja2.DictLoader(templates)
        )
        self._clear_cache()

    def remove(self, plugin: str) -> None:
        """Remove the templates of a plugin."""
        self._plugin_loaders.pop(plugin, None)
        self._clear_cache()

    def _clear_cache(self) -> None:
        if self.environment.cache is not None:
            self.environment.cache.clear()

    async def render_in_slices(self, template: str, context: Mapping[str, Any]) -> Markup:
        """`render`, with turns for others on the event loop while a long text is rendered."""
        parts = self.environment.get_template(template).generate(context)
        return Markup("".join(await map_in_slices(str, parts)))  # noqa: S704  # nosec B704 # nosemgrep: markup-made-in-python # a template of ours, which escapes

    def render(self, template: str, context: Mapping[str, Any]) -> Markup:
        """Render a template to safe text. Raises what Jinja and the template raise."""
        return Markup(self.environment.get_template(template).render(context))  # noqa: S704  # nosec B704 # nosemgrep: markup-made-in-python # a template of ours, which escapes
