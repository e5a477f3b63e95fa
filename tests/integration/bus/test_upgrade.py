"""An installation of version 0.1.0 goes on with its history, sign-ins and plugin state."""

import shutil
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.application import Almenara
from support.paths import FIXTURES

API_TOKEN = "alm_0123456789ab_fixture-api-secret"
ACCESS_TOKEN = "fixture-access-token-of-v0.1"
COOKIE = "almenara=fixture-session-cookie"
CENTURY = "3000000000"


@pytest.fixture
def upgraded(tmp_path: Path) -> Iterator[Almenara]:
    shutil.copytree(FIXTURES / "v0.1", tmp_path / "var", ignore=shutil.ignore_patterns("*.md"))
    with Almenara(
        tmp_path,
        auth__mode="token",
        storage__retention_age=CENTURY,
        auth__session_idle_timeout=CENTURY,
    ) as almenara:
        yield almenara


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {API_TOKEN}"},
        {"authorization": f"Bearer {ACCESS_TOKEN}"},
        {"cookie": COOKIE},
    ],
    ids=["API token", "access token", "session"],
)
def test_upgrade_accepts_credentials_of_version_0_1(
    upgraded: Almenara, headers: dict[str, str]
) -> None:
    assert upgraded.status("/api/events") == 401
    assert upgraded.status("/api/events", **headers) == 200


def test_upgrade_serves_every_event_and_resource_of_version_0_1(upgraded: Almenara) -> None:
    token = {"authorization": f"Bearer {ACCESS_TOKEN}"}
    events = [each for each in upgraded.events(headers=token) if each["type"] != "access"]
    fleet = [each for each in events if each["id"].startswith("e-")]
    assert [each["id"] for each in fleet] == [f"e-{number}" for number in range(43)]
    assert fleet[41]["problem"] == "the payload is not UTF-8"
    resources = upgraded.get("/api/resources", headers=token)
    listed = {(each["kind"], each["name"]): each.get("deleted", False) for each in resources}
    assert listed[("pod", "web-1")] is listed[("pod", "web-3")] is listed[("node", "n1")] is False
    assert listed.get(("pod", "web-2"), True) is True
    with pytest.raises(urllib.error.HTTPError):
        upgraded.get("/api/events")
