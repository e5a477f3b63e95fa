"""The row of a stream on the NATS page: each number links to what it counts."""

import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import nats
import pytest
from nats.js.api import ConsumerConfig, StreamConfig

from support.application import Almenara
from support.servers import NatsServer, wait_until

pytestmark = pytest.mark.anyio


def read_links(almenara: Almenara, stream: str) -> dict[str, str]:
    """The addresses in the row of a stream, by the title of their column."""
    page = almenara.text("/dashboards/nats")
    titles = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', page)
    rows = re.findall(r'<tr id="stream-.*?</tr>', page, re.DOTALL)
    (row,) = [row for row in rows if f">{stream}</a>" in row]
    cells = re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)
    links = {
        title: re.search(r'href="([^"]*)"', cell) for title, cell in zip(titles, cells, strict=True)
    }
    return {title: unescape(link[1]) for title, link in links.items() if link is not None}


async def test_numbers_of_a_stream_link_to_what_they_count(
    nats_server: NatsServer, almenara: Almenara
) -> None:
    client = await nats.connect(nats_server.url)
    stream = client.jetstream()
    for name in ("ONE", "TWO"):
        await stream.add_stream(StreamConfig(name=name, subjects=[f"{name.lower()}.>"]))
        await stream.publish(f"{name.lower()}.a", b"{}")
        await stream.add_consumer(name, ConsumerConfig(durable_name=f"worker-of-{name.lower()}"))
    almenara.wait_for_events(2)
    wait_until(
        lambda: "worker-of-one" in almenara.text("/panels/table?kind=nats.consumer"), "consumers"
    )
    links = read_links(almenara, "ONE")
    await client.close()
    assert {*links} == {"Stream", "Rate", "Backlog", "Messages", "Size", "Errors"}
    backlog = almenara.text(links.pop("Backlog"))
    assert "worker-of-one" in backlog
    assert "worker-of-two" not in backlog
    for title, link in links.items():
        query = parse_qs(urlsplit(link).query)
        assert query["origin"] == ["nats/ONE"], title
        assert ("since" in query) == (title in ("Rate", "Errors")), title
    for title in ("Stream", "Messages", "Size"):
        events = almenara.events("?" + urlsplit(links[title]).query)
        assert [event["subject"] for event in events] == ["one.a"], title
