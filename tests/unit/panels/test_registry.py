"""Pages and panels that plugins register, links between them, and values that they prepare."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from almenara.config import PlacedPanel
from almenara.hookspecs import (
    Column,
    DataView,
    DetailPanel,
    EventQuery,
    LogPanel,
    LogQuery,
    NumberPanel,
    Page,
    Panel,
    PanelExport,
    ResourceQuery,
    SampleQuery,
    StatusPanel,
    TablePanel,
    TemplatePanel,
)
from almenara.panels.registry import PanelRegistry
from almenara.panels.renderer import Renderer
from almenara.panels.view import ScopedSources
from almenara.scope import FULL_SCOPE, Grant, Scope
from almenara.signals import Event, Resource, Sample, Severity, now
from almenara.supervisor import SourceState
from almenara.testing.rendering import render_panels

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


async def test_name_links_to_the_page_about_it() -> None:
    drawn = await render_panels("p", [TABLE, DETAIL], None, SIGNALS, pages=[JOB])
    assert 'href="/dashboards/p.job?namespace=a+b&amp;name=x%26y"' in drawn["p.jobs"]
    assert 'href="/dashboards/p.job?name=z"' in drawn["p.jobs"]


async def test_name_links_to_a_panel_if_there_is_no_such_page() -> None:
    table = StatusPanel(
        name="jobs", title="Jobs", query=ResourceQuery(kind="job"), link="job-detail"
    )
    drawn = await render_panels("p", [table, DETAIL], None, SIGNALS)
    assert 'href="/panels/p.job-detail?name=z"' in drawn["p.jobs"]


async def prepare_values(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
    jobs = data.resources(ResourceQuery(kind="job"))
    events = await data.events({"type": "job.>"}, limit=5)
    z = data.resource("job", "", "z")
    assert z is not None
    return {
        "values": [
            filters.get("node"), [job.name for job in jobs], data.resource("job", "", "old"),
            data.latest(z, "cpu"), len(data.series(z, "cpu")), [event.type for _, event in events],
            await data.count({"severity": "ERROR"}),
        ],
    }  # fmt: skip


async def test_prepare_reads_resources_samples_and_events() -> None:
    panel = TemplatePanel(
        name="own", title="Own", template="own.html", prepare=prepare_values,
        query=ResourceQuery(kind="job"), filters=["node"],
    )  # fmt: skip
    drawn = await render_panels(
        "p", [panel], {"own.html": "{{ values|join('|') }}"}, SIGNALS, {"node": "n1"}
    )
    assert (
        drawn["p.own"] == "n1|[&#39;z&#39;, &#39;x&amp;y&#39;]|None|1.5|1|[&#39;job.failed&#39;]|1"
    )


async def test_failing_prepare_shows_its_error_in_the_panel() -> None:
    async def prepare(data: DataView, filters: Mapping[str, str]) -> Mapping[str, Any]:
        raise RuntimeError("no such <thing>")

    panel = TemplatePanel(
        name="own", title="Own", template="own.html", prepare=prepare,
        query=ResourceQuery(kind="job"),
    )  # fmt: skip
    drawn = await render_panels("p", [panel], {"own.html": ""}, [])
    assert "RuntimeError: no such &lt;thing&gt;" in drawn["p.own"]


def exported(name: str, media_type: str) -> TemplatePanel:
    export = PanelExport(name=name, title="File", template="a.txt", media_type=media_type)
    return TemplatePanel(
        name="a", title="A", template="a.html", query=ResourceQuery(kind="k"), exports=[export]
    )


WRONG = [
    (
        [TablePanel(name="a", title="A", query=ResourceQuery(kind="k"), link="b",
               columns=[Column(title="A", path="name")])],
        [],
        "panel 'a' of plugin p: its link 'b' is neither a page nor a panel of the plugin;"
        " known: a",
    ),
    (
        [LogPanel(name="a", title="A", query=LogQuery(stream="t"), filters=["Not ok"])],
        [],
        "panel 'a' of plugin p: the filter 'Not ok' must be lower-case letters, digits and _",
    ),
    (
        [LogPanel(name="a", title="A", query=EventQuery())],  # type: ignore[arg-type]
        [],
        "panel 'a' of plugin p: query: it takes LogQuery, not EventQuery",
    ),
    (
        [exported("a/b", "text/plain")],
        [],
        "panel 'a' of plugin p: the export 'a/b' must have a name of its own, in lower-case"
        " letters and digits",
    ),
    (
        [exported("svg", "image/svg+xml\r\nx: y")],
        [],
        "panel 'a' of plugin p: 'image/svg+xml\\r\\nx: y' is not a media type",
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
        "page 'a' of plugin p: the plugin has two pages of this name",
    ),
]  # fmt: skip


def test_panel_refuses_a_field_of_another_kind() -> None:
    query = SampleQuery(kind="k", metric="m")
    with pytest.raises(TypeError) as problem:
        NumberPanel(name="a", title="A", query=query, prepare=prepare_values)  # type: ignore[call-arg]
    assert str(problem.value).startswith("NumberPanel 'a' has no field 'prepare'; known: name,")


@pytest.mark.parametrize(("panels", "pages", "text"), WRONG)
def test_registration_names_what_is_wrong_with_a_page_or_panel(
    panels: list[Panel], pages: list[Page], text: str
) -> None:
    with pytest.raises(ValueError) as problem:
        PanelRegistry(Renderer()).add("p", panels, None, pages)
    assert str(problem.value) == text


async def test_template_includes_and_imports_others_of_its_plugin() -> None:
    panel = TemplatePanel(
        name="own", title="Own", template="own.html",
        query=ResourceQuery(kind="job"),
    )  # fmt: skip
    templates = {
        "own.html": '{% import "parts.html" as own %}{% import "macros.html" as ui %}'
        '{{ own.named("x") }}{{ ui.status("fine") }}{% include "end.html" %}',
        "parts.html": "{% macro named(name) %}{% include 'end.html' %}{{ name }}{% endmacro %}",
        "end.html": "-end-",
    }
    drawn = await render_panels("p", [panel], templates, [])
    assert drawn["p.own"].startswith("-end-x<span")
    assert drawn["p.own"].endswith("-end-")


async def test_names_for_leaves_out_panels_of_sources_beyond_the_scope() -> None:
    class States:
        def states(self) -> list[SourceState]:
            return [SourceState(name=name, plugin=name) for name in ("open", "vault")]

    registry = PanelRegistry(Renderer())
    for plugin in ("open", "vault"):
        registry.add(plugin, [TABLE, DETAIL], None, [JOB])
    view: Any = SimpleNamespace(scope=FULL_SCOPE, sources=States())
    assert {"open.jobs", "vault.jobs"} <= set(registry.names_for(view))
    scope = Scope(grants=(Grant(sources=("open",)),), access_log=False)
    view = SimpleNamespace(scope=scope, sources=ScopedSources(States(), scope))
    assert "open.jobs" in registry.names_for(view)
    assert not [name for name in registry.names_for(view) if "vault" in name]
    assert "events" in registry.names_for(view)
