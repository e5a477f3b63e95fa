"""Untrusted text on a page: hidden and reordering characters are written out."""

import unicodedata

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
