"""`almenara tail`: events as lines of a terminal."""

import io
import re
from typing import Any

from hypothesis import given, strategies as st
from rich.console import Console

from almenara.cli.tail import format_event
from support.control_characters import TEXTS, interpreted_characters


@given(
    st.fixed_dictionaries(
        {
            **dict.fromkeys(("type", "origin", "subject", "severity", "time"), TEXTS),
            "timestamp": st.just(0),
            "data": st.dictionaries(TEXTS, TEXTS, max_size=3),
        }
    )
)
def test_format_event_is_one_line_of_plain_text(event: dict[str, Any]) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, color_system="standard", width=4000)
    console.print(format_event(event), soft_wrap=True)
    # Without our own colors.
    text = re.sub("\x1b\\[[0-9;]*m", "", output.getvalue())
    assert interpreted_characters(text.removesuffix("\n")) == set()
