"""Pages that plugins bring, what leads to them, and values that a plugin prepares itself."""

from collections.abc import Mapping
from typing import Any

import pytest

from almenara.config import PlacedPanel
from almenara.hookspecs import (
    Column,
    DataView,
    DetailPanel,
    EventQuery,
    Filter,
    LogPanel,
    LogQuery,
    NumberPanel,
    Page,
    Panel,
    ResourceQuery,
    SampleQuery,
    StatusPanel,
    TablePanel,
    TemplatePanel,
)
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.runtime import TEMPLATES
from almenara.signals import Event, Resource, Sample, Severity, now
from almenara.testing.rendering import render_panels
from almenara.web.dashboards import (
    build_plugin_pages,
    fill_rows,
    place_panel,
    select_for_overview,
)
from almenara.web.filter_form import build_panel_form

pytestmark = pytest.mark.anyio

TABLE = TablePanel(
    name="jobs", title="Jobs", query=ResourceQuery(kind="job"), link="job",
    columns=[Column(title="Job", path="name")],
)  # fmt: skip
DETAIL = DetailPanel(
    name="job-detail", title="Job", query=ResourceQuery(kind="job"),
    columns=[Column(title="State", path="status")], filters=["namespace", "name"],
)  # fmt: skip
JOB = Page(name="job", title="Job", panels=["job-detail", PlacedPanel(panel="events", width=6)])
SIGNALS = [
    Resource(kind="job", namespace="a b", name="x&y", status="ok"),
    Resource(kind="job", namespace="", name="z", status="ok"),
    Resource(kind="job", name="old", deleted=True),
    Sample(kind="job", name="z", metric="cpu", value=1.5, time=now()),
    Event(id="1", source="s", type="job.failed", time=now(), severity=Severity.ERROR),
]


async def test_a_name_leads_to_the_page_about_it() -> None:
    drawn = await render_panels("p", [TABLE, DETAIL], None, SIGNALS, pages=[JOB])
    assert 'href="/dashboards/p.job?namespace=a+b&amp;name=x%26y"' in drawn["p.jobs"]
    assert 'href="/dashboards/p.job?name=z"' in drawn["p.jobs"]


async def test_a_name_leads_to_a_panel_where_there_is_no_such_page() -> None:
    table = StatusPanel(
        name="jobs", title="Jobs", query=ResourceQuery(kind="job"), link="job-detail"
    )
    drawn = await render_panels("p", [table, DETAIL], None, SIGNALS)
    assert 'href="/panels/p.job-detail?name=z"' in drawn["p.jobs"]


async def told(look: DataView, asked: Mapping[str, str]) -> Mapping[str, Any]:
    jobs = look.resources(ResourceQuery(kind="job"))
    events = await look.events({"type": "job.>"}, limit=5)
    z = look.resource("job", "", "z")
    assert z is not None
    return {
        "told": [
            asked.get("node"), [it.name for it in jobs], look.resource("job", "", "old"),
            look.latest(z, "cpu"), len(look.series(z, "cpu")), [it.type for _, it in events],
            await look.count({"severity": "ERROR"}),
        ],
    }  # fmt: skip


async def test_a_plugin_prepares_its_own_values_from_all_there_is() -> None:
    panel = TemplatePanel(
        name="own", title="Own", template="own.html", prepare=told,
        query=ResourceQuery(kind="job"), filters=["node"],
    )  # fmt: skip
    drawn = await render_panels(
        "p", [panel], {"own.html": "{{ told|join('|') }}"}, SIGNALS, {"node": "n1"}
    )
    assert (
        drawn["p.own"] == "n1|[&#39;z&#39;, &#39;x&amp;y&#39;]|None|1.5|1|[&#39;job.failed&#39;]|1"
    )


async def test_a_preparation_that_raises_shows_the_error_in_its_panel() -> None:
    async def broken(look: DataView, asked: Mapping[str, str]) -> Mapping[str, Any]:
        raise RuntimeError("no such <thing>")

    panel = TemplatePanel(
        name="own", title="Own", template="own.html", prepare=broken,
        query=ResourceQuery(kind="job"),
    )  # fmt: skip
    drawn = await render_panels("p", [panel], {"own.html": ""}, [])
    assert "RuntimeError: no such &lt;thing&gt;" in drawn["p.own"]


WRONG = [
    (
        [TablePanel(name="a", title="A", query=ResourceQuery(kind="k"), link="b",
               columns=[Column(title="A", path="name")])],
        [],
        "panel 'a' of plugin p: its link 'b' is neither a page nor a panel of the plugin",
    ),
    (
        [LogPanel(name="a", title="A", query=LogQuery(stream="t"), filters=["Not ok"])],
        [],
        "panel 'a' of plugin p: the filter 'Not ok' must be small letters, digits and _",
    ),
    (
        [LogPanel(name="a", title="A", query=EventQuery())],  # type: ignore[arg-type]
        [],
        "panel 'a' of plugin p: query: it takes LogQuery, not EventQuery",
    ),
    (
        [DETAIL],
        [Page(name="a", title="A", panels=["job-detial"])],
        "page 'a' of plugin p: there is no panel 'job-detial'; did you mean job-detail?",
    ),
    (
        [DETAIL],
        [Page(name="a/b", title="A", panels=[])],
        "page 'a/b' of plugin p: the name must be letters, digits, _ and - only",
    ),
    (
        [DETAIL],
        [Page(name="a", title="A", panels=[]), Page(name="a", title="A", panels=[])],
        "page 'a' of plugin p: there are two of them",
    ),
]  # fmt: skip


def test_panel_refuses_a_field_of_another_kind() -> None:
    query = SampleQuery(kind="k", metric="m")
    with pytest.raises(TypeError) as problem:
        NumberPanel(name="a", title="A", query=query, prepare=told)  # type: ignore[call-arg]
    assert str(problem.value).startswith("NumberPanel 'a' has no field 'prepare'; known: name,")


@pytest.mark.parametrize(("panels", "pages", "text"), WRONG)
def test_what_is_wrong_with_a_page_or_panel_is_told(
    panels: list[Panel], pages: list[Page], text: str
) -> None:
    with pytest.raises(ValueError) as problem:
        PanelRegistry(Renderer()).add("p", panels, None, pages)
    assert str(problem.value) == text


async def test_a_template_includes_and_imports_its_neighbours_by_their_own_names() -> None:
    panel = TemplatePanel(
        name="own", title="Own", template="own.html",
        query=ResourceQuery(kind="job"),
    )  # fmt: skip
    templates = {
        "own.html": '{% import "parts.html" as own %}{% import "macros.html" as it %}'
        '{{ own.named("x") }}{{ it.status("fine") }}{% include "end.html" %}',
        "parts.html": "{% macro named(name) %}{% include 'end.html' %}{{ name }}{% endmacro %}",
        "end.html": "-end-",
    }
    drawn = await render_panels("p", [panel], templates, [])
    assert drawn["p.own"].startswith("-end-x<span")
    assert drawn["p.own"].endswith("-end-")


def test_what_the_overview_takes_of_plugins_fills_its_rows() -> None:
    catalogue = PanelRegistry(Renderer())
    widths = (4, 5, 6, 3, 12)
    catalogue.add(
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
    panels = fill_rows([place_panel(it) for it in catalogue.of_plugin("p")])
    assert [it.width for it in panels] == [4, 8, 6, 6, 12]


def test_the_overview_shows_what_a_plugin_brings_for_it_and_its_own_page_does_not() -> None:
    states = StatusPanel(name="states", title="States", query=ResourceQuery(kind="job"))
    figures = NumberPanel(
        name="figures", title="Jobs", query=SampleQuery(kind="job", metric="n"),
        on_overview=True,
    )  # fmt: skip
    catalogue = PanelRegistry(Renderer())
    catalogue.add("a", [states, figures], None)
    catalogue.add("b", [states], None)
    shown = [
        it.panel.name for plugin in ("a", "b") for it in select_for_overview(catalogue, plugin)
    ]
    assert shown == ["a.figures", "b.states"]
    (page,) = build_plugin_pages(catalogue, "a")
    assert [it.panel.name for it in page.panels] == ["a.states"]


def test_a_filter_is_asked_for_as_its_author_said_first_on_the_page_then_on_the_panel() -> None:
    catalogue = PanelRegistry(Renderer())
    catalogue.add(
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
    (page,) = build_plugin_pages(catalogue, "p")
    (panel,) = page.panels
    assert panel.panel.filters == {"namespace", "status"}
    given = build_panel_form(
        page.address, page.filters, {"status": "late"}, None,
        [page.filter_fields, panel.panel.asked_for],
    )  # fmt: skip
    assert [(it.label, list(it.choices)) for it in given["fields"]] == [
        ("Cluster", []),
        ("Status", ["ok"]),
        ("Search text", []),
    ]
    drawn = Renderer([TEMPLATES]).render("panel_filter.html", given)
    options = [line.strip() for line in drawn.splitlines() if line.strip().startswith("<option")]
    assert options == [
        '<option value="">any</option>', "<option>ok</option>", "<option selected>late</option>",
    ]  # fmt: skip
