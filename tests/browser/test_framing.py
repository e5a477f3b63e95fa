"""Clickjacking tried for real: a hostile page frames every kind of page, in every way there is."""

import http.server
import threading
import time
from collections.abc import Iterator
from html import escape
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Response

from support.application import Almenara
from support.servers import wait_until
from support.simulated_kubernetes import simulated_kubernetes

TOKEN = "of-the-tests-and-long-enough-for-one"
ALLOWED = "allow-scripts allow-forms allow-popups allow-same-origin allow-top-navigation"
WAYS = {
    "iframe": '<iframe src="{}"></iframe>',
    "sandbox": '<iframe sandbox src="{}"></iframe>',
    "sandbox that allows": f'<iframe sandbox="{ALLOWED}" src="{{}}"></iframe>',
    "credentialless": '<iframe credentialless src="{}"></iframe>',
    "lazy": '<iframe loading="lazy" referrerpolicy="no-referrer" src="{}"></iframe>',
    "object": '<object data="{}" width="300" height="150"></object>',
    "object of a type": '<object type="text/html" data="{}" width="300" height="150"></object>',
    "embed": '<embed src="{}" width="300" height="150">',
    "embed of a type": '<embed type="text/html" src="{}" width="300" height="150">',
    "within its own": '<iframe srcdoc="&lt;iframe src=&quot;{}&quot;&gt;&lt;/iframe&gt;"></iframe>',
    "within a blob": '<script>const it = document.createElement("iframe"); it.src ='
    " URL.createObjectURL(new Blob(['<iframe src=\"{}\"></iframe>'], {{type: 'text/html'}}));"
    " document.body.append(it)</script>",
    "by a form": '<iframe name="filled"></iframe><form target="filled" action="{}"></form>'
    '<script>document.querySelector("form[target=filled]").submit()</script>',
    "by a link": '<iframe name="opened"></iframe><a target="opened" href="{}"></a>'
    "<script>document.querySelector('a[target=opened]').click()</script>",
    "by a redirect": '<iframe src="/away?to={}"></iframe>',
    "a frame of a set": '<iframe src="/frameset?to={}"></iframe>',
    "by refreshing": '<iframe src="/later?to={}"></iframe>',
}
BAIT = "can be framed"


class Hostile(http.server.BaseHTTPRequestHandler):
    """A site that frames the requested address; `/bait` is a page that any site may frame."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        to = parse_qs(parts.query).get("to", [""])[0]
        if parts.path == "/away":
            self.send_response(302)
            self.send_header("location", to)
            self.end_headers()
            return
        body = {
            "/bait": f"<p>{BAIT}</p>",
            "/later": f'<meta http-equiv="refresh" content="0;url={escape(to)}">',
            "/frameset": f'<frameset><frame src="{escape(to)}"></frameset>',
        }.get(parts.path) or "".join(each.format(escape(to)) for each in WAYS.values())
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(f"<!doctype html><title>hostile</title>{body}".encode())

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes elsewhere while it is answered is no error."""


@pytest.fixture(scope="module")
def hostile() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Hostile) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        # The same site as what it attacks, on another port: cookies go along with what it frames.
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Almenara]:
    folder = tmp_path_factory.mktemp("framed")
    with (
        simulated_kubernetes(folder / "kubernetes", 20) as kubernetes,
        Almenara(
            folder / "a", "nats://127.0.0.1:1", PLUGINS__DISABLED="[nats]", AUTH__MODE="token",
            AUTH__TOKEN=TOKEN, **kubernetes,
        ) as almenara,
    ):  # fmt: skip
        yield almenara


class Framing:
    """What becomes of an address that a hostile page frames."""

    def __init__(self, page: Page, hostile: str, target: str) -> None:
        self.statuses: set[int] = set()
        self.target = target
        ended: list[str] = []

        def on_response(each: Response) -> None:
            if self._is_target(each.url):
                self.statuses.add(each.status)

        def on_end(each: Request) -> None:
            if self._is_target(each.url):
                ended.append(each.failure or "")

        events = {"response": on_response, "requestfinished": on_end, "requestfailed": on_end}
        for name, heard in events.items():
            page.on(name, heard)  # type: ignore[call-overload]
        page.goto(f"{hostile}/?to={quote(target)}")
        until = time.monotonic() + 20
        while len(ended) < len(WAYS) or any(
            each.url in ("", "about:blank") for each in page.frames
        ):
            assert time.monotonic() < until, (ended, [each.url for each in page.frames])
            page.wait_for_timeout(10)
        self.refused = ended.count("net::ERR_BLOCKED_BY_RESPONSE")
        self.shown = [
            str(each.evaluate("document.documentElement.innerText")).strip()
            for each in page.frames
            # Of wherever else it led to, too.
            if each.parent_frame and urlsplit(each.url).netloc == urlsplit(target).netloc
        ]
        """The text of each frame that shows it."""
        for name, heard in events.items():
            page.remove_listener(name, heard)

    def _is_target(self, address: str) -> bool:
        # A form that is sent to an address begins a query.
        return address.rstrip("?") == self.target


def test_pages_cannot_be_framed_by_another_site(
    victim: Almenara, hostile: str, browser: Browser
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(20_000)
    # The ways are ways, and what is shown is seen.
    bait = Framing(page, hostile, f"{hostile}/bait")
    bait.shown = [each for each in bait.shown if each]  # of the frames between
    assert (bait.refused, bait.shown) == (0, [BAIT] * len(WAYS))

    sockets: list[str] = []
    page.on("websocket", lambda each: sockets.append(each.url))
    framed = {"/sign-in": Framing(page, hostile, victim.url + "/sign-in")}
    page.goto(victim.url + "/sign-in")
    page.locator("input[name=token]").fill(TOKEN)
    page.locator("input[name=token]").press("Enter")
    page.wait_for_url(victim.url + "/")
    signed_in: list[dict[str, int]] = []

    def has_event() -> bool:
        answer = page.evaluate("fetch('/api/events?limit=1').then(response => response.json())")
        signed_in[:] = answer["events"]
        return bool(signed_in)

    wait_until(has_event, "the event of the sign-in")
    pages = [
        "/", "/events", f"/events/{signed_in[0]['sequence']}", "/sources", "/account",
        "/timeline", "/dashboards/kubernetes.pods", "/panels/kubernetes.pods", "/nowhere",
        "/healthz", "/api/openapi.json", "/api/events",
    ]  # fmt: skip
    # Loading a page of its own opened one; no frame may.
    sockets.clear()
    framed |= {each: Framing(page, hostile, victim.url + each) for each in pages}
    context.close()
    shown = {name: each.shown for name, each in framed.items() if each.shown}
    refused = sum(each.refused for each in framed.values())
    print(
        f"{len(framed)} pages framed in {len(WAYS)} ways: {refused} refused by the browser,"
        f" {sum(map(len, shown.values()))} shown, {len(sockets)} live"
    )
    assert 200 in framed["/account"].statuses, "the session did not go along"
    assert shown == {}
    assert sockets == []
    # One of them leads to the sign-in, without a session; and no object shows what is not there.
    assert all(each.refused >= len(WAYS) - 2 for each in framed.values())
