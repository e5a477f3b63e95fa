"""Every route, channel and export for every kind of scope: what is hidden changes no byte of it.

Two applications run side by side, with and without the signals of a second team, on a clock that
stands still. The requests are made from the router, and the channels from the panels.
"""

import asyncio
import itertools
import json
import os
import re
import statistics
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from almenara.live.channel import Channel
from almenara.live.event_channel import EventChannel
from almenara.live.log_channel import LogChannel
from almenara.live.past_channel import PastChannel
from almenara.live.text_channel import TextChannel
from almenara.signals import format_time
from almenara.units import MINUTE, SECOND
from support.routes import ROUTES
from support.scoped_application import (
    GRANTS,
    OURS,
    PATIENCE,
    START,
    THEIRS,
    ScopedApplication,
    StandingClock,
    Viewer,
    declared_panels,
    make_signals,
    run_scoped_application,
    wait_for,
)

pytestmark = pytest.mark.anyio

Request = tuple[str, str, dict[str, Any]]
"""Method, address, and what is sent."""
PAST: Final = format_time(START + 30 * SECOND)
CHANNEL_KINDS: Final = {Channel, EventChannel, LogChannel, PastChannel, TextChannel}
FRAME_SCOPES: Final = ("source", "namespace", "label", "nothing")
ROUNDS: Final = 500
NEWEST: Final = "/api/events?limit=1"
TIMES: Final = ("", f"at={PAST}", "range=1h")
SPREAD: Final = ("/panels/{name:str}", "/api/charts/{name:str}", "/dashboards/{name:str}")
UNREAD: Final[Mapping[str, str]] = {
    "/sign-in": "public",
    "/sign-in/start": "public",
    "/sign-in/callback": "public",
    "/sign-in/back-channel-logout": "public",
    "/healthz": "public",
    "/readyz": "public",
    "/sign-out": "ends the session",
    "/alerts/callbacks/{name:str}": "is signed by the receiver and answers nothing",
}
"""Routes that show no signal to whoever calls them, and why."""
ALERT_PATHS: Final = (
    "/alerts/rules/{rule:str}/{fingerprint:str}",
    "/api/alerts/{rule:str}/{fingerprint:str}/acknowledge",
    "/api/alerts/{rule:str}/{fingerprint:str}/unacknowledge",
    "/api/alerts/{rule:str}/{fingerprint:str}/assign",
)
EVENT_PATHS: Final = ("/events", "/api/events", "/api/events.ndjson", "/api/events.csv")
EVENT_FILTERS: Final = (
    "text=%22of+theirs%22", "type=theirs.*", f"type={OURS}.*", "type=other.happened",
    "origin=theirs/part", "origin=ours/*", "source=theirs-system", "subject=part-of-theirs",
    "correlation=shared", "severity=ERROR", "after=1", "before=99999", "limit=1",
)  # fmt: skip
SAMPLES: Final = "query=last_over_time({origin=~'.%2B'}[1d])&match[]={origin=~'.%2B'}"
BROKEN: Final = 'class="broken-panel"'
PLAIN: Final = {
    "/", "/alerts", "/alerts/rules", "/alerts/silences", "/alerts/receivers", "/sources",
    "/dashboards", "/event-filters", "/account", "/metrics", "/api/plugins", "/api/health",
    "/api/silences", "/api/session", "/api/v1/labels", "/api/openapi.json",
    "/api/openapi.json/openapi.json", "/account/tokens", "/intake/cloudevents",
    "/intake/alertmanager", "/intake/grafana", "/alerts/acknowledge", "/alerts/unacknowledge",
    "/alerts/assign", "/alerts/silences/end", "/alerts/receivers/test", "/dashboard-editor/delete",
    "/event-filters/delete",
}  # fmt: skip
"""Routes without parameters that choose what they show."""
MASKED: Final = re.compile(
    # The rate of a source depends on when it is looked at.
    r'nonce="[^"]*"|name="csrf" value="[^"]*"|"csrf":"[^"]*"|"rate":[\d.]+|[\d.]+/s'
)
SEQUENCES: Final = re.compile(
    r'((?:"sequence":|"last_sequence":|"cause":"|""cause"":""|data-sequence=\\?"|id=\\?"e|'
    r'name="around" value="|/events/|(?:before|after|around)=|no event |happened #?|quiet">#)|'
    # The first column of CSV, and the id of an event of an alert.
    r'^(?=\d+,\d{4}-)|(?<=["\s,;>])(?=\d+:[a-z-]+/[0-9a-f]{16}:))(\d+)',
    re.MULTILINE,
)


class Pair:
    """An application with the signals of one team, and one with those of both."""

    def __init__(
        self, alone: ScopedApplication, both: ScopedApplication, clock: StandingClock
    ) -> None:
        self.alone, self.both, self.clock = alone, both, clock
        self.panels = declared_panels(alone.services.settings)
        self.alerts: list[str] = []

    async def publish(self, number: int) -> None:
        """Publish a batch of the first team in both, and before it one of the second in one."""
        await self.both.publish(THEIRS, make_signals(THEIRS, number, self.panels))
        # No two changes are recorded at the same microsecond.
        self.clock.time += SECOND
        for each in (self.alone, self.both):
            await each.publish(OURS, make_signals(OURS, number, self.panels))

    async def learn(self) -> None:
        """Wait for the alerts; note them, those of the second team included."""

        async def count(application: ScopedApplication) -> int:
            answer = await application.request("GET", "/api/alerts", "all")
            self.alerts = [
                f"{item['rule']}/{item['fingerprint']}" for item in json.loads(answer.text)
            ]
            return len(self.alerts)

        # As many alerts of each team, of a resource and of samples at least.
        async with asyncio.timeout(PATIENCE):
            while (number := await count(self.alone)) < 2 or await count(self.both) < 2 * number:
                await asyncio.sleep(0.05)
        for each, team in ((self.alone, OURS), (self.both, OURS), (self.both, THEIRS)):
            answer = await each.request("GET", f"/api/events?type={team}.happened", "all")
            (event,) = json.loads(answer.text)["events"]
            each.sequences[team] = event["sequence"]
        # Where what is hidden does not exist, its number is that of a signal that is no event: the
        # first ones are the sources.
        self.alone.sequences[THEIRS] = 1


def expand(path: str, method: str, pair: Pair) -> Iterator[Request]:
    """The requests of a route: for what is visible, hidden and missing, now and in the past."""
    services = pair.alone.services
    if path == "/panels/{name:str}":
        for name, panel in services.panels.items():
            for query in (fill(panel.filters, THEIRS), f"at={PAST}"):
                yield method, f"/panels/{name}?{query}", {}
        return
    if path == "/panels/{name:str}/exports/{export:str}":
        for name, panel in services.panels.items():
            for export in panel.exports:
                for team in ("", OURS, THEIRS):
                    query = fill(panel.filters, team)
                    yield method, f"/panels/{name}/exports/{export.name}?{query}", {}
        return
    if path == "/api/charts/{name:str}":
        for name, panel in services.panels.items():
            if panel.read_chart is not None:
                for query in ("range=1h", fill(panel.filters, THEIRS)):
                    yield method, f"/api/charts/{name}?{query}", {}
        return
    if path == "/dashboards/{name:str}":
        for dashboard in services.list_dashboards():
            for query in (f"at={PAST}", "range=1h", f"namespace={THEIRS}&name=part-of-theirs"):
                yield method, f"/dashboards/{dashboard.name}?{query}", {}
        yield method, "/dashboards/unknown", {}
        return
    if path in ALERT_PATHS:
        for alert in (*pair.alerts, "failed/unknown"):
            address = path.replace("{rule:str}/{fingerprint:str}", alert)
            yield method, address, {"json": {"to": "a"} if "assign" in path else {}}
        return
    parameters: Mapping[str, Sequence[str]] = {
        "sequence:int": ["<ours>", "<theirs>", "99999"],
        "label:str": ["__name__", "name", "origin", "namespace", "unknown"],
        "rule:str": ["failed", "unknown"],
        "silence_id:str": ["unknown"], "session_id:str": ["unknown"], "token_id:str": ["unknown"],
        "name:path": ["unknown.js"], "path": ["unknown"], "name:str": ["unknown"],
        "kind:str": ["logs", "unknown"],
    }  # fmt: skip
    known = {
        "/events/{sequence:int}", "/api/events/{sequence:int}", "/api/v1/label/{label:str}/values",
        "/alerts/rules/{rule:str}", "/api/silences/{silence_id:str}/end",
        "/account/sessions/{session_id:str}/end", "/account/tokens/{token_id:str}/revoke",
        "/static/{name:path}", "/api/openapi.json/{path}", "/intake/webhook/{name:str}",
        "/intake/otlp/v1/{kind:str}", "/intake/{kind:str}", "/dashboards/{name:str}/export",
    }  # fmt: skip
    matches = re.findall(r"{([^}]+)}", path)
    assert not matches or path in known, f"{path}: add requests that reach what it shows"
    addresses = [path]
    for name in matches:
        addresses = [each.replace(f"{{{name}}}", text) for each in addresses
                     for text in parameters[name]]  # fmt: skip
    for address in addresses:
        for query in queries_of(path):
            more: dict[str, Any] = {}
            if method == "POST":
                alert = pair.alerts[-1] if pair.alerts else ""
                more = {"data": {"alert": alert, "comment": "x", "to": "x", "name": "unknown",
                                 "yaml": "name: a", "version": "0"}}  # fmt: skip
            yield method, f"{address}?{query}" if query else address, more


def queries_of(path: str) -> Sequence[str]:
    """The parameters of the addresses of a route."""
    if path in EVENT_PATHS:
        return ("", TIMES[1], *(EVENT_FILTERS if path == "/api/events" else EVENT_FILTERS[::4]))
    queries: Mapping[str, Sequence[str]] = {
        "/explore": ("metric=load", "text=part&metric=load&kind=team.part", "metric=theirs"),
        "/timeline": (
            "correlation=shared", "correlation=unknown", f"correlation=shared&at={PAST}",
            "around=<ours>&span=2h", "around=<theirs>&span=2h",
        ),
        "/changes": ("range=1h", f"since={PAST}", f"kind=team.part&namespace={THEIRS}"),
        "/step": [
            f"to={to}&direction={direction}&page={quote(f'/timeline?correlation=shared{at}')}"
            for to in ("failure", "transition", "correlation")
            for direction in ("back", "on")
            for at in ("", f"&at={PAST}")
        ],
        "/api/resources": (
            f"at={PAST}", "kind=team.part", "limit=2", "kind=team.part&limit=1",
        ),
        "/api/changes": (f"since={PAST}", "range=1h&limit=3", f"kind=team.part&namespace={THEIRS}"),
        "/api/changes.csv": ("range=1h",),
        "/event-filters/edit": ("name=unknown", "type=theirs.*"),
        "/api/samples": (
            "metric=load", "metric=load&kind=team.part&name=part-of-theirs", "metric=unknown",
        ),
        "/api/samples.csv": ("metric=load",),
        "/api/sources": (f"at={PAST}",),
        "/api/alerts": ("status=firing",),
        "/api/v1/query": (SAMPLES,),
        "/api/v1/query_range": (f"{SAMPLES}&start=0&end=9999999999&step=1000000",),
        "/api/v1/series": (SAMPLES,),
        "/dashboard-editor": ("name=unknown", "panel=events", "panel=team.part"),
    }  # fmt: skip
    assert path in queries or path in PLAIN or "{" in path, f"{path}: add requests to `queries`"
    return (
        "",
        *queries.get(path, ()),
        *(TIMES[1:] if path in ("/", "/alerts", "/sources") else ()),
    )


def fill(filters: frozenset[str], team: str) -> str:
    """The filters of a panel for what a team has; none without a team."""
    values = {
        "namespace": team, "name": f"part-of-{team}", "text": f'"of {team}"', "kind": "team.part",
        "metric": "load", "origin": f"{team}/*", "type": f"{team}.*", "rule": "failed",
        "source": f"{team}-system", "subject": f"part-of-{team}", "council": f"part-of-{team}",
        "node": "shared", "correlation": "shared",
    }  # fmt: skip
    return "&".join(
        f"{name}={quote(values[name])}" for name in sorted(filters & values.keys()) if team
    )


def normalize(text: str) -> str:
    """A body without what is random; of sequences, which count what is hidden, it has the ranks."""
    text = MASKED.sub("*", text)
    ranks = {
        number: str(rank)
        for rank, number in enumerate(sorted({int(each[2]) for each in SEQUENCES.finditer(text)}))
    }
    return SEQUENCES.sub(lambda match: match[1] + ranks[int(match[2])], text)


def difference(one: str, other: str) -> str:
    """What two texts have where they begin to differ."""
    pairs = enumerate(zip(one, other, strict=False))
    at = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
    return f"{one[max(at - 80, 0) : at + 80]!r} is {other[max(at - 80, 0) : at + 80]!r}"


def spread(requests: Iterable[Request], is_spread: bool) -> Iterator[tuple[Request, str]]:
    """Each request with every scope or, where there are many of one route, with the next one; with
    `SCOPES=all`, all of them."""
    scopes = tuple(GRANTS)
    for number, request in enumerate(requests):
        if is_spread and os.environ.get("SCOPES") != "all":
            # The requests of a panel are fewer than the scopes: each panel starts with another.
            yield request, scopes[(number + number // len(scopes)) % len(scopes)]
        else:
            yield from ((request, caller) for caller in scopes)


@asynccontextmanager
async def run_pair(folder: Path, clock: StandingClock) -> AsyncIterator[Pair]:
    """Both applications with a first batch, two minutes ago."""
    async with (
        run_scoped_application(folder / "alone") as alone,
        run_scoped_application(folder / "both") as both,
    ):
        pair = Pair(alone, both, clock)
        await pair.publish(1)
        await pair.learn()
        clock.time += 2 * MINUTE
        yield pair


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StandingClock:
    standing = StandingClock()
    monkeypatch.setattr("almenara.clock.SystemClock.now", standing.now)
    return standing


async def test_hidden_signals_change_no_byte_of_any_answer(
    tmp_path: Path, clock: StandingClock
) -> None:
    async with run_pair(tmp_path, clock) as pair:
        wrong: list[str] = []
        ratios: list[float] = []
        visible = dict.fromkeys(GRANTS, 0)
        for method, path, _ in ROUTES:
            requests = [] if path in UNREAD else expand(path, method, pair)
            for (_, address, more), caller in spread(requests, path in SPREAD):
                alone = await pair.alone.request(method, address, caller, **more)
                both = await pair.both.request(method, address, caller, **more)
                ratios.append(both.seconds / alone.seconds)
                visible[caller] += OURS in alone.text
                expected = (alone.status, normalize(alone.text))
                is_broken = alone.status >= 500 or BROKEN in alone.text
                if is_broken or (both.status, normalize(both.text)) != expected:
                    matches = difference(expected[1], normalize(both.text))
                    wrong.append(
                        f"{caller}: {method} {address}: {alone.status}, {both.status}: {matches}"
                    )
        (newest,) = json.loads((await pair.both.request("GET", NEWEST, "source")).text)["events"]
        health = json.loads((await pair.both.request("GET", "/api/health", "source")).text)
        ratios.sort()
        print(
            f"{len(ratios)} combinations of {len(ROUTES)} routes and {len(GRANTS)} scopes,"
            f" {len(wrong)} wrong; time with hidden signals to without: median"
            f" {statistics.median(ratios):.2f}, p99 {ratios[len(ratios) * 99 // 100]:.2f}"
        )
    assert not wrong, "\n".join(wrong[:50])
    # A newer one would show how much is published that is hidden.
    assert health["last_sequence"] == newest["sequence"]
    assert all(count > 50 for caller, count in visible.items() if caller != "nothing"), visible


def channels(pair: Pair) -> Iterator[tuple[str, str]]:
    """A channel of every panel, one with filters for what is hidden and, of each kind of panel, one
    of the past and a playback; each with the next scope."""
    scopes, kinds = itertools.cycle(FRAME_SCOPES), set[str]()
    for name, panel in pair.alone.services.panels.items():
        yield next(scopes), name
        if query := fill(panel.filters, THEIRS):
            yield next(scopes), f"{name}?{query}"
        if panel.kind not in kinds:
            kinds.add(panel.kind)
            yield next(scopes), f"{name}?at={PAST}"
            yield next(scopes), f"{name}?at={PAST}&play=1&started={pair.clock.time}"


async def test_hidden_signals_change_no_frame_of_any_channel(
    tmp_path: Path, clock: StandingClock
) -> None:
    async with run_pair(tmp_path, clock) as pair:
        watched = list(channels(pair))
        alone = {each: await pair.alone.watch(*each) for each in watched}
        both = {each: await pair.both.watch(*each) for each in watched}
        # Routed last, so that every other channel has been passed what this one has.
        everything = [(each, await each.watch("all", "events")) for each in (pair.alone, pair.both)]
        first = await settle(alone, both)
        before = {each: viewer.snapshot for each, viewer in alone.items()}
        for viewer in (*both.values(), *(viewer for _, viewer in everything)):
            viewer.frames.clear()
        # Nothing of it is visible, so that nothing may be sent for it.
        await pair.both.publish(THEIRS, make_signals(THEIRS, 2, pair.panels))
        await wait_for(lambda: bool(everything[1][1].frames))
        caused = [each for each, viewer in both.items() if viewer.frames or viewer.is_changed]
        for application, viewer in everything:
            viewer.frames.clear()
            await application.publish(OURS, make_signals(OURS, 2, pair.panels))
            await wait_for(lambda viewer=viewer: bool(viewer.frames))
        second = await settle(alone, both)
        changed = sum(before[each] != viewer.snapshot for each, viewer in alone.items())
        kinds = {type(viewer.channel) for viewer in alone.values()}
        print(
            f"{len(watched)} channels of {len(kinds)} kinds and {len(FRAME_SCOPES)} scopes, before"
            f" and after {changed} changes: {len(first) + len(caused) + len(second)} wrong"
        )
    assert not caused, caused[:50]
    assert not first, "\n".join(first[:50])
    assert not second, "\n".join(second[:50])
    assert kinds == CHANNEL_KINDS
    assert changed > len(watched) / 8


async def settle(
    alone: Mapping[tuple[str, str], Viewer], both: Mapping[tuple[str, str], Viewer]
) -> list[str]:
    """Wait until what has changed is rendered, and return the channels that show something else."""
    viewers = (*alone.values(), *both.values())
    wrong, frames = compare(alone, both), -1
    for _ in range(ROUNDS):
        before, frames = frames, sum(len(each.frames) for each in viewers)
        if not wrong and frames == before and not any(each.is_changed for each in viewers):
            break
        await asyncio.sleep(0.2)
        wrong = compare(alone, both)
    return wrong


def compare(
    alone: Mapping[tuple[str, str], Viewer], both: Mapping[tuple[str, str], Viewer]
) -> list[str]:
    """The channels that show something else."""
    texts = {each: [normalize(item[each].snapshot) for item in (alone, both)] for each in alone}
    return [f"{each}: {difference(*pair)}" for each, pair in texts.items() if len({*pair}) > 1]
