import json
import re
import threading
import time
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect

from support.application import Almenara
from support.browser_proxy import Proxy
from support.raw_nats import RawClient
from support.servers import NatsServer, wait_until

MARKUP = (
    "<script>window.pwned=1</script>",
    '<img src=x onerror="window.pwned=1">',
    '<div hx-get="/pwned" hx-trigger="load"></div>',
    '<div hx-ws:connect="/pwned"></div>',
    '"><svg onload=window.pwned=1>',
    "javascript:window.pwned=1",
    "{{ 7*7 }}${7*7}",
    "</textarea></title></style></script><script>window.pwned=1</script>",
    "\u202egnp.exe\u0000\u200b",
)

READ_LINKS = "links => links.map(link => link.getAttribute('href'))"


def ce(**fields: object) -> bytes:
    return json.dumps({"specversion": "1.0", **fields}).encode()


def wait_until_live(page: Page) -> None:
    expect(page.locator("#live")).to_have_attribute("data-state", "live")


def displayed_rows(page: Page) -> list[int]:
    rows = page.eval_on_selector_all(
        "#event-rows .event", "rows => rows.map(row => Number(row.dataset.sequence))"
    )
    return [int(sequence) for sequence in rows]


def stored_rows(almenara: Almenara, limit: int = 100) -> list[int]:
    page = almenara.get(f"/api/events?limit={limit}")
    return [int(event["sequence"]) for event in page["events"]]


def test_events_appear_live_without_console_errors(
    almenara: Almenara, publisher: RawClient, page: Page
) -> None:
    problems: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            problems.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(almenara.url + "/events")
    wait_until_live(page)
    publisher.publish("fleet.story", b'{"event_type":"STORY_CREATED","title":"first light"}')
    expect(page.locator("#event-rows .event")).to_have_count(1)
    expect(page.locator("#event-rows .event")).to_contain_text("first light")
    page.goto(almenara.url + "/")
    wait_until_live(page)
    publisher.publish("fleet.failed", b'{"error":"it broke"}')
    expect(page.locator("#panel-failures")).to_contain_text("it broke")
    assert problems == []


def test_events_are_escaped_and_never_executed(
    almenara: Almenara, publisher: RawClient, page: Page
) -> None:
    requested: list[str] = []

    def note(request: Request) -> None:
        requested.append(request.url)

    page.on("request", note)
    page.goto(almenara.url + "/events")
    wait_until_live(page)
    for number, text in enumerate(MARKUP):
        names = ("id", "source", "type", "subject", "correlationid")
        fields = dict.fromkeys(names, f"{text}{number}")
        publisher.publish("fleet.evil", ce(**fields, severity="ERROR", data={text: [text]}))
        publisher.publish(
            "fleet.evil",
            json.dumps({"event_type": text, "error": text, "story_id": text}).encode(),
            {"X-Evil": text.replace("\u0000", "").replace("\r\n", "")},
        )
    publisher.publish("fleet.evil", b"\xff\xfe<script>window.pwned=1</script>")
    publisher.publish("fleet.evil", b"<script>window.pwned=1</script>")
    publisher.publish("fleet.evil", b"[" * 1000 + b"]" * 1000)
    publisher.publish("fleet.evil", b'{"timestamp": "99999-01-01T00:00:00Z", "a": 1e999}')
    publisher.publish("fleet.evil", b'{"a": "' + b"<b>" * 1_000_000 + b'"}')
    count = 2 * len(MARKUP) + 5
    almenara.wait_for_events(count)
    expect(page.locator("#event-rows .event")).to_have_count(count)
    expect(page.locator("#event-rows")).to_contain_text("<script>window.pwned=1</script>")
    addresses = ["/", "/sources", "/events"]
    addresses += [f"/events/{event['sequence']}" for event in almenara.events()]
    malformed = [event for event in almenara.events() if event["problem"]]
    assert len(malformed) >= 5
    addresses.append("/timeline?correlation=%3Cscript%3Ewindow.pwned%3D1%3C%2Fscript%3E0")
    for address in addresses:
        page.goto(almenara.url + address)
        assert page.evaluate("window.pwned") is None, address
        assert page.locator("[hx-get], [onerror], [onload]").count() == 0, address
        for link in page.eval_on_selector_all("[href]", READ_LINKS):
            assert link.startswith(("/", "#", "?", "http://", "https://")), (address, link)
    page.goto(almenara.url + "/events")
    for row in range(0, count, 4):
        page.locator("#event-rows .event").nth(row).locator("a").click()
        expect(page.locator(".detail").first).to_be_visible()
        page.keyboard.press("Escape")
    assert page.evaluate("window.pwned") is None
    assert not [url for url in requested if "pwned" in url.split("?")[0] and "/timeline" not in url]


def test_rows_equal_history_after_disconnect_and_restart(
    almenara: Almenara, publisher: RawClient, page: Page
) -> None:
    done = threading.Event()

    def publish_steadily() -> None:
        number = 0
        while not done.is_set():
            publisher.publish("fleet.n", json.dumps({"n": number}).encode())
            number += 1
            done.wait(0.1)

    publishing = threading.Thread(target=publish_steadily)
    with Proxy(almenara.port) as proxy:
        page.goto(proxy.url + "/events")
        wait_until_live(page)
        publishing.start()
        try:
            wait_until(lambda: len(displayed_rows(page)) > 5, "first rows")
            proxy.cut()
            expect(page.locator("#live")).to_have_attribute("data-state", "reconnecting")
            cut_at = almenara.stored()
            wait_until(lambda: almenara.stored() > cut_at + 60, "events that the page misses")
            proxy.restore()
            # A page that has been away for long tries less often.
            expect(page.locator("#live")).to_have_attribute("data-state", "live", timeout=30_000)
            almenara.stop()
            time.sleep(1)
            almenara.start()
            expect(page.locator("#live")).to_have_attribute("data-state", "live", timeout=30_000)
        finally:
            done.set()
            publishing.join()
        publisher.publish("fleet.last", b'{"event_type":"THE_LAST"}')
        publisher.flush()
        expect(page.locator("#event-rows")).to_contain_text("THE_LAST")
        assert len(stored_rows(almenara)) >= 60
        wait_until(lambda: displayed_rows(page) == stored_rows(almenara), "the rows of history")


def test_events_page_reports_missed_events(
    almenara: Almenara, publisher: RawClient, page: Page
) -> None:
    with Proxy(almenara.port) as proxy:
        page.goto(proxy.url + "/events")
        wait_until_live(page)
        publisher.publish("fleet.n", b'{"first": 1}')
        expect(page.locator("#event-rows .event")).to_have_count(1)
        proxy.cut()
        for number in range(250):
            publisher.publish("fleet.n", json.dumps({"n": number}).encode())
        almenara.wait_for_events(251)
        proxy.restore()
        expect(page.locator("#event-note")).to_contain_text("150 events", timeout=30_000)
        wait_until(lambda: displayed_rows(page) == stored_rows(almenara), "the newest rows")
        page.locator("#event-note a").click()
        assert "after=" in page.url
        expect(page.locator("#event-rows .event")).to_have_count(100)


def test_pause_counts_new_events_and_resume_shows_them(
    almenara: Almenara, publisher: RawClient, page: Page
) -> None:
    page.goto(almenara.url + "/events")
    wait_until_live(page)
    publisher.publish("fleet.n", b'{"n": 0}')
    expect(page.locator("#event-rows .event")).to_have_count(1)
    page.keyboard.press("Space")
    expect(page.locator("#live")).to_have_attribute("data-state", "paused")
    for number in range(7):
        publisher.publish("fleet.n", json.dumps({"n": number}).encode())
    almenara.wait_for_events(8)
    expect(page.locator("body")).to_contain_text("7")
    expect(page.locator("#event-rows .event")).to_have_count(1)
    page.keyboard.press("Space")
    expect(page.locator("#event-rows .event")).to_have_count(8)
    assert displayed_rows(page) == stored_rows(almenara)


def test_filters_are_in_the_address_and_apply_to_live_events(
    almenara: Almenara, publisher: RawClient, page: Page
) -> None:
    publisher.publish("fleet.a", b'{"event_type":"STORY"}')
    publisher.publish("fleet.a.failed", b'{"event_type":"STORY_FAILED"}')
    almenara.wait_for_events(2)
    page.goto(almenara.url + "/events")
    wait_until_live(page)
    page.keyboard.press("/")
    page.keyboard.type("story_failed")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=story_failed*")
    wait_until_live(page)
    expect(page.locator("#event-rows .event")).to_have_count(1)
    publisher.publish("fleet.a", b'{"event_type":"STORY"}')
    publisher.publish("fleet.b.failed", b'{"event_type":"STORY_FAILED", "n": 2}')
    expect(page.locator("#event-rows .event")).to_have_count(2)
    almenara.wait_for_events(4)
    assert len(displayed_rows(page)) == 2


def test_event_opens_in_the_drawer_by_keyboard_and_at_its_address(
    almenara: Almenara, publisher: RawClient, page: Page
) -> None:
    publisher.publish(
        "fleet.a", b'{"event_type":"STORY","correlation_id":"US-9","deep":{"x":[1,2]}}'
    )
    almenara.wait_for_events(1)
    page.goto(almenara.url + "/events")
    wait_until_live(page)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator(".detail").first).to_contain_text("US-9")
    address = page.url
    page.keyboard.press("Escape")
    expect(page.locator(".detail")).not_to_be_visible()
    page.goto(address)
    expect(page.locator("main")).to_contain_text("US-9")
    page.goto(almenara.url + "/timeline?correlation=US-9")
    expect(page.locator("main")).to_contain_text("STORY")


def test_drawer_reports_an_event_that_fails_to_load(
    almenara: Almenara, publisher: RawClient, page: Page
) -> None:
    for name in ("FIRST", "SECOND"):
        publisher.publish("fleet.a", json.dumps({"event_type": name}).encode())
    almenara.wait_for_events(2)
    page.goto(almenara.url + "/events")
    wait_until_live(page)
    page.get_by_role("link", name="FIRST").click()
    expect(page.locator("#drawer .detail")).to_contain_text("FIRST")
    page.route("**/events/*part=detail*", lambda route: route.abort())
    page.get_by_role("link", name="SECOND").click()
    expect(page.locator("#drawer")).to_contain_text("Could not load event")
    expect(page.locator("#drawer .detail")).to_have_count(0)
    page.unroute("**/events/*part=detail*")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="SECOND").click()
    expect(page.locator("#drawer .detail")).to_contain_text("SECOND")
    page.goto(almenara.url + "/events")
    wait_until_live(page)
    page.route("**/events/*part=detail*", lambda route: route.abort())
    page.get_by_role("link", name="FIRST").click()
    page.get_by_role("link", name="Open event page").click()
    expect(page.locator("main")).to_contain_text("FIRST")


def test_pages_work_without_javascript_and_on_a_phone(
    almenara: Almenara, publisher: RawClient, browser: Browser
) -> None:
    for number in range(5):
        publisher.publish("fleet.a.failed", json.dumps({"n": number, "error": "x" * 300}).encode())
    almenara.wait_for_events(5)
    for width, scripts in ((360, True), (390, True), (1440, False), (2560, True)):
        context = browser.new_context(
            viewport={"width": width, "height": 844}, java_script_enabled=scripts
        )
        page = context.new_page()
        for address in ("/", "/events", "/sources", "/events/1", "/timeline?correlation=x"):
            page.goto(almenara.url + address)
            expect(page.locator("h1").first).to_be_attached()
            if scripts:
                wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert wide <= 0, (width, address)
                current = page.locator(".top nav [aria-current]")
                if current.count():
                    expect(current).to_be_in_viewport(ratio=0.9)
        page.goto(almenara.url + "/events")
        expect(page.locator("#event-rows .event")).to_have_count(5)
        context.close()


def test_table_of_plugins_fits_its_page(idle_almenara: Almenara, page: Page) -> None:
    page.set_viewport_size({"width": 1100, "height": 800})
    page.goto(idle_almenara.url + "/sources")
    table = page.locator("#plugins .table-wrap")
    expect(table).to_contain_text("kubernetes")
    assert table.evaluate("wrap => wrap.scrollWidth - wrap.clientWidth") <= 0


def test_only_pages_with_state_show_as_of(idle_almenara: Almenara, page: Page) -> None:
    page.goto(idle_almenara.url + "/timeline?correlation=x")
    expect(page.locator("#live")).to_be_visible()
    expect(page.locator("#live")).to_contain_text("as of")
    page.goto(idle_almenara.url + "/nowhere")
    expect(page.locator("main")).to_contain_text("Nothing is at this address.")
    expect(page.locator("#live")).to_be_hidden()


def test_frozen_server_shows_as_stale(tmp_path: Path, nats_server: NatsServer, page: Page) -> None:
    import os
    import signal

    with Almenara(tmp_path / "a", nats_server.url) as almenara:
        page.goto(almenara.url + "/events")
        wait_until_live(page)
        assert almenara.process is not None
        page.wait_for_timeout(5500)
        os.kill(almenara.process.pid, signal.SIGSTOP)
        try:
            indicator = page.locator("#live")
            expect(indicator).not_to_have_attribute("data-state", "live", timeout=20_000)
        finally:
            os.kill(almenara.process.pid, signal.SIGCONT)
        expect(indicator).to_have_attribute("data-state", "live", timeout=30_000)


def test_page_polls_where_a_proxy_blocks_websockets(
    almenara: Almenara, publisher: RawClient, page: Page
) -> None:
    with Proxy(almenara.port, blocks_websockets=True) as proxy:
        page.goto(proxy.url + "/events")
        indicator = page.locator("#live")
        expect(indicator).to_have_attribute("data-state", "polling")
        expect(indicator).to_contain_text("WebSocket blocked")
        assert "/live" in str(indicator.get_attribute("title"))
        publisher.publish("fleet.polled", b'{"event_type":"POLLED"}')
        expect(page.locator("#event-rows")).to_contain_text("POLLED", timeout=15_000)
        expect(page.locator("#panel-histogram")).to_contain_text("1 event")
        proxy.blocks_websockets = False
        expect(indicator).to_have_attribute("data-state", "live", timeout=30_000)


def test_page_names_one_time_zone_and_offers_the_local_one(
    almenara: Almenara, publisher: RawClient, browser: Browser
) -> None:
    moment = "2026-03-01T20:15:30.123Z"
    publisher.publish("fleet.a", ce(id="1", source="s", type="TIMED", time=moment))
    almenara.wait_for_events(1)
    context = browser.new_context(timezone_id="Asia/Kolkata")
    page = context.new_page()
    page.goto(almenara.url + "/events?since=2026-03-01T20:00:00Z&until=2026-03-01T20:30:00Z")
    row_time = page.locator("#event-rows time")
    page.keyboard.press("t")
    expect(row_time).to_have_text("20:15:30.123")
    zone = page.locator(".bottom .zone-switch")
    expect(zone).to_have_text("Times in UTC")
    row_time.hover()
    expect(row_time).to_have_attribute(
        "title", "2026-03-01 20:15:30.123 UTC \u00b7 2026-03-02 01:45:30.123 UTC+05:30"
    )
    first = page.locator(".histogram time").first
    expect(first).to_have_text("20:00:00")
    zone.click()
    expect(zone).to_have_text("Times in UTC+05:30")
    expect(row_time).to_have_text("01:45:30.123")
    expect(first).to_have_text("01:30:00")
    row_time.hover()
    expect(row_time).to_have_attribute(
        "title", "2026-03-02 01:45:30.123 UTC+05:30 \u00b7 2026-03-01 20:15:30.123 UTC"
    )
    page.reload()
    expect(row_time).to_have_text("01:45:30.123")
    context.close()


def test_rows_can_be_selected_and_copies_carry_the_time(
    almenara: Almenara, publisher: RawClient, browser: Browser
) -> None:
    moment = "2026-03-01T20:15:30.123Z"
    publisher.publish("fleet.a", ce(id="1", source="s", type="COPIED", time=moment, subject="fir"))
    publisher.publish("fleet.a", ce(id="2", source="s", type="COPIED", time=moment, subject="elm"))
    almenara.wait_for_events(2)
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(almenara.url + "/events?until=2026-03-02T00:00:00Z")
    rows = page.locator("#event-rows .event")
    expect(rows).to_have_count(2)

    def drag(start: Locator, end: Locator) -> str:
        first, last = start.bounding_box(), end.bounding_box()
        assert first is not None
        assert last is not None
        page.mouse.move(first["x"] + 2, first["y"] + first["height"] / 2)
        page.mouse.down()
        page.mouse.move(last["x"] + last["width"] - 2, last["y"] + last["height"] / 2, steps=8)
        page.mouse.up()
        page.keyboard.press("Control+c")
        return str(page.evaluate("navigator.clipboard.readText()"))

    copied = drag(rows.first.locator(".badge"), rows.last.locator(".summary"))
    lines = copied.splitlines()
    assert [line.split("\t")[:3] for line in lines] == [
        ["INFO", "2026-03-01 20:15:30.123 UTC", "COPIED"]
    ] * 2
    assert ["elm" in lines[0], "fir" in lines[1]] == [True, True]
    page.locator("h1").click()
    copied = drag(rows.first.locator(".type"), rows.first.locator(".type"))
    assert copied.strip()
    assert copied.strip() in "COPIED"
    expect(page.locator("#drawer")).to_be_hidden()
    context.close()


def test_events_page_refuses_an_empty_time_range(idle_almenara: Almenara, page: Page) -> None:
    response = page.goto(
        idle_almenara.url + "/events?since=2026-03-02T00:00:00Z&until=2026-03-01T00:00:00Z"
    )
    assert response is not None
    assert response.status == 400
    expect(page.locator("main")).to_contain_text("the time range is empty")
    expect(page.locator("#filter-since")).to_have_value("2026-03-02T00:00:00Z")


def test_times_of_events_are_whole_without_javascript(
    almenara: Almenara, publisher: RawClient, browser: Browser
) -> None:
    publisher.publish("fleet.one", b'{"n": 1}')
    almenara.wait_for_events(1)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(almenara.url + "/events")
    time_of_day = page.locator(".event-link > time").first
    expect(time_of_day).to_have_text(re.compile(r"^\d\d:\d\d:\d\d\.\d{3}$"))
    assert time_of_day.evaluate("time => time.scrollWidth <= time.clientWidth")
    context.close()


def test_rows_of_events_are_uniform_on_a_phone(
    almenara: Almenara, publisher: RawClient, page: Page
) -> None:
    publisher.make_stream("S", "s.>")
    for name in ("a", "a.much.longer.name.of.a.type.than.fits"):
        for subject in ("fleet.one", "s.one"):
            publisher.publish(subject, json.dumps({"type": name, "error": "x" * 99}).encode())
    publisher.publish("s.two", b'{"type":"s.two"}')
    almenara.wait_for_events(5)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(almenara.url + "/events")
    rows = page.locator("#event-rows .event")
    expect(rows).to_have_count(5)
    links = rows.locator(".event-link")
    assert len(set(links.evaluate_all("links => links.map(link => link.offsetHeight)"))) == 1
    origins = rows.locator(".origin").evaluate_all(
        "origins => origins.map(origin => origin.getBoundingClientRect().top"
        " - origin.parentElement.querySelector('time').getBoundingClientRect().bottom)"
    )
    assert min(origins) >= -1
