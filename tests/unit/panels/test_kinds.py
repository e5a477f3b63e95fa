"""The kinds of panels, rendered from real signals."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from almenara.hookspecs import (
    Column,
    DataView,
    EventQuery,
    EventsPanel,
    NumberPanel,
    Panel,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    StatusPanel,
    TablePanel,
    TemplatePanel,
)
from almenara.panels.kinds.samples import combine_series
from almenara.panels.validation import validate_panel
from almenara.signals import Event, Resource, Sample, Severity, Signal, now
from almenara.testing.rendering import render_panels

pytestmark = pytest.mark.anyio

HOSTILE = "<script>alert(1)</script>"
NODES = [
    Resource(kind="node", name="b", status="ok", state={"cpu": {"used": 0.25}, "size": 2048}),
    Resource(kind="node", name="a", status="lost", severity=Severity.ERROR, state={"size": 10}),
    Resource(kind="node", name="c", namespace="x", status="odd", state={"cpu": {"used": 0.5}}),
    Resource(kind="other", name="d", status="ok"),
    Resource(kind="node", name="e", status="ok", deleted=True),
]
TABLE = TablePanel(
    name="t", title="Nodes", query=ResourceQuery(kind="node"),
    columns=[
        Column(title="Node", path="name"),
        Column(title="State", path="status", format="status"),
        Column(title="CPU", path="state.cpu.used", format="percent"),
        Column(title="Size", path="state.size", format="bytes"),
        Column(title="Load", path="sample.load", format="number", spark="load"),
    ],
    severities={"odd": Severity.WARN}, filters=["name", "status", "text", "namespace"],
)  # fmt: skip


async def render(panel: Panel, signals: list[Signal], **query: str) -> str:
    rendered = await render_panels("p", [panel], {"own.html": OWN}, signals, query)
    return rendered[f"p.{panel.name}"]


OWN = '{% import "macros.html" as ui %}{% for r in resources %}{{ ui.status(r.resource.name) }}'
OWN += (
    "{{ r.samples.load }}{% endfor %}{% for e in events|default([]) %}{{ e.summary }}{% endfor %}"
)


def names(text: str) -> list[str]:
    return re.findall(r'<th scope="row">(?:<a[^>]*>)?([^<]*)<', text)


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("", ["a", "b", "c"]),
        ("name", ["a", "b", "c"]),
        ("-name", ["c", "b", "a"]),
        ("state.cpu.used", ["b", "c", "a"]),
        ("-state.cpu.used", ["c", "b", "a"]),
        ("state.size", ["a", "b", "c"]),
        ("nonsense", ["a", "b", "c"]),
    ],
)
async def test_table_sorts_by_any_column_with_missing_values_last(
    sort: str, order: list[str]
) -> None:
    signals = sorted(NODES, key=lambda node: node.name)
    text = await render(TABLE, [*signals], sort=sort)
    assert sorted(names(text)) == ["a", "b", "c"]
    if sort:
        assert names(text) == order or (sort == "nonsense" and set(names(text)) == set(order))
    else:
        # By namespace and name by default.
        assert names(text) == order
    if sort in ("name", "-name"):
        assert f'aria-sort="{"descending" if sort[0] == "-" else "ascending"}"' in text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"name": "a"}, ["a"]),
        ({"name": "*"}, ["a", "b", "c"]),
        ({"status": "OK"}, ["b"]),
        ({"namespace": "x"}, ["c"]),
        ({"text": "0.5"}, ["c"]),
        ({"text": "lost a"}, ["a"]),
        ({"text": "nowhere"}, []),
    ],
)
async def test_table_filters_rows(query: dict[str, str], expected: list[str]) -> None:
    assert names(await render(TABLE, [*NODES], **query)) == expected


async def test_table_formats_values_and_shows_a_dash_for_missing_ones() -> None:
    samples = [Sample(kind="node", name="b", metric="load", value=number, time=now() + number)
               for number in range(3)]  # fmt: skip
    text = await render(TABLE, [*NODES, *samples], sort="name")
    assert "25 %" in text
    assert "2.0 KiB" in text
    assert text.count("\u2013") >= 4
    assert "<svg" in text
    assert 'class="verdict" data-severity="WARN"' in text
    assert 'class="verdict" data-severity="ERROR"' in text


async def test_table_reports_how_many_rows_are_not_shown() -> None:
    many = [Resource(kind="node", name=f"n{number:03}") for number in range(30)]
    panel = TablePanel(
        name="t", title="T", query=ResourceQuery(kind="node", limit=10),
        columns=[Column(title="N", path="name")],
    )  # fmt: skip
    text = await render(panel, [*many])
    assert len(names(text)) == 10
    assert "20 more are not shown" in text


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"state.team": "search"}, ["a", "c"]),
        ({"state.team": "Sea*"}, ["a", "c"]),
        ({"state.team": "*"}, ["a", "b", "c"]),
        ({"state.disk.full": "true"}, ["b"]),
        ({"state.tags": "gpu"}, ["a", "b"]),
        ({"state.size": "10", "name": "a"}, ["a"]),
        ({"state.none": "x"}, []),
    ],
)
async def test_table_filters_rows_by_values_in_the_state(
    query: dict[str, str], expected: list[str]
) -> None:
    signals: list[Signal] = [
        Resource(kind="node", name="a", state={"team": "search", "tags": ["gpu"], "size": 10}),
        Resource(kind="node", name="b", state={"team": "ml", "tags": ["gpu", "a100"],
                                               "disk": {"full": True}}),
        Resource(kind="node", name="c", state={"team": "Search", "size": 10}),
    ]  # fmt: skip
    panel = TablePanel(
        name="t", title="T", query=ResourceQuery(kind="node"),
        columns=[Column(title="N", path="name")],
        filters=["name", "state.team", "state.disk.full", "state.tags", "state.size", "state.none"],
    )  # fmt: skip
    validate_panel("p", panel)
    assert names(await render(panel, signals, **query)) == expected


async def test_table_shows_the_rows_that_the_plugin_prepares() -> None:
    async def prepare(data: DataView, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        rows = [{"rank": 2, "who": {"name": HOSTILE}, "state": "late", "severity": Severity.WARN,
                 "link": "/events?type=a"},
                {"rank": 1, "who": {"name": "b"}, "link": "javascript:alert(1)"},
                {"rank": 3, "who": {"name": "c"}, "link": "//evil.example/"}]  # fmt: skip
        return [row for row in rows if filters.get("team") != "none"]

    panel = TablePanel(
        name="t", title="T", query=ResourceQuery(kind="node", limit=2), filters=["team"],
        sort="rank", prepare=prepare,
        columns=[Column(title="Who", path="who.name"), Column(title="Rank", path="rank"),
                 Column(title="State", path="state", format="status")],
    )  # fmt: skip
    validate_panel("p", panel)
    text = await render(panel, [])
    assert names(text) == ["b", "&lt;script&gt;alert(1)&lt;/script&gt;"]
    assert "1 more are not shown" in text
    assert '<a href="/events?type=a">' in text
    assert "javascript:" not in text
    assert 'data-severity="WARN"' in text
    text = await render(panel, [], sort="-rank")
    assert names(text) == ["c", "&lt;script&gt;alert(1)&lt;/script&gt;"]
    assert "evil.example" not in text
    assert names(await render(panel, [], team="none")) == []


async def test_events_panel_has_columns_and_severities_of_its_own() -> None:
    events: list[Signal] = [
        Event(id="1", source="shop", type="shop.order.paid", time=now(), subject="A-1",
              data={"total": {"net": 2.5}, "who": HOSTILE}, attributes={"region": "eu"}),
        Event(id="2", source="shop", type="shop.stock.low", time=now(), data={"total": 3}),
        Event(id="3", source="shop", type="shop.stock.none", time=now(), severity=Severity.ERROR),
    ]  # fmt: skip
    panel = EventsPanel(
        name="e", title="E", query=EventQuery(filter={"type": "shop.>"}),
        columns=[Column(title="Order", path="subject"), Column(title="Time", path="time",
                 format="time"), Column(title="Net", path="data.total.net", format="number"),
                 Column(title="Who", path="data.who"),
                 Column(title="Region", path="attributes.region"),
                 Column(title="Severity", path="severity", format="status")],
        severities={"shop.stock.*": Severity.WARN},
    )  # fmt: skip
    validate_panel("p", panel)
    text = await render(panel, events)
    for title in ("Order", "Net", "Region"):
        assert f">{title}</th>" in text
    assert ">2.5<" in text.replace(" ", "")
    assert ">eu<" in text.replace("\n", "").replace(" ", "")
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    assert re.findall(r'<tr data-severity="(\w+)"', text) == ["ERROR", "WARN", "INFO"]
    plain = msgspec.structs.replace(panel, columns=())
    assert re.findall(r'class="event"[^>]*data-severity="(\w+)"', await render(plain, events)) == [
        "ERROR", "WARN", "INFO",
    ]  # fmt: skip


def test_registration_refuses_a_column_that_events_do_not_have() -> None:
    panel = EventsPanel(
        name="e", title="E", query=EventQuery(), columns=[Column(title="N", path="subjct")]
    )
    with pytest.raises(ValueError, match=r"panel 'e' of plugin p: .*did you mean subject\?"):
        validate_panel("p", panel)


def series(name: str, *values: float, metric: str = "load") -> list[Signal]:
    start = now() - 10_000_000
    return [
        Sample(kind="node", name=name, metric=metric, value=value, time=start + place * 1_000_000)
        for place, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("combine", "shown"), [("sum", "12"), ("mean", "4"), ("max", "8"), ("min", "1")]
)
async def test_number_combines_the_newest_samples(combine: str, shown: str) -> None:
    panel = NumberPanel(
        name="n", title="N",
        query=SampleQuery(kind="node", metric="load", combine=combine),  # type: ignore[arg-type]
    )  # fmt: skip
    text = await render(panel, [*series("a", 5, 1), *series("b", 5, 3), *series("c", 5, 8)])
    assert re.search(r'big">([^<]*)<', text)[1] == shown  # type: ignore[index]


async def test_series_shows_the_highest_lines_and_counts_the_others() -> None:
    panel = SeriesPanel(
        name="s", title="S", format="seconds",
        query=SampleQuery(kind="node", metric="load", limit=2),
    )  # fmt: skip
    text = await render(panel, [*series("a", 1, 2), *series("b", 3, 4), *series("c", 0.1, 0.2)])
    assert text.count("<polyline") == 2
    assert "1 more lines with lower values are not shown" in text
    assert "5.0 s" in text


async def test_status_shows_the_worst_first() -> None:
    panel = StatusPanel(name="x", title="X", query=ResourceQuery(kind="node"))
    text = await render(panel, [*NODES])
    assert re.findall(r"<b>(\w)</b>", text)[0] == "a"


async def test_events_match_both_query_and_filters() -> None:
    panel = EventsPanel(
        name="e", title="E", query=EventQuery(filter={"type": "a.*"}),
        filters=["severity"],
    )  # fmt: skip
    events = [
        Event(id=str(n), source="s", type=kind, time=now(), severity=severity, subject=f"s{n}")
        for n, (kind, severity) in enumerate(
            [("a.x", Severity.INFO), ("a.y", Severity.ERROR), ("b.x", Severity.ERROR)]
        )
    ]
    assert (await render(panel, [*events])).count('class="event"') == 2
    narrowed = await render(panel, [*events], severity="ERROR")
    assert "s1" in narrowed
    assert narrowed.count('class="event"') == 1


async def test_template_gets_macros_and_the_result_of_its_query() -> None:
    panel = TemplatePanel(
        name="o", title="O", template="own.html", query=ResourceQuery(kind="node")
    )
    one = Resource(kind="node", name=HOSTILE)
    load = Sample(kind="node", name=HOSTILE, metric="load", value=7)
    text = await render(panel, [one, load])
    assert "7.0" in text
    assert "<script>" not in text
    assert 'class="verdict"' in text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero (p/own.html, line 1)"),
        ("\n{% for %}", "(p/own.html, line 2)"),
        ("{{ nothing.at.all }}", "&#39;nothing&#39; is undefined"),
        ('{% include "other.html" %}', "there is no template"),
    ],
)
async def test_failing_template_shows_its_error_in_its_own_panel(
    template: str, message: str
) -> None:
    panel = TemplatePanel(
        name="o", title="O", template="own.html", query=ResourceQuery(kind="node")
    )
    good = StatusPanel(name="g", title="G", query=ResourceQuery(kind="node"))
    rendered = await render_panels("p", [panel, good], {"own.html": template}, [*NODES])
    assert "This panel could not be rendered." in rendered["p.o"]
    assert message in rendered["p.o"]
    assert "This panel" not in rendered["p.g"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "a b"}, "the name must be letters, digits, _ and - only"),
        ({"query": EventQuery()}, "query: it takes ResourceQuery, not EventQuery"),
        ({"columns": []}, "columns: Expected `array` of length >= 1"),
        ({"columns": [Column(title="N", path="nam")]}, "did you mean name?"),
        ({"columns": [Column(title="N", path="name", format="byte")]},  # type: ignore[arg-type]
         "columns[0].format: 'byte' is not valid; did you mean bytes?"),
        ({"filters": ["nam"]}, "'nam' is not a filter of its query; did you mean name?"),
        ({"filters": "name"}, "filters: Expected `array`, got `str`"),
        ({"width": 13}, "width: Expected `int` <= 12"),
        ({"severities": {"x": "WARN"}}, "severities: Expected `int`, got `str`"),
    ],
)  # fmt: skip
def test_registration_refuses_a_panel_and_names_it(wrong: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"name": "t", "title": "T", "query": ResourceQuery(kind="k"),
            "columns": [Column(title="N", path="name")]}  # fmt: skip
    validate_panel("p", TablePanel(**good))
    with pytest.raises(ValueError, match="panel") as refused:
        validate_panel("p", TablePanel(**{**good, **wrong}))
    assert message in str(refused.value)


def test_registration_refuses_an_unreadable_event_filter_and_names_the_panel() -> None:
    panel = EventsPanel(name="e", title="E", query=EventQuery(filter={"severity": "LOUD"}))
    with pytest.raises(ValueError, match=r"panel 'e' of plugin p: query\.filter: 'LOUD' is"):
        validate_panel("p", panel)


def test_registration_refuses_a_panel_of_no_kind() -> None:
    with pytest.raises(ValueError, match="panel 't' of plugin p: return one of the kinds"):
        validate_panel("p", Panel(name="t", title="T"))


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (EventsPanel, {"query": EventQuery(), "sort": "time"}, "has no field 'sort'"),
        (TablePanel, {"titel": "x"}, "has no field 'titel'; did you mean title?"),
        (TablePanel, {"template": "x.html"}, "has no field 'template'"),
        (TemplatePanel, {"query": EventQuery()}, "Missing required argument 'template'"),
    ],
)
def test_panel_names_itself_where_a_field_is_unknown_or_missing(
    make: type[Panel], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError) as refused:
        make(**{"name": "t", "title": "T", **fields})
    assert str(refused.value).startswith(f"{make.__name__} 't'")
    assert message in str(refused.value)


def test_combined_series_keep_values_until_the_next_sample() -> None:
    one = [(0, 1.0), (60_000_000, 3.0)]
    two = [(30_000_000, 10.0)]
    matches = combine_series([one, two], "sum")
    assert (matches[0], matches[-1]) == (1.0, 13.0)


def samples_until(age: float, name: str = "a", *, every: float = 1.0) -> list[Signal]:
    """Ten samples of the value 12, the last of them `age` seconds ago."""
    return [
        Sample(
            kind="node", name=name, metric="load", value=12.0,
            time=now() - round((age + place * every) * 1_000_000),
        )
        for place in reversed(range(10))
    ]  # fmt: skip


NUMBER = NumberPanel(name="n", title="N", query=SampleQuery(kind="node", metric="load"))


async def test_number_without_new_samples_shows_no_value_but_its_age() -> None:
    current = await render(NUMBER, samples_until(1))
    assert re.search(r'big">12<', current)
    assert "No data" not in current
    assert "No data for 1" in await render(NUMBER, samples_until(11))
    stale = await render(NUMBER, samples_until(125))
    assert re.search(r'big quiet">\u2013<', stale)
    assert re.search(r"No data for 2m[5-9]s, last 12<", stale)
    # A resource that its source cannot read has no current value, however new its sample.
    unknown = Resource(kind="node", name="a", status="unknown", state={"stale_since": now()})
    assert "No data for" in await render(NUMBER, [*samples_until(1), unknown])
    # Three usual intervals may pass: an hourly value is current for hours.
    hourly = await render(NUMBER, samples_until(7_200, every=3_600))
    assert re.search(r'big">12<', hourly)


async def test_number_combines_what_has_data_and_counts_what_has_not() -> None:
    signals = [*samples_until(1, "a"), *samples_until(1, "b"), *samples_until(300, "c")]
    text = await render(NUMBER, signals)
    assert re.search(r'big">24<', text)
    assert "sum of 2, 1 without data" in text


async def test_series_axis_ends_now_and_stopped_lines_have_no_value() -> None:
    panel = SeriesPanel(name="s", title="S", query=SampleQuery(kind="node", metric="load"))
    text = await render(panel, [*samples_until(300, "old"), *samples_until(0, "new", every=40)])
    first, second = re.findall(r'points="([^"]*)"', text)
    ends = sorted(float(points.split()[-1].split(",")[0]) for points in (first, second))
    assert ends[0] < 300
    assert ends[1] == pytest.approx(600, abs=10)
    assert re.search(r'line-name">old</span> <span class="quiet">no data for 5m', text)
    assert re.search(r'line-name">new</span> <b class="figure">12</b>', text)
    alone = await render(panel, samples_until(300, "old"))
    (points,) = re.findall(r'points="([^"]*)"', alone)
    assert float(points.split()[-1].split(",")[0]) < 100


async def test_table_has_no_value_of_a_metric_that_is_no_longer_measured() -> None:
    node = Resource(kind="node", name="a", status="ok")
    unknown = Resource(kind="node", name="a", status="unknown")
    for signals, is_shown in (
        ([node, *samples_until(1)], True),
        ([node, *samples_until(20)], False),
        ([node, *samples_until(20, every=10)], True),
        ([*samples_until(1), unknown], False),
    ):
        text = await render(TABLE, signals)
        assert ('class="right figure">12' in text) == is_shown
        assert ('class="right figure blank">\u2013<svg' in text) == (not is_shown)
