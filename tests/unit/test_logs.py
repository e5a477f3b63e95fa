"""A log says what went wrong, and nothing of what variables held then."""

import json
import logging

import pytest
import structlog

from almenara import logs
from almenara.config import LogSettings
from almenara.logs import configure_logging

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


def test_of_a_flood_of_warnings_the_first_are_written_and_how_many_were_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "A_MINUTE", 3)
    before, handlers = structlog.get_config(), logging.root.handlers[:]
    try:
        configure_logging(LogSettings(format="json"))
        log, library = structlog.get_logger("flood"), logging.getLogger("a.library")
        for number in range(10):
            log.warning("refused", number=number)
            log.info("signed in", number=number)
            library.warning("Invalid %s received.", number)
        monkeypatch.setattr(logs, "MINUTE", 0.0)
        log.warning("refused", number=10)
        library.warning("Invalid %s received.", 10)
    finally:
        structlog.configure(**before)
        logging.root.handlers[:] = handlers
    lines = [json.loads(it) for it in capsys.readouterr().err.splitlines()]
    refused = [it for it in lines if it["event"] == "refused"]
    assert [it["number"] for it in refused] == [0, 1, 2, 10]
    assert refused[-1]["not_written_before"] == 7
    assert sum(it["event"] == "signed in" for it in lines) == 10
    assert [it["event"] for it in lines if "Invalid" in it["event"]] == [
        "Invalid 0 received.", "Invalid 1 received.", "Invalid 2 received.",
        "Invalid 10 received. (7 like it were not written)",
    ]  # fmt: skip
