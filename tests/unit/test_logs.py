"""A log says what went wrong, and nothing of what variables held then."""

import json
import logging

import pytest
import structlog

from almenara.logs import configure_logging
from almenara.settings import LogSettings

HELD = "held-by-a-variable"


def sign_in(password: str) -> None:
    headers = {"authorization": f"Bearer {password}"}
    raise LookupError(f"no answer to {len(headers)} header")


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_variables_of_a_failure_are_in_no_log(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, handlers = structlog.get_config(), logging.root.handlers[:]
    try:
        configure_logging(LogSettings(format=form))  # type: ignore[arg-type]
        try:
            sign_in(HELD)
        except LookupError:
            structlog.get_logger("test").exception("a request failed")
            logging.getLogger("a.library").exception("a request failed")
    finally:
        structlog.configure(**before)
        logging.root.handlers[:] = handlers
    said = capsys.readouterr().err
    assert said.count("no answer to 1 header") == 2
    assert said.count("sign_in") >= 2
    assert HELD not in said
    if form == "json":
        assert {json.loads(line)["event"] for line in said.splitlines()} == {"a request failed"}
