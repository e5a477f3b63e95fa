"""Untrusted text on a page: hidden and reordering characters are written out."""

import unicodedata
from pathlib import Path

import jinja2
import pytest
from hypothesis import given

from almenara.panels.renderer import Renderer, reveal_invisible
from support.control_characters import SEQUENCES, TEXTS, interpreted_characters

REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(TEXTS)
def test_visible_writes_out_control_and_reordering_characters(text: str) -> None:
    output = reveal_invisible(text)
    controls = {char for char in output if ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0}
    assert controls <= {"\t", "\n"}
    assert not any(unicodedata.bidirectional(char) in REORDERING for char in output)


@pytest.mark.parametrize("text", SEQUENCES)
def test_renderer_writes_out_characters_in_every_template(text: str) -> None:
    template = Renderer().environment.from_string("{{ it }}|{% for c in [it] %}{{ c }}{% endfor %}")
    assert not interpreted_characters(template.render(it=text)) - {"\n"}


def test_renderer_leaves_out_line_breaks_inside_tables_of_plugins(tmp_path: Path) -> None:
    (tmp_path / "pods.html").write_text(
        "<table>\n  <tr>\n    <td>{{ name }}</td>\n    <td>2</td>\n  </tr>\n</table>\n"
        "<b>a</b>\n<i>b</i>\n{{ missing }}\n"
    )
    renderer = Renderer()
    renderer.add("own", tmp_path)
    with pytest.raises(jinja2.UndefinedError) as caught:
        renderer.render("own/pods.html", {"name": "web"})
    lines = [entry.lineno + 1 for entry in caught.traceback if "pods.html" in str(entry.path)]
    assert lines == [9]
    text = renderer.render("own/pods.html", {"name": "web", "missing": ""})
    # Between other elements a browser shows a line break as a space.
    assert text == ("<table><tr><td>web</td><td>2</td></tr></table>\n<b>a</b>\n<i>b</i>\n")


@pytest.mark.parametrize(("events", "text"), [(1, "1 event, 1 error"), (2, "2 events, 2 errors")])
def test_histogram_counts_one_event_in_the_singular(events: int, text: str) -> None:
    bar = {
        "link": "/events", "start": 0, "count": events, "errors": events, "place": 0, "height": 1,
        "error_height": 1,
    }  # fmt: skip
    values = {
        "bars": [bar], "total": events, "errors": events, "width": 30, "first": 0,
        "last": 30_000_000,
    }  # fmt: skip
    html = str(Renderer().render("histogram.html", values))
    assert f"{text}</title>" in html
    caption = " ".join(jinja2.filters.do_striptags(html.partition("<figcaption>")[2]).split())
    assert f"{text}, 30 s per bar" in caption
