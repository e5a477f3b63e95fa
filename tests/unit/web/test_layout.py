"""The navigation of pages."""

import pytest

from almenara.web.dashboards import Dashboard
from almenara.web.layout import build_navigation

DASHBOARDS = [
    Dashboard(name="overview", title="Overview", panels=[]),
    Dashboard(name="kubernetes", title="Kubernetes", panels=[]),
    Dashboard(name="kubernetes.pods", title="Pods", panels=[]),
    Dashboard(name="kubernetes.pod", title="Pod", panels=[], navigation=False),
]


@pytest.mark.parametrize(
    ("page", "current"),
    [
        ("overview", ("Overview", "page")),
        ("events", ("Events", "page")),
        ("timeline", ("Events", "true")),
        ("event", ("Events", "true")),
        ("sources", ("Sources", "page")),
        ("dashboard kubernetes", ("Kubernetes", "page")),
        ("dashboard kubernetes.pods", ("Pods", "page")),
        ("dashboard kubernetes.pod", ("Kubernetes", "true")),
        ("account", None),
    ],
)
def test_navigation_marks_one_entry_as_current(page: str, current: tuple[str, str] | None) -> None:
    entries = build_navigation(DASHBOARDS, page)
    titles = [entry.title for entry in entries]
    assert titles == [
        "Overview", "Events", "Kubernetes", "Pods", "Dashboards", "Metrics", "Sources",
    ]  # fmt: skip
    marked = [(entry.title, entry.current) for entry in entries if entry.current]
    assert marked == ([] if current is None else [current])


def test_navigation_has_the_order_and_icons_of_pages() -> None:
    dashboards = [
        Dashboard(name="a", title="A", panels=[], order=5),
        Dashboard(name="b", title="B", panels=[], icon="b/icon.svg"),
        Dashboard(name="c", title="C", panels=[], order=-1),
        Dashboard(name="d", title="D", panels=[]),
    ]
    entries = build_navigation(dashboards, "overview")
    assert [entry.title for entry in entries] == [
        "Overview", "Events", "C", "B", "D", "A", "Dashboards", "Metrics", "Sources",
    ]  # fmt: skip
    assert [entry.icon for entry in entries if entry.icon] == ["b/icon.svg"]
