"""Hostile text in every field of every kind of signal, on every page, in a real browser."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from support.application import Almenara
from support.hostile import payloads, spoilt
from support.paths import ROOT
from support.servers import wait_until
from support.simulated_kubernetes import simulated_kubernetes
from support.simulated_ray import simulated_ray

PLUGIN = """
import asyncio, itertools, json
from pathlib import Path
import almenara
from almenara.hookspecs import (
    Column,
    DetailPanel,
    EventQuery,
    EventsPanel,
    Line,
    LogPanel,
    LogQuery,
    NumberPanel,
    Page,
    ResourceQuery,
    SampleQuery,
    SeriesPanel,
    StatusPanel,
    TablePanel,
)
from almenara.signals import Event, Resource, Sample, Severity

FOLDER = Path(__file__).parent
TEXTS = json.loads((FOLDER / "texts.json").read_text())
KINDS = {"event": Event, "resource": Resource, "sample": Sample}


def make_signal(fields):
    kind = KINDS[fields.pop("signal")]
    if kind is not Sample:
        fields["severity"] = Severity[fields.get("severity", "ERROR")]
    if "raw" in fields:
        fields["raw"] = fields["raw"].encode()
    return kind(**fields)


class Replay:
    name = "replay"

    async def run(self, publish):
        done = 0
        while True:
            path = FOLDER / "signals.jsonl"
            lines = path.read_text("utf-8").split("\\n")[done:-1] if path.exists() else []
            for start in range(0, len(lines), 200):
                batch = lines[start : start + 200]
                await publish([make_signal(json.loads(line)) for line in batch])
            done += len(lines)
            await asyncio.sleep(0.1)


class Failing:
    name = "failing"

    def __init__(self):
        self.texts = itertools.cycle(TEXTS)

    async def run(self, publish):
        raise RuntimeError(" ".join(itertools.islice(self.texts, 40)))


class Log:
    name = "log"

    async def lines(self, filters):
        yield [Line(text=it, source=it) for it in TEXTS]
        await asyncio.sleep(3600)


@almenara.hookimpl
def almenara_sources():
    return [Replay(), Failing()]


@almenara.hookimpl
def almenara_log_streams():
    return [Log()]


@almenara.hookimpl
def almenara_panels():
    things = ResourceQuery(kind="thing", limit=1000)
    paths = ("name", "namespace", "status", "kind", "origin", "state.text", "state.deep",
             "state.deep.list")
    columns = [Column(title=it, path=it) for it in paths]
    return [
        EventsPanel(name="events", title="Events", query=EventQuery(limit=500)),
        TablePanel(name="things", title="Things", query=things, columns=columns,
              link="thing"),
        TablePanel(name="linked", title="Linked", query=things, columns=columns),
        StatusPanel(name="strip", title="Strip", query=things),
        DetailPanel(name="one", title="One", query=things, columns=columns,
              filters=["namespace", "name"]),
        SeriesPanel(name="lines", title="Lines",
              query=SampleQuery(kind="thing", metric="m", limit=50)),
        NumberPanel(name="figure", title="Figure",
              query=SampleQuery(kind="thing", metric="m")),
        LogPanel(name="log", title="Log", query=LogQuery(stream="log", limit=1000),
              filters=["text"]),
    ]


@almenara.hookimpl
def almenara_pages():
    return [
        Page(name="main", title="Hostile", navigation=True,
             panels=["events", "things", "linked", "strip", "lines", "figure", "log"]),
        Page(name="thing", title="Thing", panels=["one"]),
    ]
"""
WATCHING = """
window.hits = []; window.violations = [];
window.pwn = number => window.hits.push(number);
document.addEventListener('securitypolicyviolation', it =>
    window.violations.push(`${it.violatedDirective} ${it.blockedURI} ${it.sample}`));
new ReportingObserver(all => window.violations.push(...all.map(one => JSON.stringify(one))),
    {types: ['csp-violation'], buffered: true}).observe();
for (const name of ['alert', 'confirm', 'prompt']) window[name] = () => window.hits.push(name);
"""
LOOK = r"""
() => {
    const names = new Set(), tags = new Set(), addresses = [], moved = [];
    for (const it of document.querySelectorAll('*')) {
        tags.add(it.localName);
        for (const {name, value} of it.attributes) {
            names.add(name);
            if (['href', 'src', 'action', 'formaction', 'xlink:href', 'poster', 'data', 'ping',
                 'srcset', 'hx-get', 'hx-ws:connect', 'content'].includes(name))
                addresses.push([it.localName, name, value, it.getAttribute('rel') || '']);
        }
        if (it.id && document.querySelectorAll('#' + CSS.escape(it.id)).length > 1)
            moved.push(it.id);
    }
    const text = document.body.innerText + ' ' + [...document.querySelectorAll('[title],[value]')]
        .map(it => it.title + ' ' + (it.value || '')).join(' ');
    return {names: [...names], tags: [...tags], addresses, moved, hits: window.hits,
            violations: window.violations,
            scripts: [...document.scripts].map(it => it.src.split('/').pop().split('.')[0]),
            numbers: [...new Set(text.match(/9\d{3}9/g) || [])],
            controls: [...new Set(text.match(
                /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g)
                || [])].map(it => it.codePointAt(0).toString(16))};
}
"""
MADE_OF = "".join(
    each.read_text()
    for folder in ("platform", "plugins")
    for each in (ROOT / folder).rglob("*")
    if each.suffix == ".html" or (each.suffix == ".py" and "panels" in each.parts)
)
TAGS = set(re.findall(r"<([a-z][a-z0-9-]*)", MADE_OF))
TAGS.add("canvas")
"""The elements and attributes that our templates are made of; charts draw on a canvas."""
ATTRIBUTES = set(re.findall(r"[\s}](data-[a-z-]+|[a-z][a-zA-Z:-]*(?==))", MADE_OF))
# The scripts set this one on rows, so that their text can be selected.
ATTRIBUTES.add("draggable")
OURS = re.compile(r"^(/(?!/)|#|\?|https?://|width=|dark|#0c|#f7|\{)")
TEXTS = payloads()
SCRIPTS = ["times", "almenara", "time", "htmx", "hx-csp", "hx-ws"]
CHART_SCRIPTS = {"uplot", "chart-lines", "chart-range", "chart-marks", "charts"}
"""What pages with charts have besides."""


class Besieged:
    """An Almenara that shows Kubernetes, Ray and what a hostile source says."""

    def __init__(self, almenara: Almenara, folder: Path) -> None:
        self.almenara, self.folder = almenara, folder

    def publish(self, signals: list[dict[str, Any]]) -> None:
        with (self.folder / "signals.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(each) + "\n" for each in signals)


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    folder = tmp_path_factory.mktemp("hostile")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "hostile.py").write_text(PLUGIN)
    (plugins / "texts.json").write_text(json.dumps(TEXTS))
    with (
        simulated_ray() as ray,
        simulated_kubernetes(folder / "kubernetes", 60) as kubernetes,
        Almenara(
            folder / "almenara", "nats://127.0.0.1:1", plugins_dir=str(plugins),
            plugins__disabled="[nats]", **ray, **kubernetes,
        ) as almenara,
    ):  # fmt: skip
        yield Besieged(almenara, plugins)


def event(number: int, text: str, **more: Any) -> dict[str, Any]:
    return {
        "signal": "event", "id": f"{text}{number}", "source": text, "type": text, "subject": text,
        "correlation": text, "origin": f"replay/{text}", "problem": text,
        "time": 1_700_000_000_000_000 + number, "attributes": {text: text, "traceparent": text},
        "data": {text: [text, {text: text}], "error": text, "title": text, "url": text}, **more,
    }  # fmt: skip


def signals(resources: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every kind of signal, with every payload in every field."""
    hostile: list[dict[str, Any]] = []
    for number, text in enumerate(TEXTS):
        hostile.append(event(number, text))
        hostile.append(event(number + 10_000, text, data=None, raw=text))
        thing = {"kind": "thing", "namespace": text, "name": text}
        hostile.append({
            "signal": "resource", **thing, "status": text, "origin": text,
            "state": {"text": text, text: text, "deep": {"list": [text], text: {text: text}}},
        })  # fmt: skip
        hostile.append({"signal": "resource", "kind": text, "name": text, "status": text})
        hostile.append({"signal": "sample", **thing, "metric": "m", "value": number, "unit": text})
        hostile.append({"signal": "sample", **thing, "metric": text, "value": number})
    by_kind: dict[str, dict[str, Any]] = {}
    for each in resources:
        # The one that says most of a kind shows most of what its panels show.
        if len(json.dumps(each)) > len(json.dumps(by_kind.get(each["kind"], ""))):
            by_kind[each["kind"]] = each
    for turn, (kind, each) in enumerate(sorted(by_kind.items())):
        # All of them for what has pages of its own; a part, another each time, for the others.
        step = 1 if kind in ("kubernetes.pod", "ray.job") else 5
        for number, text in list(enumerate(TEXTS))[turn % step :: step]:
            counting = itertools.count(number)
            words = number % 2 == 0
            hostile.append({
                "signal": "resource", "kind": kind, "origin": each["origin"],
                "namespace": each["namespace"] and (text if number % 3 else each["namespace"]),
                "name": text, "status": text if words else each["status"], "severity": "ERROR",
                "state": spoilt(each["state"], counting, TEXTS),
            })  # fmt: skip
    by_type = {
        each["type"]: each for each in events if each["origin"].startswith(("ray", "kubernetes"))
    }
    for each in by_type.values():
        for number, text in enumerate(TEXTS[::5]):
            counting = itertools.count(number)
            hostile.append(event(
                next(NUMBERS), text, type=each["type"], origin=each["origin"],
                data=spoilt(each["data"], counting, TEXTS),
            ))  # fmt: skip
    for start in range(0, len(TEXTS), 25):
        # Several in one, so that a few open events show all.
        part = TEXTS[start : start + 25]
        hostile.append(event(next(NUMBERS), part[0], type="together",
                          data={each: each for each in part},
                          attributes={each: each for each in part}))  # fmt: skip
    return hostile


NUMBERS = itertools.count(20_000)


def test_pages_neither_execute_nor_load_nor_hide_hostile_text(
    besieged: Besieged, browser: Browser
) -> None:
    almenara = besieged.almenara
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_init_script(WATCHING)
    page = context.new_page()
    page.set_default_timeout(30_000)
    requested: list[str] = []
    complaints: list[str] = []
    context.on("request", lambda each: requested.append(each.url))
    page.on("websocket", lambda each: requested.append(each.url))
    page.on("pageerror", lambda each: complaints.append(str(each)))
    page.on("console", lambda each: complaints.append(each.text) if each.type == "error" else None)

    def answered(each: Response) -> None:
        if each.status >= 400:
            complaints.append(f"{each.status} {each.url}")

    context.on("response", answered)
    page.on("dialog", lambda each: complaints.append(each.message))

    def ready() -> bool:
        kinds = {each["kind"] for each in almenara.get("/api/resources")}
        return {"ray.job", "ray.node", "kubernetes.pod", "kubernetes.node"} <= kinds

    wait_until(ready, "the clusters", 40)
    hostile_plugin = next(
        each for each in almenara.get("/api/plugins") if each["name"] == "hostile"
    )
    assert hostile_plugin["state"] == "active", hostile_plugin["error"]
    # Besides, our script and htmx set some.
    names, tags = set(ATTRIBUTES), set(TAGS)
    page.goto(almenara.url + "/")
    dashboards = page.eval_on_selector_all(
        "nav a[href^='/dashboards/']", "all => all.map(it => it.getAttribute('href'))"
    )
    resources = almenara.get("/api/resources")
    pod = next(each for each in resources if each["kind"] == "kubernetes.pod")
    job = next(each for each in resources if each["kind"] == "ray.job")

    def address(resource: dict[str, Any], page_name: str, **other: str) -> str:
        parameters = {"namespace": resource["namespace"], "name": resource["name"], **other}
        return f"/dashboards/{page_name}?{urlencode(parameters)}"

    listed = page.eval_on_selector_all(
        "a[href^='/panels/']", "all => all.map(it => it.getAttribute('href'))"
    )
    pages = ["/", "/sources", "/events", "/events?type=together", *dashboards, *listed]
    pages += [f"/dashboards/kubernetes.{each}" for each in ("pods", "nodes", "events", "cluster")]
    pages += [address(pod, "kubernetes.pod"), address(job, "ray.job")]
    for each in ("/", "/events", *dashboards, *pages[-2:]):
        page.goto(almenara.url + each)
        seen = page.evaluate(LOOK)
        names |= set(seen["names"])
        tags |= set(seen["tags"])

    # Signals published while pages are open arrive over their sockets.
    live = [context.new_page() for _ in range(2)]
    for tab, each in zip(live, ("/events", "/"), strict=True):
        tab.goto(almenara.url + each)
        expect(tab.locator("#live")).to_have_attribute("data-state", "live")
    published = signals(resources, almenara.events())
    besieged.publish(published)
    count = sum(each["signal"] == "event" for each in published)
    wait_until(
        lambda: len(almenara.get("/api/events?limit=1000&type=together")["events"]) >= 13,
        "all of it in history", 60,
    )  # fmt: skip
    shown: set[str] = set()
    looks = 0

    def look(tab: Page, where: str) -> None:
        nonlocal looks
        looks += 1
        seen = tab.evaluate(LOOK)
        assert seen["hits"] == [], where
        assert seen["violations"] == [], where
        assert set(seen["names"]) <= names, (where, set(seen["names"]) - names)
        assert set(seen["tags"]) <= tags, (where, set(seen["tags"]) - tags)
        assert seen["controls"] == [], where
        assert seen["moved"] == [], where
        scripts = [name for name in seen["scripts"] if name not in CHART_SCRIPTS]
        assert scripts == SCRIPTS, where
        for tag, name, value, rel in seen["addresses"]:
            assert OURS.match(value), (where, tag, name, value)
            if value.startswith("http"):
                assert rel == "noopener noreferrer nofollow", (where, value)
        shown.update(seen["numbers"])

    for tab in live:
        tab.wait_for_timeout(500)
        look(tab, f"live {tab.url}")
        tab.close()
    together = almenara.get("/api/events?type=together")["events"]
    hostile = [each for each in almenara.get("/api/resources") if "pwn" in each["name"]]
    for kind, page_name in (("kubernetes.pod", "kubernetes.pod"), ("ray.job", "ray.job"),
                            ("thing", "hostile.thing"), ("kubernetes.node", "kubernetes.node"),
                            ("kubernetes.deployment", "kubernetes.workload")):  # fmt: skip
        some = [each for each in hostile if each["kind"] == kind][::160]
        pages += [address(each, page_name, kind=each["kind"]) for each in some]
    pages += [f"/events/{each['sequence']}" for each in together]
    pages += ["/timeline?" + urlencode({"correlation": each}) for each in TEXTS[::160]]
    pages += ["/events?" + urlencode({"text": each}) for each in TEXTS[::160]]
    for each in pages:
        page.goto(almenara.url + each)
        look(page, each)
    page.goto(almenara.url + "/events?type=together")
    expect(page.locator("#live")).to_have_attribute("data-state", "live")
    for row in range(len(together)):
        page.locator("#event-rows .event").nth(row).locator("a").first.click()
        expect(page.locator(".detail").first).to_be_visible()
        look(page, f"the drawer of {row}")
        page.keyboard.press("Escape")
    context.close()
    expected = {re.findall(r"9\d{3}9", each)[0] for each in TEXTS}
    assert shown >= expected, expected - shown
    assert [each for each in requested if "/pwned" in each.split("?")[0]] == []
    foreign = [
        each for each in requested if not re.match(rf"(http|ws)://127.0.0.1:{almenara.port}/", each)
    ]
    assert foreign == []
    assert complaints == [], "\n".join(complaints)
    print(
        f"{len(TEXTS)} payloads in {len(published)} signals ({count} events), {looks} looks at"
        " pages: 0 executed, 0 requested, 0 policy violations, 0 new attributes"
    )
