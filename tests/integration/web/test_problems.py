"""Errors as problem details for programs and as pages for people."""

import urllib.error
import urllib.request

import pytest

from support.application import Almenara

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/api/nowhere", 404, "application/problem+json"),
        ("POST", "/api/resources", 405, "application/problem+json"),
        ("GET", "/nowhere", 404, "text/html"),
        ("POST", "/events", 405, "text/html"),
    ],
)
def test_unknown_address_is_reported_to_programs_and_people(
    almenara: Almenara, method: str, path: str, status: int, kind: str
) -> None:
    asked = urllib.request.Request(
        almenara.url + path, method=method, headers={"origin": almenara.url}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=10)
    answer = refused.value
    assert answer.code == status
    assert answer.headers.get_content_type() == kind
    assert ("GET" in answer.headers.get("allow", "")) == (status == 405)
    assert "address" in answer.read().decode()
