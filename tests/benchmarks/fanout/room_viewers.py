"""Simulated browsers of one channel: what a council room shows to each, and what they receive.

A frame is parsed once, and for each further viewer with the same screen it is a lookup. `room.py`
starts it, writes commands to its standard input and reads one line of JSON for each.
"""

import asyncio
import copy
import gc
import json
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parents[2]))

from viewers import CONNECTED_WITHIN, SYNC, ChannelViewer, Tally, connect_all, write_answer

from support.live_texts import TextScreen


class RoomTally(Tally):
    """The screens that viewers show, each distinct one once."""

    def __init__(self) -> None:
        super().__init__()
        self.rooms = [TextScreen()]
        self.next: dict[tuple[int, bytes], int] = {}

    def apply(self, screen: int, payload: bytes, *, packed: bool) -> int:
        """The screen that results from applying a frame to a screen."""
        number = self.next.get((screen, payload))
        if number is None:
            plain = zlib.decompressobj(-15).decompress(payload + SYNC) if packed else payload
            room = copy.deepcopy(self.rooms[screen])
            room.apply(plain.decode())
            number = self.next[screen, payload] = len(self.rooms)
            self.rooms.append(room)
        return number


class RoomViewer(ChannelViewer):
    """Applies the frames of a room, or only counts those of another channel."""

    tally: RoomTally

    def take(self, first: int, payload: bytes, moment: float) -> None:
        opcode = first & 0x0F
        if opcode == 9:
            self.send(10, payload)
            return
        if opcode == 8:
            return
        self.tally.frames += 1
        if self.job["applies"]:
            self.screen = self.tally.apply(self.screen, payload, packed=bool(first & 0x40))
        self.mark_live()

    @property
    def newest(self) -> int:
        return 0


async def serve(job: dict[str, Any]) -> None:
    tally = RoomTally()
    viewers = [RoomViewer(number, job, tally) for number in range(job["count"])]
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    async with asyncio.timeout(CONNECTED_WITHIN):
        await connect_all(list(viewers))
    write_answer({"connected": len(viewers)})
    while command := (await lines.get()).split():
        if command[0] == "begin":
            tally.begin()
            write_answer({"cpu": time.process_time()})
        elif command[0] == "figures":
            write_answer({"frames": tally.frames, "bytes": tally.bytes, "drops": tally.drops})
        else:
            shown = {viewer.screen for viewer in viewers}
            rooms = [tally.rooms[screen] for screen in shown]
            write_answer(
                [{"texts": room.texts, "whole": room.whole, "parts": room.parts} for room in rooms]
            )
    for viewer in viewers:
        viewer.drop()


if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 1000)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(json.loads(sys.argv[1])))
