"""Saved dashboards, charts and metrics show each viewer what their own scope shows."""

import pytest

from support.secured_server import SecuredServer
from support.servers import wait_until

TEXT = """
name: shared
title: Shared
panels:
  - panel: nats.streams
  - {panel: chart, title: Messages, filter: {metric: messages, kind: nats.stream}}
"""
PAGES = (
    "/dashboards/shared", "/explore", "/explore?metric=messages&kind=nats.stream",
    "/api/charts/chart?metric=messages", "/api/charts/chart?metric=messages&range=24h",
    "/api/charts/nats.sizes", "/api/charts/chart?metric=messages&marks=Failures",
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(secured: SecuredServer) -> SecuredServer:
    """With a dashboard of an operator that is shared with everyone."""
    wait_until(
        lambda: "TEAM_B" in secured.get("/api/charts/nats.sizes", "viewer").text, "samples", 60
    )
    form = {"yaml": TEXT, "share": "viewer", "version": "0"}
    answer = secured.request("POST", "/dashboard-editor", "operator", data=form)
    assert answer.status_code == 303, answer.text
    return secured


@pytest.mark.parametrize("path", PAGES)
def test_page_shows_what_the_scope_of_the_viewer_shows(shared: SecuredServer, path: str) -> None:
    # The list of metrics names kinds and no resources.
    shown = "nats.stream" if path == "/explore" else "TEAM_B"
    for who in ("viewer", "operator", "admin"):
        assert shown in shared.get(path, who).text, who
    for who in ("scoped", "scoped admin"):
        answer = shared.get(path, who)
        assert answer.status_code == 200, answer.text
        assert "TEAM_B" not in answer.text, who


def test_dashboard_is_private_until_it_is_shared(shared: SecuredServer) -> None:
    form = {"yaml": TEXT.replace("name: shared", "name: private"), "share": "owner", "version": "0"}
    assert shared.request("POST", "/dashboard-editor", "viewer", data=form).status_code == 303
    for path in ("/dashboards/private", "/dashboards/private/export",
                 "/dashboard-editor?name=private"):  # fmt: skip
        assert shared.get(path, "viewer").status_code == 200, path
        for who in ("operator", "admin", "scoped"):
            assert shared.get(path, who).status_code == 404, (path, who)
    assert "private" not in shared.get("/dashboards", "admin").text


def test_dashboard_of_another_user_is_not_changed(shared: SecuredServer) -> None:
    form = {"yaml": TEXT.replace("Shared", "Taken"), "name": "shared", "version": "1"}
    answer = shared.request("POST", "/dashboard-editor", "viewer", data=form)
    assert answer.status_code == 400
    assert "belongs to another dashboard" in answer.text
    removal = {"name": "shared", "version": "1"}
    answer = shared.request("POST", "/dashboard-editor/delete", "viewer", data=removal)
    assert answer.status_code == 409
    assert "Shared" in shared.get("/dashboards/shared", "viewer").text
