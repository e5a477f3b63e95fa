"""Saved dashboards, charts and metrics show each viewer what their own scope shows."""

import re

import pytest

from support.secured_server import THEIRS, SecuredServer
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
    for caller in ("viewer", "operator", "admin"):
        assert shown in shared.get(path, caller).text, caller
    for caller in ("scoped", "scoped admin"):
        answer = shared.get(path, caller)
        assert answer.status_code == 200, answer.text
        assert "TEAM_B" not in answer.text, caller


def test_dashboard_is_private_until_it_is_shared(shared: SecuredServer) -> None:
    form = {"yaml": TEXT.replace("name: shared", "name: private"), "share": "owner", "version": "0"}
    assert shared.request("POST", "/dashboard-editor", "viewer", data=form).status_code == 303
    for path in ("/dashboards/private", "/dashboards/private/export",
                 "/dashboard-editor?name=private"):  # fmt: skip
        assert shared.get(path, "viewer").status_code == 200, path
        for caller in ("operator", "admin", "scoped"):
            assert shared.get(path, caller).status_code == 404, (path, caller)
    assert "private" not in shared.get("/dashboards", "admin").text


def test_saved_filter_is_shared_by_role_and_shows_what_the_scope_shows(
    shared: SecuredServer,
) -> None:
    form = {"title": "All of team B", "type": "teamb.*", "share": "viewer", "version": "0"}
    answer = shared.request("POST", "/event-filters/edit", "operator", data=form)
    assert answer.status_code == 303, answer.text
    events = answer.headers["location"]
    for caller in ("viewer", "operator", "admin", "scoped", "scoped admin"):
        assert "All of team B" in shared.get("/event-filters", caller).text, caller
        page = shared.get(events, caller).text
        assert 'aria-current="true">All of team B' in page, caller
        assert (THEIRS in page) is not caller.startswith("scoped"), caller
    form |= {"title": "Mine alone", "share": "owner"}
    assert shared.request("POST", "/event-filters/edit", "viewer", data=form).status_code == 303
    listed = shared.get("/event-filters", "viewer").text
    (edit,) = re.findall(r'href="(/event-filters/edit\?id=\w+)" aria-label="Edit Mine', listed)
    for caller in ("operator", "admin", "scoped"):
        assert "Mine alone" not in shared.get("/event-filters", caller).text, caller
        assert shared.get(edit, caller).status_code == 404, caller
        removal = {"id": edit.partition("=")[2], "version": "1"}
        answer = shared.request("POST", "/event-filters/delete", caller, data=removal)
        assert answer.status_code == 404, caller


def test_dashboard_of_another_user_is_not_changed(shared: SecuredServer) -> None:
    form = {"yaml": TEXT.replace("Shared", "Taken"), "name": "shared", "version": "1"}
    answer = shared.request("POST", "/dashboard-editor", "viewer", data=form)
    assert answer.status_code == 400
    assert "belongs to another dashboard" in answer.text
    removal = {"name": "shared", "version": "1"}
    answer = shared.request("POST", "/dashboard-editor/delete", "viewer", data=removal)
    assert answer.status_code == 409
    assert "Shared" in shared.get("/dashboards/shared", "viewer").text
