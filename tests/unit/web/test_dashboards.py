"""Dashboards and the filter forms of their panels."""

from almenara.hookspecs import (
    Filter,
    NumberPanel,
    Page,
    ResourceQuery,
    SampleQuery,
    StatusPanel,
)
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.runtime import TEMPLATES
from almenara.web.dashboards import (
    build_plugin_pages,
    fill_rows,
    place_panel,
    select_for_overview,
)
from almenara.web.filter_form import build_panel_form


def test_fill_rows_widens_the_last_panel_of_each_row() -> None:
    registry = PanelRegistry(Renderer())
    widths = (4, 5, 6, 3, 12)
    registry.add(
        "p",
        [
            StatusPanel(
                name=f"n{place}", title="N", query=ResourceQuery(kind="job"),
                width=width,
            )
            for place, width in enumerate(widths)
        ],
        None,
    )  # fmt: skip
    panels = fill_rows([place_panel(panel) for panel in registry.of_plugin("p")])
    assert [place.width for place in panels] == [4, 8, 6, 6, 12]


def test_overview_prefers_panels_marked_for_it() -> None:
    states = StatusPanel(name="states", title="States", query=ResourceQuery(kind="job"))
    figures = NumberPanel(
        name="figures", title="Jobs", query=SampleQuery(kind="job", metric="n"),
        on_overview=True,
    )  # fmt: skip
    registry = PanelRegistry(Renderer())
    registry.add("a", [states, figures], None)
    registry.add("b", [states], None)
    shown = [
        each.panel.name for plugin in ("a", "b") for each in select_for_overview(registry, plugin)
    ]
    assert shown == ["a.figures", "b.states"]
    (page,) = build_plugin_pages(registry, "a")
    assert [place.panel.name for place in page.panels] == ["a.states"]


def test_panel_form_prefers_page_declarations_over_panel_ones() -> None:
    registry = PanelRegistry(Renderer())
    registry.add(
        "p",
        [
            StatusPanel(
                name="jobs", title="Jobs", query=ResourceQuery(kind="job"),
                filters=[
                    Filter(name="namespace", label="Panel"),
                    Filter(name="status", choices=["ok"]),
                ],
            )
        ],
        None,
        [Page(name="main", title="P", panels=["jobs"],
              filters=[Filter(name="namespace", label="Cluster"), "status", "text"])],
    )  # fmt: skip
    (page,) = build_plugin_pages(registry, "p")
    (panel,) = page.panels
    assert panel.panel.filters == {"namespace", "status"}
    form = build_panel_form(
        page.address, page.filters, {"status": "late"}, None,
        [page.filter_fields, panel.panel.filter_fields],
    )  # fmt: skip
    assert [(field.label, list(field.choices)) for field in form["fields"]] == [
        ("Cluster", []),
        ("Status", ["ok"]),
        ("Search text", []),
    ]
    html = Renderer([TEMPLATES]).render("panel_filter.html", form)
    options = [line.strip() for line in html.splitlines() if line.strip().startswith("<option")]
    assert options == [
        '<option value="">any</option>', "<option>ok</option>", "<option selected>late</option>",
    ]  # fmt: skip
