"""Pushes what a fleet of agents writes, token by token, until it reads a line.

`room_publisher.py <url> <token> <councils> <members> <tokens a second> <notes a second>`; at the
end it ends a third of the texts and prints what the agents of the first council have written.
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
        self.texts = {agent: "" for _, agent in self.agents}
        self.positions = dict.fromkeys(self.texts, 0)
        self.sent = self.notes = 0

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
            _, agent = self.agents[self.sent % len(self.agents)]
            self.sent += 1
            token = f"{self.chance.choice(WORDS)} "
            self.texts[agent] += token
            position = self.positions[agent]
            self.positions[agent] += 1
            data = {"agent_id": agent, "token": token, "position": position}
            events.append(make_event("vllm_token", f"{agent}-{position}", data))
        return events

    def note(self, count: int) -> list[dict[str, Any]]:
        self.notes += count
        return [
            make_event("BENCH_NOTE", f"note-{self.notes - number}", {"text": "a decision"})
            for number in range(count)
        ]

    def end(self) -> list[dict[str, Any]]:
        return [
            make_event("vllm_stream_complete", f"end-{agent}", {"agent_id": agent})
            for _, agent in self.agents[::3]
        ]


async def main() -> None:
    url, token, councils, members, rate, notes = sys.argv[1:]
    fleet = Fleet(int(councils), int(members))
    headers = {"authorization": f"Bearer {token}",
               "content-type": "application/cloudevents-batch+json"}  # fmt: skip
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stopped.set)
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

        await push(fleet.start())
        print(json.dumps({"started": len(fleet.agents)}), flush=True)
        began = time.monotonic()
        while not stopped.is_set():
            passed = time.monotonic() - began
            due, noted = int(passed * float(rate)), int(passed * float(notes))
            await push(fleet.write(due - fleet.sent) + fleet.note(noted - fleet.notes))
            await asyncio.sleep(STEP)
        sys.stdin.readline()
        await push(fleet.end())
        own = [agent for council, agent in fleet.agents if council == "C000"]
        texts = {agent: fleet.texts[agent] for agent in own}
        print(json.dumps({"tokens": fleet.sent, "notes": fleet.notes, "texts": texts}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
