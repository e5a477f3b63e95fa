"""The past on a running server: pages, API, steps, what changed, playback and timelines."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from websockets.asyncio.client import connect

from almenara.panels.formats import DASH
from almenara.signals import format_time, now, parse_time
from support.application import Almenara
from support.servers import wait_until

pytestmark = pytest.mark.anyio

PLUGIN = """
import almenara, asyncio
from pathlib import Path
from almenara.hookspecs import Column, ResourceQuery, TablePanel
from almenara.signals import Event, Resource, Sample, Severity, now

FOLDER = Path(__file__).parent

def pod(name, status, image, **more):
    return Resource(kind="shop.pod", namespace="shop", name=name, status=status,
                    state={"image": image, "node": "n1"}, **more)

def step(number, severity, **data):
    word = ("started", "failed")[number - 1]
    return Event(id=str(number), source="shop", type=f"shop.order.{word}", time=now(),
                 subject="web-1", correlation="order-1", severity=severity, data=data)

class Shop:
    name = "shop"

    async def run(self, publish):
        await publish([
            pod("web-1", "Running", "web:1"), pod("web-2", "Running", "web:1"),
            Resource(kind="shop.node", name="n1", status="Ready"),
            Sample(kind="shop.pod", namespace="shop", name="web-1", metric="cpu", value=0.25),
            step(1, Severity.INFO),
        ])
        while not (FOLDER / "next").exists():
            await asyncio.sleep(0.05)
        await publish([
            pod("web-1", "Failed", "web:2"), pod("web-2", "", "", deleted=True),
            pod("web-3", "Running", "web:2"),
            Sample(kind="shop.pod", namespace="shop", name="web-1", metric="cpu", value=0.75),
            step(2, Severity.ERROR, causation_id="1"),
        ])
        await asyncio.Event().wait()

@almenara.hookimpl
def almenara_sources(context):
    return [Shop()]

@almenara.hookimpl
def almenara_panels():
    return [TablePanel(
        name="pods", title="Pods", query=ResourceQuery(kind="shop.pod"),
        columns=[Column(title="Name", path="name"), Column(title="Status", path="status"),
                 Column(title="CPU", path="sample.cpu", format="percent")],
    )]
"""


class Shop:
    """A server on which something happened, and the moments before and after it."""

    def __init__(self, almenara: Almenara, before: str, after: str) -> None:
        self.almenara, self.before, self.after = almenara, before, after

    def page(self, path: str) -> str:
        return self.almenara.text(path)

    def refuse(self, path: str) -> tuple[int, str]:
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(self.almenara.url + path, timeout=10)
        return raised.value.code, raised.value.read().decode()

    def redirect(self, path: str) -> str:
        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *arguments: Any) -> None:
                return None

        opener = urllib.request.build_opener(Stay)
        with pytest.raises(urllib.error.HTTPError) as raised:
            opener.open(self.almenara.url + path, timeout=10)
        assert raised.value.code == 303
        return str(raised.value.headers["location"])


def clock() -> str:
    """Now, as an address has it."""
    return format_time(now())


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("past")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "shop.py").write_text(PLUGIN)
    with Almenara(
        folder / "almenara", plugins_dir=str(plugins), plugins__disabled="[nats]"
    ) as running:
        wait_until(lambda: "web-2" in running.text("/dashboards/shop"), "the first step")
        wait_until(
            lambda: running.get("/api/sources?at=0s")[0]["status"] == "running", "a running source"
        )
        before = clock()
        (plugins / "next").touch()
        wait_until(lambda: "web-3" in running.text("/dashboards/shop"), "the second step")
        yield Shop(running, before, clock())


def test_page_as_of_a_moment_is_what_it_was(shop: Shop) -> None:
    past, live = shop.page(f"/dashboards/shop?at={shop.before}"), shop.page("/dashboards/shop")
    assert "web-2" in past
    assert "web-3" not in past
    assert "25 %" in past
    assert "Failed" not in past
    assert "web-3" in live
    assert "Failed" in live
    assert shop.page(f"/dashboards/shop?at={shop.after}").count("75 %") == 1
    rows = shop.page(f"/events?at={shop.before}").partition('id="panel-events"')[2]
    assert "order.started" in rows
    assert "order.failed" not in rows
    assert "order.failed" in shop.page("/events").partition('id="panel-events"')[2]
    assert "order.started" in shop.page(f"/panels/events?at={shop.before}")
    assert "No failures" in shop.page(f"/?at={shop.before}")


def test_page_of_the_past_is_not_live_and_says_so(shop: Shop) -> None:
    past = shop.page(f"/dashboards/shop?at={shop.before}")
    assert 'id="past-bar"' in past
    assert "hx-ws:connect" not in past
    live = shop.page("/dashboards/shop")
    assert 'id="past-bar"' not in live
    assert "hx-ws:connect" in live


def test_links_stay_in_the_time_window(shop: Shop) -> None:
    for query in (f"at={quote(shop.before, safe='')}", "range=6h"):
        page = shop.page(f"/dashboards/shop?{query}")
        links = re.findall(r'<a (?![^>]*data-time)[^>]*href="(/[^"]*)"', page)
        pages = [link for link in links if not link.startswith(("/api/", "/account"))]
        assert len(pages) > 5
        assert all(query in link for link in pages), pages
    # The filter form keeps the moment as well.
    assert f'name="at" value="{shop.before}"' in shop.page(f"/events?at={shop.before}")


def test_api_as_of_a_moment(shop: Shop) -> None:
    get = shop.almenara.get
    past = {each["name"]: each for each in get(f"/api/resources?kind=shop.pod&at={shop.before}")}
    assert {name: each["status"] for name, each in past.items()} == {
        "web-1": "Running", "web-2": "Running",
    }  # fmt: skip
    assert past["web-1"]["samples"] == {"cpu": 0.25}
    types = [event["type"] for event in get(f"/api/events?at={shop.before}")["events"]]
    assert "shop.order.started" in types
    assert "shop.order.failed" not in types
    (state,) = get(f"/api/sources?at={shop.before}")
    assert (state["name"], state["status"]) == ("shop", "running")
    lines = shop.page(f"/api/events.ndjson?type=shop.*.*&at={shop.before}").splitlines()
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("at=noon", "not a time"),
        ("at=2999-01-01T00:00:00Z", "in the future"),
        ("at=1999-01-01T00:00:00Z", "before the stored past"),
        ("range=never", "not a length of time"),
        ("since=1m&until=2m", "reversed"),
    ],
)
def test_invalid_time_has_a_message_and_the_nearest_view(
    shop: Shop, query: str, message: str
) -> None:
    for path in ("/", "/dashboards/shop", "/sources", "/panels/shop.pods"):
        status, page = shop.refuse(f"{path}?{query}")
        assert status == 400
        assert message in page
        assert 'id="panel-' in page
    if query.startswith("at="):
        for path in ("/api/resources", "/api/events", "/api/sources", "/api/events.csv"):
            status, text = shop.refuse(f"{path}?{query}")
            assert status == 400
            detail = json.loads(text)["detail"]
            assert message in detail
            assert "The nearest valid request: " in detail
            nearest = re.search(r"use at=(\S+)\.", detail)
            if nearest:
                assert shop.almenara.status(f"{path}?at={nearest[1]}") == 200


def test_what_changed_lists_each_difference(shop: Shop) -> None:
    page = shop.page(f"/changes?since={shop.before}&until={shop.after}")
    rows = re.findall(r"<tr>\s*<th[^>]*>.*?</tr>", page, re.DOTALL)
    texts = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]
    expected = {
        "shop/web-1 status Running Failed", "shop/web-1 image web:1 web:2",
        f"shop/web-2 deleted Running {DASH}", f"shop/web-3 created {DASH} Running",
    }  # fmt: skip
    assert expected <= set(texts), texts
    assert "shop.order.failed" in page
    assert "shop.order.started" not in page.partition("Newest events")[2]
    later = format_time(parse_time(shop.after) + 10)
    same = shop.page(f"/changes?since={shop.after}&until={later}&kind=shop.pod")
    assert "No resource was created" in same


def test_changes_of_the_api_are_those_of_the_page(shop: Shop) -> None:
    times = f"since={shop.before}&until={shop.after}"
    answer = shop.almenara.get(f"/api/changes?{times}&kind=shop.*")
    assert (answer["since"], answer["until"], answer["more"]) == (shop.before, shop.after, 0)
    match = {(row["name"], row["change"], row["before"], row["after"]) for row in answer["changes"]}
    assert match == {
        ("web-1", "status", "Running", "Failed"), ("web-1", "image", "web:1", "web:2"),
        ("web-2", "deleted", "Running", None), ("web-3", "created", None, "Running"),
    }  # fmt: skip
    types = [event["type"] for event in shop.almenara.get(answer["events"])["events"]]
    assert "shop.order.failed" in types
    assert "shop.order.started" not in types
    assert shop.almenara.get(f"/api/changes?{times}&kind=shop.*&limit=1")["more"] == 3
    table = shop.page(f"/api/changes.csv?{times}&kind=shop.*").splitlines()
    assert table[0] == "kind,namespace,name,change,before,after,severity"
    assert "shop.pod,shop,web-1,image,web:1,web:2,INFO" in table
    assert len(table) == 5


def read_changes(shop: Shop, query: str) -> set[tuple[str, str, Any, Any]]:
    """The changes of the shop, as the API lists them."""
    rows = shop.almenara.get(f"/api/changes?{query}&kind=shop.*")["changes"]
    return {(row["name"], row["change"], row["before"], row["after"]) for row in rows}


def test_what_existed_at_the_start_of_the_past_is_not_created(shop: Shop) -> None:
    # Both steps are within the first seconds, so `web-3` is of the first reading as well.
    assert read_changes(shop, "range=7d") == {
        ("web-1", "status", "Running", "Failed"), ("web-1", "image", "web:1", "web:2"),
        ("web-2", "deleted", "Running", None),
    }  # fmt: skip
    page = shop.page("/changes?range=7d&kind=shop.*")
    earliest = shop.almenara.get("/api/changes?range=7d")["since"]
    texts = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert f'datetime="{earliest[:19]}' in page
    assert "The stored past starts at" in texts
    assert re.search(r"\b0 created\b", texts), texts
    assert "The stored past starts" not in shop.page(f"/changes?since={shop.before}")


def test_changes_end_at_the_moment_of_the_address(shop: Shop) -> None:
    assert read_changes(shop, f"at={shop.before}&range=7d") == set()
    created = ("web-3", "created", None, "Running")
    assert created in read_changes(shop, f"since={shop.before}&at={shop.after}")
    page = shop.page(f"/changes?at={shop.before}&range=6h&kind=shop.*")
    assert "No resource was created" in page
    assert f'<input type="hidden" name="until" value="{shop.before}">' in page
    at = quote(shop.before, safe="")
    assert f'href="/changes?range=15m&amp;kind=shop.%2A&amp;at={at}"' in page
    status, page = shop.refuse("/changes?at=noon")
    assert (status, "not a time" in page) == (400, True)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("since=yesterday", "is not a time"),
        ("since=2999-01-01T00:00Z", "is in the future"),
        ("since=0s&until=2999-01-01T00:00Z", "is in the future"),
        ("since=1s&until=2s", "is reversed"),
        ("since={after}&until={after}", "is empty"),
        ("since=2020-01-01T00:00Z&until=2020-01-02T00:00Z", "before the stored past"),
        ("since=2020-01-01T00:00Z", "before the stored past"),
        ("range=long", "is not a length of time"),
    ],
)
def test_impossible_range_of_changes_has_the_nearest_valid_request(
    shop: Shop, query: str, message: str
) -> None:
    paths = ["/api/changes", "/api/changes.csv"]
    if "past" not in message and "length" not in message:
        paths += ["/api/samples", "/api/samples.csv"]
        # An event may have a time of the future.
        if "future" not in message:
            paths += ["/api/events", "/api/events.csv", "/api/events.ndjson"]
    for path in paths:
        status, text = shop.refuse(f"{path}?{query.format(after=shop.after)}")
        detail = json.loads(text)["detail"]
        assert (status, message in detail) == (400, True), detail
        nearest = re.search(r"use (\S+)\.$", detail)
        hint = "" if nearest is None else f"?{nearest[1]}"
        assert nearest is not None or "leave out since" in detail
        assert shop.almenara.status(path + hint) == 200, detail


def test_steps_lead_to_failures_and_transitions(shop: Shop) -> None:
    page = quote(f"/dashboards/shop?at={shop.before}", safe="")
    for kind in ("failure", "transition"):
        address = shop.redirect(f"/step?to={kind}&direction=on&page={page}")
        assert address.startswith("/dashboards/shop?at=")
        assert "Failed" in shop.page(address)
    story = quote(f"/timeline?correlation=order-1&at={shop.after}", safe="")
    address = shop.redirect(f"/step?to=correlation&direction=back&page={story}")
    assert "order.failed" in shop.page(address)
    address = shop.redirect(f"/step?to=correlation&direction=back&page={quote(address, safe='')}")
    assert "order.failed" not in shop.page(address)
    later = quote(f"/dashboards/shop?at={shop.after}", safe="")
    status, text = shop.refuse(f"/step?to=failure&direction=on&page={later}")
    assert status == 404
    assert "There is no later failure" in text


async def test_playback_moves_and_is_rendered_once(shop: Shop) -> None:
    page = shop.page(f"/dashboards/shop?at={shop.before}&play=600")
    address = re.search(r'hx-ws:connect="([^"]+)"', page)
    assert address is not None
    url = shop.almenara.url.replace("http", "ws") + address[1].replace("&amp;", "&")
    assert "play" in url
    origin: Any = shop.almenara.url

    async def watch() -> list[dict[str, Any]]:
        frames: list[dict[str, Any]] = []
        async with asyncio.timeout(30), connect(url, origin=origin) as socket:
            while len(frames) < 3 or "web-3" not in frames[-1]["content"]:
                frame = json.loads(await socket.recv())
                if frame.get("panel") == "shop.pods":
                    frames.append(frame)
        return frames

    first, second = await asyncio.gather(watch(), watch())
    moments = [frame["moment"] for frame in first]
    assert moments == sorted(moments)
    assert moments[0] < moments[-1]
    by_moment = {frame["moment"]: frame["content"] for frame in second}
    shared = [frame for frame in first if frame["moment"] in by_moment]
    assert shared
    assert all(by_moment[frame["moment"]] == frame["content"] for frame in shared)


def test_timeline_has_lanes_causes_and_what_is_around(shop: Shop) -> None:
    page = shop.page("/timeline?correlation=order-1")
    lanes = re.findall(r'<g class="story-lane" aria-label="([^"]+)"', page)
    assert "shop.pod shop/web-1" in lanes
    # The pod refers to its node.
    assert "shop.node n1" in lanes
    assert 'class="story-cause"' in page
    assert 'aria-label="shop.order.failed, ' in page
    assert "<title>Running, " in page
    events = shop.almenara.get("/api/events?correlation=order-1")["events"]
    around = shop.page(f"/timeline?around={events[0]['sequence']}&span=1m")
    assert "shop.order.started" in around
    for query in (
        "around=0",
        "around=x",
        f"around={'9' * 5_000}",
        f"around={events[0]['sequence']}&span=x",
    ):
        assert shop.refuse(f"/timeline?{query}")[0] == 400


@pytest.mark.parametrize("is_past", [False, True])
def test_export_and_saved_filter_have_the_range_of_the_page(shop: Shop, is_past: bool) -> None:
    at = f"&at={quote(shop.before, safe='')}&play=10&started=1" if is_past else ""
    page = shop.page(f"/events?range=6h&type=shop.>{at}")
    exports = [unescape(link) for link in re.findall(r'href="(/api/events\.[^"]+)"', page)]
    assert len(exports) == 2
    for link in exports:
        query = dict(parse_qsl(urlsplit(link).query))
        assert query == {
            "since": "6h", "type": "shop.>", **({"at": shop.before} if is_past else {}),
        }  # fmt: skip
    listed = shop.almenara.get(f"/api/events?since=6h&type=shop.>{at.partition('&play')[0]}")
    lines = shop.almenara.text(exports[0]).splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == [
        event["sequence"] for event in reversed(listed["events"])
    ]
    assert len(shop.almenara.text(exports[1]).splitlines()) == len(lines) + 1
    save = re.search(r'href="(/event-filters/edit[^"]*)"', page)
    assert save is not None
    saved = dict(parse_qsl(urlsplit(unescape(save[1])).query))
    assert {name: saved[name] for name in ("since", "type")} == {"since": "6h", "type": "shop.>"}
    assert not {"range", "play", "started"} & set(saved)
