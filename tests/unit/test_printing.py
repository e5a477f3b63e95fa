"""What comes from outside is shown by a terminal and by a page, and obeyed by neither."""

import io
import json
import re
import unicodedata
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from almenara.cli.main import Failure, event_line
from almenara.config import LogSettings
from almenara.logs import configure_logging
from almenara.panels.renderer import Renderer, visible
from almenara.terminal import printable, printable_json

NASTY = [
    "\x1b[2J\x1b]0;title\x07", "\x9b31m", "\x90q\x9c", "\x85", "\u202egpj.exe", "\u2066\u2069",
    "\u200b\u200d\ufeff", "\u2028\u2029", "\x00\x08\x7f", "\r\nfaked", "\U000e0041", "\u206a",
    "\u061c\u180e",
]  # fmt: skip
TEXTS = st.one_of(
    st.text(),
    st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=5)), max_size=6).map("".join),
)
OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def hidden(text: str) -> set[str]:
    return {it for it in text if unicodedata.category(it) in OBEYED}


@given(TEXTS)
def test_a_terminal_gets_nothing_that_it_would_obey(text: str) -> None:
    assert printable(text).isprintable()
    assert hidden(printable(text, lines=True)) <= {"\n"}
    assert len(printable(text)) == len(text)


@given(st.recursive(TEXTS, lambda it: st.lists(it) | st.dictionaries(TEXTS, it), max_leaves=8))
def test_json_for_a_terminal_says_the_same_with_nothing_to_obey(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert printable_json(text).isprintable()
    assert json.loads(printable_json(text)) == value


@given(st.fixed_dictionaries({
    **dict.fromkeys(("type", "origin", "subject", "severity", "time"), TEXTS),
    "timestamp": st.just(0), "data": st.dictionaries(TEXTS, TEXTS, max_size=3),
}))  # fmt: skip
def test_an_event_in_the_terminal_is_one_line_of_plain_text(event: dict[str, Any]) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, color_system="standard", width=4000)
    console.print(event_line(event), soft_wrap=True)
    # What is left when our own colours are taken out.
    text = re.sub("\x1b\\[[0-9;]*m", "", written.getvalue())
    assert hidden(text.removesuffix("\n")) == set()


@given(TEXTS)
def test_a_page_writes_out_what_hides_or_reorders(text: str) -> None:
    shown = visible(text)
    controls = {it for it in shown if ord(it) < 0x20 or 0x7F <= ord(it) < 0xA0}
    assert controls <= {"\t", "\n"}
    assert not any(unicodedata.bidirectional(it) in BIDI for it in shown)


BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@pytest.mark.parametrize("text", NASTY)
def test_no_template_can_forget_to_write_it_out(text: str) -> None:
    template = Renderer().environment.from_string("{{ it }}|{% for c in [it] %}{{ c }}{% endfor %}")
    assert not hidden(template.render(it=text)) - {"\n"}


def test_the_log_and_the_errors_of_a_terminal_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    text = "".join(NASTY)
    assert hidden(Failure(text).message) <= {"\n"}
    before = structlog.get_config()
    try:
        configure_logging(LogSettings(format="console"))
        log = structlog.get_logger("test")
        log.warning("refused", host=text, listed=[text])
        log.error("failed", exc_info=ValueError(text))
        configure_logging(LogSettings(format="json"))
        structlog.get_logger("test").warning("refused", host=text)
    finally:
        structlog.configure(**before)
    said = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().err)
    assert "refused" in said
    assert "failed" in said
    assert hidden(said) <= {"\n"}, sorted(hidden(said))
