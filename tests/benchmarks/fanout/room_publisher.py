"""Pushes what a fleet of agents writes, token by token.

`room_publisher.py <url> <token> <councils> <members> <tokens a second> <notes a second>` reads
commands from its standard input: `pause`; `focus`, after which only the first council writes, all
of the tokens; and `end`, with which a third of the texts end. It answers each with what the agents
of the first council have written.
"""

import asyncio
import json
import random
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

import httpx

STEP: Final = 0.1
WORDS: Final = ("queue", "index", "retry", "<limit>", "cache &", "test", "größe", "deploy")


def make_event(kind: str, identity: str, data: dict[str, Any]) -> dict[str, Any]:
    moment = datetime.now(UTC).isoformat()
    return {"specversion": "1.0", "id": identity, "source": "bench", "type": kind, "time": moment,
            "data": data}  # fmt: skip


class Fleet:
    """Councils that deliberate, each member of which writes."""

    def __init__(self, councils: int, members: int) -> None:
        self.chance = random.Random(1)
        self.agents = [
            (f"C{council:03}", f"c{council:03}-{member}")
            for council in range(councils)
            for member in range(members)
        ]
        self.members = members
        self.writers = [agent for _, agent in self.agents]
        self.texts = {agent: "" for _, agent in self.agents}
        self.positions = dict.fromkeys(self.texts, 0)
        self.sent = self.notes = self.bytes = 0

    def start(self) -> list[dict[str, Any]]:
        events = []
        for place in range(0, len(self.agents), self.members):
            council = self.agents[place][0]
            names = [agent for _, agent in self.agents[place : place + self.members]]
            data = {"task_id": f"task-{council}", "role": council, "agents": names,
                    "story_id": f"US-{council}"}  # fmt: skip
            events.append(make_event("DELIBERATION_STARTED", council, data))
        for council, agent in self.agents:
            data = {"agent_id": agent, "stream_info": {"role": council, "model": "m"}}
            events.append(make_event("vllm_stream_start", f"start-{agent}", data))
        return events

    def write(self, count: int) -> list[dict[str, Any]]:
        events = []
        for _ in range(count):
            agent = self.writers[self.sent % len(self.writers)]
            self.sent += 1
            token = f"{self.chance.choice(WORDS)} "
            self.texts[agent] += token
            position = self.positions[agent]
            self.positions[agent] += 1
            data = {"agent_id": agent, "token": token, "position": position}
            self.bytes += len(json.dumps(data))
            events.append(make_event("vllm_token", f"{agent}-{position}", data))
        return events

    def note(self, count: int) -> list[dict[str, Any]]:
        self.notes += count
        return [
            make_event("BENCH_NOTE", f"note-{self.notes - number}", {"text": "a decision"})
            for number in range(count)
        ]

    @property
    def own(self) -> list[str]:
        """The agents of the first council."""
        return [agent for council, agent in self.agents if council == self.agents[0][0]]

    def describe(self) -> dict[str, Any]:
        """What was written until now."""
        texts = {agent: self.texts[agent] for agent in self.own}
        return {"tokens": self.sent, "notes": self.notes, "bytes": self.bytes, "texts": texts}

    def end(self) -> list[dict[str, Any]]:
        return [
            make_event("vllm_stream_complete", f"end-{agent}", {"agent_id": agent})
            for _, agent in self.agents[::3]
        ]


async def main() -> None:
    url, token, councils, members, rate, notes_rate = sys.argv[1:]
    fleet = Fleet(int(councils), int(members))
    headers = {"authorization": f"Bearer {token}",
               "content-type": "application/cloudevents-batch+json"}  # fmt: skip
    commands: asyncio.Queue[str] = asyncio.Queue()
    asyncio.get_running_loop().add_reader(
        sys.stdin, lambda: commands.put_nowait(sys.stdin.readline().strip())
    )
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:

        async def push(events: list[dict[str, Any]]) -> None:
            for start in range(0, len(events), 1_000):
                while True:
                    part = json.dumps(events[start : start + 1_000])
                    answer = await client.post("/intake/cloudevents", content=part)
                    if answer.status_code == 200:
                        break
                    if answer.status_code != 503:
                        raise RuntimeError(answer.text)
                    await asyncio.sleep(0.1)

        async def write() -> None:
            """Write until a command arrives."""
            sent, notes, began = fleet.sent, fleet.notes, time.monotonic()
            while commands.empty():
                passed = time.monotonic() - began
                due, noted = int(passed * float(rate)), int(passed * float(notes_rate))
                await push(
                    fleet.write(sent + due - fleet.sent) + fleet.note(notes + noted - fleet.notes)
                )
                await asyncio.sleep(STEP)

        await push(fleet.start())
        print(json.dumps({"started": len(fleet.agents)}), flush=True)
        await write()
        while (command := await commands.get()) != "end":
            if command == "focus":
                fleet.writers = fleet.own
                print(json.dumps(fleet.describe()), flush=True)
                await write()
            elif command == "pause":
                print(json.dumps(fleet.describe()), flush=True)
            else:
                return
        await push(fleet.end())
        print(json.dumps(fleet.describe()), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
