import pytest
from nats.errors import (
    ConnectionClosedError,
    NoRespondersError,
    TimeoutError as NatsTimeoutError,
)
from nats.js.errors import APIError, BadRequestError, NoStreamResponseError, ServiceUnavailableError

from almenara_nats.errors import (
    PermissionDeniedError,
    describe_nats_error,
    suggest_jetstream_remedy,
)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ServiceUnavailableError(), "JetStream does not respond on this account"),
        (NoRespondersError(), "JetStream does not respond on this account"),
        (NoStreamResponseError(), "JetStream does not respond on this account"),
        (
            BadRequestError(
                code=400, err_code=10026, description="maximum consumers limit reached"
            ),
            "maximum consumers limit reached (code 10026)",
        ),
        (NatsTimeoutError(), "no response in time"),
        (TimeoutError(), "no response in time"),
        (ExceptionGroup("x", [TimeoutError(), TimeoutError()]), "no response in time"),
    ],
)
def test_error_is_described_in_words(error: BaseException, text: str) -> None:
    assert describe_nats_error(error) == text
    assert "None" not in describe_nats_error(error)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ServiceUnavailableError(), "Enable JetStream"),
        (APIError(code=503, err_code=10039, description="not enabled"), "Enable JetStream"),
        (PermissionDeniedError("the server denies publishing to x"), "Allow it"),
        (
            PermissionDeniedError("the server denies publishing to $JS.API.STREAM.CREATE.S"),
            "as a user that may create",
        ),
        (NatsTimeoutError(), "has a leader"),
        (APIError(code=503, err_code=10008, description="unavailable"), "has no leader"),
        (APIError(code=400, err_code=10065, description="overlap"), "set another one"),
        (ConnectionClosedError(), "opened again"),
        (APIError(code=500, err_code=10001, description="broken"), "server's log"),
    ],
)
def test_remedy_fits_the_cause(error: Exception, remedy: str) -> None:
    assert remedy in suggest_jetstream_remedy(error)
