"""Errors as problem details for programs and as pages for people."""

import json
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
    idle_almenara: Almenara, method: str, path: str, status: int, kind: str
) -> None:
    request = urllib.request.Request(
        idle_almenara.url + path, method=method, headers={"origin": idle_almenara.url}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    answer = refused.value
    assert answer.code == status
    assert answer.headers.get_content_type() == kind
    assert ("GET" in answer.headers.get("allow", "")) == (status == 405)
    assert "address" in answer.read().decode()


@pytest.mark.parametrize(
    ("path", "accept", "kind"),
    [
        ("/account/tokens", "text/html,application/xhtml+xml", "text/html"),
        ("/account/tokens", "*/*", "application/problem+json"),
        ("/api/events", "text/html", "application/problem+json"),
    ],
)
def test_refused_form_is_reported_as_a_page_to_people(
    idle_almenara: Almenara, path: str, accept: str, kind: str
) -> None:
    request = urllib.request.Request(
        idle_almenara.url + path,
        method="POST",
        data=b"name=a",
        headers={"origin": "https://evil.example", "accept": accept},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 403
    assert refused.value.headers.get_content_type() == kind
    body = refused.value.read().decode()
    assert "<h1>" in body if kind == "text/html" else "detail" in json.loads(body)
