"""What a scope hides stays hidden in the past: moments, ranges, changes, timelines and playback."""

import asyncio
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect

from almenara.signals import format_time, now
from support.secured_server import OURS, THEIRS, SecuredServer
from support.servers import wait_until

pytestmark = pytest.mark.anyio

TIMES = ("at={moment}", "since={start}&until={moment}", "range=24h", "at={moment}&play=60")
PAGES = (
    "/", "/events", "/sources", "/dashboards/nats", "/panels/events", "/panels/failures",
    "/panels/nats.streams", "/api/events", "/api/resources", "/api/sources",
    "/api/events.ndjson", "/api/events.csv",
)  # fmt: skip


def moments(secured: SecuredServer) -> dict[str, str]:
    """A moment at which everything was known, and the start of what is stored."""
    moment = format_time(now())
    wait_until(
        lambda: secured.get(f"/api/resources?at={moment}", "viewer").status_code == 200,
        "a stored past",
    )
    return {"moment": moment, "start": format_time(now() - 3_600_000_000)}


async def test_times_show_nothing_out_of_scope(secured: SecuredServer) -> None:
    known = moments(secured)
    leaks, seen = 0, dict.fromkeys(secured.tokens, 0)
    for page in PAGES:
        for time in TIMES:
            query = time.format(**known)
            if page.startswith("/api/") and not query.startswith("at="):
                continue
            for caller in secured.tokens:
                answer = secured.get(f"{page}?{query.split('&play')[0]}", caller)
                assert answer.status_code == 200, (page, query, caller, answer.text[:300])
                hidden = THEIRS in answer.text or "TEAM_B" in answer.text
                leaks += hidden and caller.startswith("scoped")
                seen[caller] += OURS in answer.text
    assert leaks == 0
    assert all(seen.values()), seen
    print(f"{len(PAGES)} pages, {len(TIMES)} times, {len(seen)} roles, 0 leaks")


async def test_changes_and_timelines_show_nothing_out_of_scope(secured: SecuredServer) -> None:
    known = moments(secured)
    # Changes are stored at intervals.
    wait_until(
        lambda: all(
            OURS in secured.get("/changes?range=1h", caller).text for caller in secured.tokens
        ),
        "the changes",
    )
    for caller in secured.tokens:
        is_scoped = caller.startswith("scoped")
        changes = secured.get("/changes?range=1h", caller).text
        assert OURS in changes, caller
        assert (THEIRS in changes or "TEAM_B" in changes) is not is_scoped, caller
        for path in ("/api/changes", "/api/changes.csv"):
            answer = secured.get(f"{path}?range=1h", caller)
            assert answer.status_code == 200, answer.text
            assert not (is_scoped and "TEAM_B" in answer.text), (path, caller)
        for marker in (OURS, THEIRS):
            for more in ("", f"&at={known['moment']}"):
                story = secured.get(f"/timeline?correlation=corr-{marker}{more}", caller).text
                is_visible = "story-mark" in story
                assert is_visible is (marker == OURS or not is_scoped), (caller, marker)
        for sequence, marker in secured.sequences.items():
            answer = secured.get(f"/timeline?around={sequence}&span=2h", caller)
            is_hidden = is_scoped and marker == THEIRS
            assert (answer.status_code == 400) is is_hidden, (caller, sequence)
            assert not (is_scoped and THEIRS in answer.text)
            event = secured.get(f"/events/{sequence}?at={known['moment']}", caller)
            assert (event.status_code == 404) is is_hidden


async def test_steps_lead_to_what_the_scope_shows(secured: SecuredServer) -> None:
    for marker, expected in ((OURS, 303), (THEIRS, 404)):
        page = quote(f"/timeline?correlation=corr-{marker}")
        answer = secured.get(f"/step?to=correlation&direction=back&page={page}", "scoped")
        assert answer.status_code == expected
    for page in ("//elsewhere.example", "https://elsewhere.example/", "/\\elsewhere", "x", ""):
        answer = secured.get(f"/step?to=failure&direction=back&page={quote(page)}", "viewer")
        assert answer.status_code == 400, page


async def test_playback_shows_nothing_out_of_scope(secured: SecuredServer) -> None:
    known = moments(secured)
    panels = ["events", "failures", "nats.streams", "strip", "numbers", "histogram"]
    names = [
        quote(f"{panel}?at={known['moment']}&play=1&started={now()}", safe="") for panel in panels
    ]

    async def watch(caller: str) -> str:
        url = f"{secured.url.replace('http', 'ws')}/live?" + "&".join(
            f"panel={name}" for name in names
        )
        headers = {"authorization": f"Bearer {secured.tokens[caller]}"}
        text, frames = "", 0
        async with (
            asyncio.timeout(30),
            connect(url, origin=secured.url, additional_headers=headers) as socket,  # type: ignore[arg-type]
        ):
            while frames < len(panels):
                frame = str(await socket.recv())
                text += frame
                frames += '"moment":' in frame
        return text

    texts = await asyncio.gather(*(watch(caller) for caller in secured.tokens))
    for caller, text in zip(secured.tokens, texts, strict=True):
        assert OURS in text, caller
        assert (THEIRS in text or "TEAM_B" in text) is not caller.startswith("scoped"), caller
