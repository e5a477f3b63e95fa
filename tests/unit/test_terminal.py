"""Untrusted text is displayed by a terminal and never interpreted."""

import json
import re
from typing import Any

import pytest
import structlog
from hypothesis import given, strategies as st

from almenara.cli.common import CommandError
from almenara.config import LogSettings
from almenara.logs import configure_logging
from almenara.terminal import escape_control_characters, escape_json_control_characters
from support.control_characters import SEQUENCES, TEXTS, interpreted_characters

COLORS = re.compile("\x1b\\[[0-9;]*m")


@given(TEXTS)
def test_escape_control_characters_leaves_nothing_to_interpret(text: str) -> None:
    assert escape_control_characters(text).isprintable()
    lines = escape_control_characters(text, keep_newlines=True)
    assert interpreted_characters(lines) <= {"\n"}
    assert len(escape_control_characters(text)) == len(text)


@given(
    st.recursive(TEXTS, lambda part: st.lists(part) | st.dictionaries(TEXTS, part), max_leaves=8)
)
def test_escape_json_control_characters_keeps_the_value(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert escape_json_control_characters(text).isprintable()
    assert json.loads(escape_json_control_characters(text)) == value


def test_logs_and_command_errors_have_no_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = "".join(SEQUENCES)
    assert interpreted_characters(CommandError(text).message) <= {"\n"}
    config = structlog.get_config()
    try:
        configure_logging(LogSettings(format="console"))
        log = structlog.get_logger("test")
        log.warning("refused", host=text, listed=[text])
        log.error("failed", exc_info=ValueError(text))
        configure_logging(LogSettings(format="json"))
        structlog.get_logger("test").warning("refused", host=text)
    finally:
        structlog.configure(**config)
    output = COLORS.sub("", capsys.readouterr().err)
    assert "refused" in output
    assert "failed" in output
    assert interpreted_characters(output) <= {"\n"}, sorted(interpreted_characters(output))
