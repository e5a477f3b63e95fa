"""Templates to text. Whatever a template prints is escaped, and nothing in it stays invisible."""

import functools
import math
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import jinja2
import msgspec
from markupsafe import Markup

from almenara.signals import format_time, now

TEMPLATES: Final = Path(__file__).parent / "templates"

INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that hide themselves or reorder their neighbours; tab and line feed are harmless."""

HUES: Final = 8
LONGEST_TEXT: Final = 400
LATEST_TIME: Final = 253_402_300_799_999_999
EARLIEST_TIME: Final = -62_135_596_800_000_000


def visible(text: str) -> str:
    """The text with control, bidirectional and zero-width characters written out."""
    # Nothing that Python calls printable is among them, and that is told at once.
    return text if text.isprintable() else INVISIBLE.sub(_written_out, text)


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\u27e8U+{code:04X}\u27e9"


def _finalize(value: Any) -> Any:
    # Jinja calls this on every printed expression, so no template can forget it.
    if type(value) is str:
        return visible(value)
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return value


@functools.lru_cache(maxsize=64)
def timestamp(microseconds: int) -> str:
    """RFC 3339, or a plain statement for a time that no calendar holds."""
    if EARLIEST_TIME <= microseconds <= LATEST_TIME:
        return format_time(microseconds)[:-4] + "Z"
    return f"{microseconds} \u00b5s, outside the calendar"


def clock(microseconds: int) -> str:
    """The time of day to the millisecond, UTC."""
    text = timestamp(microseconds)
    return text[11:-1] if text.endswith("Z") else text


def query(parameters: Mapping[str, str]) -> str:
    """`?a=b`, ready for an address; empty without parameters."""
    return f"?{urlencode(parameters)}" if parameters else ""


def number(value: float | None) -> str:
    """A figure as people read it: `12,345`, `0.4`, and a dash for none."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    if value and abs(value) < 10 and value != int(value):
        return f"{value:.1f}"
    return f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes with a binary prefix."""
    if value is None or not math.isfinite(value):
        return "\u2013"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


@functools.lru_cache(maxsize=1024)
def hue(text: str) -> int:
    """One of a few colours for a name, the same on every page and after every start."""
    # The lowest bits of a checksum are much alike for names that are much alike.
    return zlib.crc32(text.encode("utf-8", "replace")) // 7 % HUES


def duration(seconds: float | None) -> str:
    """A length of time as people say it: `3 ms`, `4.2 s`, `3 min 5 s`, `2 h 3 min`, `9 d 4 h`."""
    if seconds is None or not math.isfinite(seconds):
        return "\u2013"
    if seconds < 0:
        return f"\u2212{duration(-seconds)}"
    if seconds < 0.0095:
        return f"{seconds * 1000:.1f} ms" if seconds else "0 s"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


AGES: Final = (
    # Up to how long, in which unit, and in which smaller one the rest is told.
    (120, "s", ""), (600, "m", "s"), (10_800, "m", ""), (28_800, "h", "m"), (172_800, "h", ""),
    (691_200, "d", "h"), (63_072_000, "d", ""), (math.inf, "y", ""),
)  # fmt: skip
UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "y": 31_536_000}


def age(seconds: float) -> str:
    """How long ago in the fewest letters, as kubectl says it: `13s`, `3m5s`, `57m`, `8d12h`."""
    if not math.isfinite(seconds):
        return "\u2013"
    passed = max(int(seconds), 0)
    unit, smaller = next((unit, smaller) for most, unit, smaller in AGES if passed < most)
    whole, rest = divmod(passed, UNITS[unit])
    fine = rest // UNITS[smaller] if smaller else 0
    return f"{whole}{unit}{fine}{smaller}" if fine else f"{whole}{unit}"


def percent(share: float | None) -> str:
    """A share of one, in percent."""
    if share is None or not math.isfinite(share):
        return "\u2013"
    return f"{share * 100:.1f} %" if abs(share) < 0.1 else f"{share * 100:.0f} %"


FORMATS: Final[Mapping[str, Callable[[float | None], str]]] = {
    "number": number,
    "bytes": size,
    "seconds": duration,
    "percent": percent,
}


def formatted(value: Any, how: str) -> str:
    """A value in one of the formats of `hookspecs.Column`; what does not fit it as text."""
    if value is None or value == "":
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if how in FORMATS and isinstance(value, int | float):
        return FORMATS[how](value)
    if how == "time" and isinstance(value, int | float):
        return timestamp(int(value))
    if how == "age" and isinstance(value, int | float):
        return age((now() - value) / 1_000_000)
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "\u2026"
    if isinstance(value, float):
        return f"{value:g}"
    text = msgspec.json.encode(value, enc_hook=str).decode("utf-8", "replace")
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "\u2026"


class _Environment(jinja2.Environment):
    """Finds templates that a plugin's template names without its plugin's prefix."""

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


class _OfPlugins(jinja2.PrefixLoader):
    """Templates of plugins, which keep their whole name, so that what they include is found."""

    load = jinja2.BaseLoader.load


class Renderer:
    """The Jinja environment of panels and pages, autoescape always on."""

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self.broken: set[str] = set()
        """Panels that could not be drawn the last time."""
        self._of_plugins: dict[str, jinja2.BaseLoader] = {}
        self.environment = _Environment(
            loader=jinja2.ChoiceLoader(
                [
                    _OfPlugins(self._of_plugins),
                    jinja2.FileSystemLoader([*folders, TEMPLATES]),
                ]
            ),
            autoescape=True,
            finalize=_finalize,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self.environment.filters |= {
            "timestamp": timestamp,
            "clock": clock,
            "query": query,
            "number": number,
            "hue": hue,
            "size": size,
            "duration": duration,
            "percent": percent,
            "formatted": formatted,
        }

    def add(self, plugin: str, templates: Path | Mapping[str, str]) -> None:
        """Let the templates of a plugin be found as `<plugin>/<name>`."""
        self._of_plugins[plugin] = (
            jinja2.FileSystemLoader(templates)
            if isinstance(templates, Path)
            else jinja2.DictLoader(templates)
        )
        self._forget()

    def remove(self, plugin: str) -> None:
        """Forget the templates of a plugin."""
        self._of_plugins.pop(plugin, None)
        self._forget()

    def _forget(self) -> None:
        if self.environment.cache is not None:
            self.environment.cache.clear()

    def render(self, template: str, context: Mapping[str, Any]) -> Markup:
        """The template as safe text."""
        return Markup(self.environment.get_template(template).render(context))  # noqa: S704  # nosec B704 # a template of ours, which escapes


class Frame(msgspec.Struct, frozen=True):
    """What the browsers of a channel are sent, rendered and encoded once for all of them."""

    text: str
    """The hx-ws envelope. Text and not bytes: hx-ws swaps nothing that comes in a binary frame."""
    size: int
    rows: bool
    """Whether it adds to what is on screen and therefore means nothing to who missed the last."""
    packed: dict[bool, bytes] = {}
    """What goes over the wire, plain and compressed, once somebody needs it: see `web/wire.py`."""


def envelope(content: str, target: str, swap: str, *, rows: bool = False, **notes: Any) -> Frame:
    """The hx-ws envelope of a fragment; `notes` are for the page's script."""
    encoded = msgspec.json.encode(
        {"content": str(content), "target": target, "swap": swap, **notes}
    )
    return Frame(encoded.decode(), len(encoded), rows)
