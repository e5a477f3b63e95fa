"""URLs in texts lose their credentials and keep what helps to find the setting."""

import pytest

from almenara.errors import describe_error
from almenara.urls import redact_urls

SECRET = "s3cr3t-word"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"nats://user:{SECRET}@nats:4222", "nats://***@nats:4222"),
        (f"nats://{SECRET}@nats:4222/", "nats://***@nats:4222/"),
        (f"tls://user:a/{SECRET}@nats:4222", "tls://***@nats:4222"),
        (f"https://a/path?key={SECRET}&page=2", "https://a/path?key=***&page=***"),
        (f"https://a/path?{SECRET}", "https://a/path?***"),
        (f"https://a/path#access_token={SECRET}", "https://a/path#access_token=***"),
        (f"https://a/?key={SECRET}#{SECRET}", "https://a/?key=***#***"),
        (f"https://a/?key={SECRET};sig={SECRET}", "https://a/?key=***;sig=***"),
        (f"GET 'https://a/?key={SECRET}': timeout", "GET 'https://a/?key=***': timeout"),
        (f"see https://a/?key={SECRET}.", "see https://a/?key=***."),
        (f"https://u:{SECRET}@a and https://b?x={SECRET}", "https://***@a and https://b?x=***"),
        ("https://a.example.org:8443/path", "https://a.example.org:8443/path"),
        ("see https://a.example.org/docs.", "see https://a.example.org/docs."),
        ("https://[::1]:8080/readyz", "https://[::1]:8080/readyz"),
        (f"{'a' * 60}://u:{SECRET}@a/?x={SECRET}", f"{'a' * 60}://***@a/?x=***"),
        ("no URL: user@host?key=value", "no URL: user@host?key=value"),
    ],
)
def test_redact_urls_replaces_credentials(text: str, expected: str) -> None:
    assert redact_urls(text) == expected
    assert SECRET not in redact_urls(text)


def test_describe_error_redacts_urls() -> None:
    error = ConnectionError(f"Max retries exceeded with url: http://a/health?token={SECRET}")
    assert describe_error(error) == "Max retries exceeded with url: http://a/health?token=***"
