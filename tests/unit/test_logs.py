"""Logging: tracebacks without the values of variables, and throttled repetition."""

import json
import logging

import pytest
import structlog

from almenara import logs
from almenara.config import LogSettings
from almenara.logs import configure_logging

VALUE = "value-of-a-variable"


def sign_in(password: str) -> None:
    headers = {"authorization": f"Bearer {password}"}
    raise LookupError(f"no answer to {len(headers)} header")


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_configure_logging_omits_values_of_variables(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, handlers = structlog.get_config(), logging.root.handlers[:]
    try:
        configure_logging(LogSettings(format=log_format))  # type: ignore[arg-type]
        try:
            sign_in(VALUE)
        except LookupError:
            structlog.get_logger("test").exception("a request failed")
            logging.getLogger("a.library").exception("a request failed")
    finally:
        structlog.configure(**config)
        logging.root.handlers[:] = handlers
    output = capsys.readouterr().err
    assert output.count("no answer to 1 header") == 2
    assert output.count("sign_in") >= 2
    assert VALUE not in output
    if log_format == "json":
        assert {json.loads(line)["event"] for line in output.splitlines()} == {"a request failed"}


def test_log_throttle_suppresses_and_counts_repeated_warnings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LINES_PER_WINDOW", 3)
    config, handlers = structlog.get_config(), logging.root.handlers[:]
    try:
        configure_logging(LogSettings(format="json"))
        log, library = structlog.get_logger("flood"), logging.getLogger("a.library")
        for number in range(10):
            log.warning("refused", number=number)
            log.info("signed in", number=number)
            library.warning("Invalid %s received.", number)
        monkeypatch.setattr(logs, "WINDOW_SECONDS", 0.0)
        log.warning("refused", number=10)
        library.warning("Invalid %s received.", 10)
    finally:
        structlog.configure(**config)
        logging.root.handlers[:] = handlers
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    refused = [line for line in lines if line["event"] == "refused"]
    assert [line["number"] for line in refused] == [0, 1, 2, 10]
    assert refused[-1]["suppressed"] == 7
    assert sum(line["event"] == "signed in" for line in lines) == 10
    assert [line["event"] for line in lines if "Invalid" in line["event"]] == [
        "Invalid 0 received.", "Invalid 1 received.", "Invalid 2 received.",
        "Invalid 10 received. (7 similar messages suppressed)",
    ]  # fmt: skip
