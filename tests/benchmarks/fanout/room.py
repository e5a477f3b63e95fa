"""A council room with a thousand viewers: 500 agents of 100 councils write 2,000 tokens a second.

Every viewer must show every token, and none of them may be on disk. What a viewer costs is compared
with a viewer of a list of events. At the end, all of the tokens are written in the room that they
watch. `--short` judges no speed.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec

sys.path.insert(0, str(Path(__file__).parents[2]))

from scenario import HERE, UNDER_TEST, Program, pin_to, raise_file_limit, read_cpu, read_resident

from almenara.panels.formats import text_anchor
from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from almenara_agents.writings import CUT, MAX_TEXT
from support.application import Almenara

COUNCILS: Final = 100
MEMBERS: Final = 5
TOKENS: Final = 2_000.0
SETTLED: Final = 60
"""Seconds within which all screens must show the end."""
PAGE: Final = Path(__file__).parents[3] / "docs" / "performance-room.md"
ROOM: Final = "/live?panel=agents.room%3Fcouncil%3DC000"
NOTES: Final = "/live?panel=events%3Ftype%3DBENCH_NOTE"


class RoomFigures(msgspec.Struct, kw_only=True):
    """The measurements of one run."""

    viewers: int
    seconds: float
    tokens: int = 0
    stored: dict[str, int] = {}
    """Events on disk by type."""
    cpu_alone: float = 0.0
    """Processor time of the server in each second, without a viewer."""
    cpu_room: float = 0.0
    cpu_list: float = 0.0
    cpu_focus: float = 0.0
    """While all of the tokens are written in the room."""
    frames_focus: float = 0.0
    bytes_focus: float = 0.0
    frames_room: float = 0.0
    """Frames that one viewer receives in a second."""
    frames_list: float = 0.0
    bytes_room: float = 0.0
    bytes_list: float = 0.0
    parts: int = 0
    whole: int = 0
    """Frames of one viewer that had only new text, and that had the whole panel."""
    wrong: list[str] = []
    token_bytes: int = 0
    """What the payloads of the tokens have together."""
    text_bytes: int = 0
    """What is on disk of the texts: their starts, signs of life and summaries as JSON."""
    disk_bytes: int = 0
    """What the folder of the bus has grown by, with everything else that was published."""
    rss: int = 0
    dropped: int = 0

    @property
    def ratio(self) -> float:
        """Cost of a frame to a viewer of the room, compared with a viewer of the list."""
        room = (self.cpu_room - self.cpu_alone) / max(self.frames_room, 0.1)
        listed = (self.cpu_list - self.cpu_alone) / max(self.frames_list, 0.1)
        return room / listed if listed > 0 else float("nan")


def measure(viewers: int, seconds: float, folder: Path) -> RoomFigures:
    """Run the load alone, then with viewers of the room, then with viewers of a list."""
    raise_file_limit()
    figures = RoomFigures(viewers=viewers, seconds=seconds)
    load = {"kind": "cloudevents", "rate_limit": 1_000_000, "burst": 1_000_000}
    config: dict[str, Any] = {
        "plugins": {"disabled": ["nats"], "agents": {"enabled": True, "texts": "viewer"}},
        "server": {"max_websockets": 10_000},
        "intake": {"load": load},
    }
    token, value = create_token("load", Role.INTAKE, [], 3_600, created_by="bench", intake="load")
    storage = folder / "var"
    storage.mkdir(parents=True, mode=0o700)
    AccessStore(storage).add_token(token)
    app = Almenara(folder, config=config)
    with contextlib.ExitStack() as stack:
        with pin_to(UNDER_TEST):
            app.start()
        stack.callback(app.stop)
        assert app.process is not None
        pid, before = app.process.pid, read_size(storage)
        publisher = Program(
            str(HERE / "room_publisher.py"), app.url, value, str(COUNCILS), str(MEMBERS),
            str(TOKENS), "10",
        )  # fmt: skip
        stack.callback(publisher.stop)
        publisher.read_answer()
        time.sleep(2)
        figures.cpu_alone = watch(pid, seconds)
        with watchers(app.port, NOTES, viewers, applies=False) as program:
            program.request("begin")
            figures.cpu_list = watch(pid, seconds)
            received = program.request("figures")
            figures.frames_list = received["frames"] / seconds / viewers
            figures.bytes_list = received["bytes"] / seconds / viewers
        idle = read_resident(pid)
        with watchers(app.port, ROOM, viewers, applies=True) as program:
            program.request("begin")
            figures.cpu_room = watch(pid, seconds)
            received = program.request("figures")
            figures.frames_room = received["frames"] / seconds / viewers
            figures.bytes_room = received["bytes"] / seconds / viewers
            settle(program, figures, publisher.request("pause")["texts"])
            publisher.request("focus")
            program.request("begin")
            figures.cpu_focus = watch(pid, seconds)
            received = program.request("figures")
            figures.frames_focus = received["frames"] / seconds / viewers
            figures.bytes_focus = received["bytes"] / seconds / viewers
            published = publisher.request("end")
            settle(program, figures, published["texts"])
            figures.rss = read_resident(pid) - idle
            figures.dropped = program.request("figures")["drops"]
            figures.tokens, figures.token_bytes = published["tokens"], published["bytes"]
        note_stored(figures, app)
        figures.disk_bytes = read_size(storage) - before
    return figures


def read_size(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())


def watch(pid: int, seconds: float) -> float:
    """Processor time of a process in each second, for so many seconds."""
    before, started = read_cpu(pid), time.monotonic()
    time.sleep(seconds)
    return (read_cpu(pid) - before) / (time.monotonic() - started)


@contextlib.contextmanager
def watchers(port: int, path: str, count: int, *, applies: bool) -> Any:
    """Viewers of a channel."""
    job = {"port": port, "paths": [path], "count": count, "kind": "almenara", "deflate": True,
           "applies": applies}  # fmt: skip
    program = Program(str(HERE / "room_viewers.py"), json.dumps(job))
    try:
        program.read_answer()
        yield program
    finally:
        program.stop()


def settle(program: Program, figures: RoomFigures, texts: dict[str, str]) -> None:
    """Wait until all viewers show the texts as they were published, and note what differs."""
    end = time.monotonic() + SETTLED
    while True:
        screens = program.request("screens")
        wrong = [
            f"{agent}: {len(shown)} of {len(text)} characters"
            for screen in screens
            for agent, text in texts.items()
            if not is_displayed(
                text, shown := screen["texts"].get(text_anchor("panel-agents-room", agent), "")
            )
        ]
        if not wrong or time.monotonic() > end:
            break
        time.sleep(0.5)
    figures.wrong += wrong
    figures.parts, figures.whole = screens[0]["parts"], screens[0]["whole"]


def is_displayed(text: str, shown: str) -> bool:
    """Whether a screen has a text or, of one that is longer than what is stored in memory, the
    end."""
    if len(text) <= MAX_TEXT:
        return shown == text
    mark, _, end = shown.partition(" ")
    return mark == "\N{HORIZONTAL ELLIPSIS}" and len(end) >= MAX_TEXT - CUT and text.endswith(end)


def note_stored(figures: RoomFigures, app: Almenara) -> None:
    """Note which events about texts are on disk, and their size."""
    for kind in ("vllm_*", "agents.generation.*"):
        lines = app.text(f"/api/events.ndjson?type={kind}").splitlines()
        figures.text_bytes += sum(map(len, lines))
        for line in lines:
            name = json.loads(line)["type"]
            figures.stored[name] = figures.stored.get(name, 0) + 1


def find_faults(figures: RoomFigures) -> list[str]:
    """What is wrong at any speed."""
    faults = [f"a screen differs: {text}" for text in figures.wrong[:5]]
    if "vllm_token" in figures.stored:
        faults.append(f"{figures.stored['vllm_token']} tokens are on disk")
    if not figures.parts:
        faults.append("no frame had only new text")
    if figures.dropped:
        faults.append(f"{figures.dropped} viewers were dropped")
    return faults


def write_page(figures: RoomFigures) -> None:
    """Write the document with the figures."""
    per_viewer = 1e6 / figures.viewers
    room = (figures.cpu_room - figures.cpu_alone) * per_viewer
    listed = (figures.cpu_list - figures.cpu_alone) * per_viewer
    focused = (figures.cpu_focus - figures.cpu_alone) * per_viewer
    summaries = figures.stored.get("vllm_stream_complete", 0)
    text = f"""# What a council room costs

`make bench-fanout` measures it: {COUNCILS * MEMBERS} agents of {COUNCILS} councils write
{TOKENS:,.0f} tokens a second, pushed to an intake, and {figures.viewers:,} viewers watch the room
of one council. The server under test has one core. Beside it, the same load with as many viewers
of a list of events; and at the end, all of the tokens are written by the five agents of the room.

| | frames/s | bytes/s of a viewer | CPU of a viewer, µs/s |
|---|---:|---:|---:|
{write_row("council room", figures.frames_room, figures.bytes_room, room)}
{write_row("council room with all tokens", figures.frames_focus, figures.bytes_focus, focused)}
{write_row("list of events", figures.frames_list, figures.bytes_list, listed)}

- A frame costs a viewer of the room {figures.ratio:.2f} times what it costs a viewer of the list.
- Every viewer showed every token of {figures.tokens:,}: {"yes" if not figures.wrong else "no"}.
- Of {figures.parts + figures.whole} frames of a viewer, {figures.parts} had only what was new.
- On disk are {figures.text_bytes:,} bytes of the texts, of {figures.token_bytes:,} in the payloads
  of the tokens: {figures.stored.get("vllm_token", 0)} tokens, {summaries:,} summaries of texts that
  ended, and {figures.stored.get("agents.generation.progress", 0):,} signs of life of those that
  went on, one in 15 seconds. The folder of the bus has grown by
  {figures.disk_bytes:,} bytes, with all other events, resources, samples and indexes.
- The server needs {figures.cpu_alone:.2f} of a core for the load alone, and
  {figures.cpu_room:.2f} with the viewers of the room.
"""
    PAGE.write_text(text, "utf-8")


def write_row(name: str, frames: float, size: float, cost: float) -> str:
    """A row of the table."""
    return f"| {name} | {frames:.1f} | {size:,.0f} | {cost:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="few viewers, judge no speed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        viewers, seconds = (100, 3.0) if options.short else (1_000, 20.0)
        figures = measure(viewers, seconds, Path(folder) / "almenara")
    print(msgspec.json.format(msgspec.json.encode(figures)).decode(), f"ratio {figures.ratio:.2f}")
    if not options.short:
        write_page(figures)
    faults = find_faults(figures)
    print("\n".join(faults) or "every token is on every screen, and none on disk")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
