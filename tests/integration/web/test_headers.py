"""The security headers of responses."""

import urllib.error
import urllib.request

import pytest

from support.application import Almenara

pytestmark = pytest.mark.anyio


async def test_responses_have_a_strict_content_security_policy(idle_almenara: Almenara) -> None:
    for path in ("/", "/events", "/sources", "/nowhere", "/healthz", "/api/health"):
        try:
            response = urllib.request.urlopen(idle_almenara.url + path)
        except urllib.error.HTTPError as error:
            response = error
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["server"] is None
