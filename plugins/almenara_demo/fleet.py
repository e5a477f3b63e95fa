"""A simulated fleet of agents: stories move through phases, councils deliberate, tokens stream.

Its messages are as mixed as those of real fleets: bare fields, envelopes and CloudEvents, some
without a type or a time, and some that are not JSON.
"""

import itertools
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

ROLES: Final = ("DEV", "QA", "ARCHITECT", "DEVOPS", "DATA")
PHASES: Final = ("DRAFT", "PLANNED", "BUILD", "TEST", "DONE")
TITLES: Final = (
    "Add a login button", "Export invoices as CSV", "Retry failed payments", "Dark theme",
    "Search by customer number", "Rotate API keys", "Paginate the audit log",
    "Cache exchange rates", "Rename a workspace", "Upload avatars", "Rate limit the public API",
    "Move sessions to Valkey", "Show delivery dates", "Two-factor sign-in", "Archive old orders",
)  # fmt: skip
SENTENCES: Final = (
    "The safest change is to validate the input at the edge and leave the core unchanged.",
    "I propose a small queue in front of the writer, so that bursts do not hold up readers.",
    "Let us first write a failing test, then fix the off-by-one in the pagination.",
    "Two indexes are enough here; a third would slow every insert for one rare report.",
    "The retry must carry an idempotency key, otherwise a timeout may charge twice.",
)
ERRORS: Final = (
    ("TimeoutError", "the model did not answer within 30 s"),
    ("OutOfMemory", "the worker was killed while loading weights"),
    ("ValidationError", "the proposal has no decision"),
    ("ToolError", "pytest exited with status 1: 3 failed, 42 passed"),
)
MODEL: Final = "qwen-coder-32b"
PAUSE_CHANCE: Final = 0.03
PAUSE: Final = 75.0
"""Seconds for which an agent that does not answer holds up its story."""


class Message(msgspec.Struct):
    """A message to publish, `wait` seconds after the one before it."""

    subject: str
    payload: bytes
    headers: dict[str, str] = {}
    wait: float = 0.0
    pause: float = 0.0
    """Seconds for which its story has no further message."""


class Story(msgspec.Struct):
    """A story in progress."""

    id: str
    messages: Iterator[Message]


class Fleet:
    """An endless series of messages. The seed determines what happens; ids and times are always
    new."""

    def __init__(
        self, seed: int = 0, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.random = random.Random(seed)  # nosec B311 # simulates a fleet
        self.clock = clock
        self.run = uuid.uuid4().hex[:6].upper()
        self.counter = itertools.count(101)
        self._stories: list[Story] = []
        self._unfinished: set[str] = set()
        """The stories whose council deliberates, or whose task is worked on."""

    def messages(self, rate: float) -> Iterator[Message]:
        """Yield messages without end, `rate` per second on average."""
        self._stories = stories = [self._begin_story() for _ in range(4)]
        passed, paused_until = 0.0, [0.0] * len(stories)
        while True:
            index = self.random.randrange(len(stories))
            if paused_until[index] > passed:
                # One pauses at a time, so that the others go on.
                index = (index + 1) % len(stories)
            try:
                message = next(stories[index].messages)
            except StopIteration:
                stories[index] = self._begin_story()
                continue
            message.wait = self.random.expovariate(rate)
            passed += message.wait
            if message.pause and max(paused_until) <= passed:
                paused_until[index] = passed + message.pause
            yield message

    def finish(self) -> Iterator[Message]:
        """Yield the messages that end the work of all agents."""
        for story in self._stories:
            while story.id in self._unfinished:
                yield next(story.messages)

    def _begin_story(self) -> Story:
        name = f"US-{self.run}-{next(self.counter)}"
        return Story(name, self.story(name))

    def story(self, story: str) -> Iterator[Message]:
        """Yield the messages of one story, from its creation to its end."""
        title = self.random.choice(TITLES)
        yield self.enveloped(
            "planning.story.created", "STORY_CREATED", story,
            title=title, description=f"As a user I want: {title.lower()}.",
            created_by="po@example.org", priority=self.random.choice(("LOW", "MEDIUM", "HIGH")),
        )  # fmt: skip
        yield self.bare(
            "context.updated", "CONTEXT_UPDATED", story_id=story, version=1,
            changes=["story"], affected_roles=self.random.sample(ROLES, 2),
        )  # fmt: skip
        yield self.cloudevent(
            "planning.plan.approved", "org.example.planning.plan.approved", story,
            {"story_id": story, "plan_id": f"PL-{story}", "approved_by": "architect@example.org"},
        )  # fmt: skip
        for before, after in itertools.pairwise(PHASES):
            yield self.enveloped(
                "planning.story.transitioned", "STORY_TRANSITIONED", story,
                from_state=before, to_state=after, actor="orchestrator",
            )  # fmt: skip
            for _ in range(self.random.randint(1, 2)):
                yield from self.deliberation(story, after)
        yield from self.oddities(story)

    def deliberation(self, story: str, phase: str) -> Iterator[Message]:
        """Yield the messages of a council that deliberates and works on a task, which may fail."""
        role = self.random.choice(ROLES)
        task = f"task-{story}-{phase.lower()}-{self.random.randrange(1000):03d}"
        agents = [f"agent-{role.lower()}-{number:03d}" for number in range(1, 4)]
        self._unfinished.add(story)
        yield self.bare(
            "orchestration.deliberation.started", "DELIBERATION_STARTED", story_id=story,
            task_id=task, role=role, num_agents=len(agents), agents=agents,
        )  # fmt: skip
        yield from self.interleave([self.tokens(agent, role, story) for agent in agents])
        yield from self.proposals(task, story, role, agents)
        duration = self.random.randint(900, 9000)
        winner = self.random.choice(agents)
        yield from self.votes(task, agents, winner)
        yield self.bare(
            "orchestration.deliberation.completed", "DELIBERATION_COMPLETED", story_id=story,
            task_id=task, role=role, winner_agent_id=winner, duration_ms=duration,
            decisions=[{
                "id": f"dec-{uuid.uuid4().hex[:8]}", "type": "TECHNICAL_CHOICE",
                "rationale": self.random.choice(SENTENCES), "decided_by": winner,
            }],
        )  # fmt: skip
        yield self.cloudevent(
            "orchestration.task.dispatched", "org.example.orchestration.task.dispatched", story,
            {"story_id": story, "task_id": task, "agent_id": winner, "role": role}, binary=True,
        )  # fmt: skip
        yield self.enveloped(
            "context.decision.added", "DECISION_ADDED", story, task_id=task, decided_by=winner
        )
        # The next message is the last one.
        self._unfinished.discard(story)
        if self.random.random() < 0.12:
            kind, text = self.random.choice(ERRORS)
            yield self.bare(
                "agent.response.failed", None, task_id=task, agent_id=winner, role=role,
                error=text, error_type=kind, duration_ms=duration,
                constraints={"story_id": story},
            )  # fmt: skip
            return
        tokens = self.random.randint(200, 2400)
        yield self.bare(
            self.random.choice((f"agent.results.{task}", "agent.response.completed")), None,
            task_id=task, agent_id=winner, role=role, status="completed", num_agents=len(agents),
            proposal=self.random.choice(SENTENCES), duration_ms=duration,
            constraints={"story_id": story, "plan_id": f"PL-{story}", "metadata": {}},
            metrics={"tokens_in": tokens * 3, "tokens_out": tokens, "latency_ms": duration // 3},
        )  # fmt: skip

    def proposals(
        self, task: str, story: str, role: str, agents: Sequence[str]
    ) -> Iterator[Message]:
        """Yield the proposal of each agent; sometimes one takes long."""
        for agent in self.random.sample(agents, len(agents)):
            message = self.bare(
                "agent.response.completed", None, task_id=task, agent_id=agent, role=role,
                status="completed", num_agents=len(agents),
                proposal=self.random.choice(SENTENCES), constraints={"story_id": story},
            )  # fmt: skip
            if self.random.random() < PAUSE_CHANCE:
                message.pause = PAUSE
            yield message

    def votes(self, task: str, agents: Sequence[str], winner: str) -> Iterator[Message]:
        """Yield the vote of each agent: a majority for the winner."""
        dissenter = self.random.choice([None, *agents])
        for agent in agents:
            choice = winner if agent != dissenter else self.random.choice(agents)
            yield self.bare(
                "orchestration.vote.cast", "VOTE_CAST", task_id=task, agent_id=agent,
                choice=choice,
            )  # fmt: skip

    def tokens(self, agent: str, role: str, story: str) -> Iterator[Message]:
        """Yield the answer of a model, one message per token."""
        subject = f"vllm.streaming.{agent}"
        words = self.random.choice(SENTENCES).split()
        common = {"agent_id": agent, "story_id": story}
        yield self.typed(
            subject, "vllm_stream_start", **common,
            stream_info={"task_description": f"deliberate on {story}", "role": role,
                         "status": "started", "model": MODEL},
        )  # fmt: skip
        for position, word in enumerate(words):
            yield self.typed(subject, "vllm_token", **common, token=f"{word} ", position=position)
        yield self.typed(
            subject, "vllm_stream_complete", **common, total_tokens=len(words),
            finish_reason="stop",
        )  # fmt: skip

    def interleave(self, texts: Sequence[Iterator[Message]]) -> Iterator[Message]:
        """Yield the messages of several texts that are written at the same time."""
        active = list(texts)
        while active:
            text = self.random.choice(active)
            message = next(text, None)
            if message is None:
                active.remove(text)
            else:
                yield message

    def oddities(self, story: str) -> Iterator[Message]:
        """Yield messages of the irregular kinds that real fleets publish too."""
        chance = self.random.random()
        if chance < 0.3:
            yield self.plain(
                "deadletter", topic="agent.requests", reason="no agent accepted it in three tries",
                raw=f'{{"story_id": "{story}"}}',
            )  # fmt: skip
        elif chance < 0.5:
            yield Message("context.updated", b"cache warmed, 128 keys")
        elif chance < 0.7:
            yield self.plain("context.updated", story_id=story, version=2)

    def plain(self, subject: str, **fields: Any) -> Message:
        """A message with nothing but these fields."""
        return Message(subject, msgspec.json.encode(fields))

    def typed(self, subject: str, kind: str, **fields: Any) -> Message:
        """A message with the type of its event in `type`."""
        return self.plain(subject, type=kind, **fields, timestamp=self.stamp())

    def bare(self, subject: str, kind: str | None, **fields: Any) -> Message:
        """A message with its fields at the top level."""
        event_type = {"event_type": kind} if kind else {}
        return self.plain(subject, **event_type, **fields, timestamp=self.stamp())

    def enveloped(self, subject: str, kind: str, story: str, **fields: Any) -> Message:
        """A message with its fields in the payload of an envelope."""
        return self.plain(
            subject, event_type=kind, payload={"story_id": story, **fields},
            idempotency_key=uuid.uuid4().hex, correlation_id=story, timestamp=self.stamp(),
            producer="planning-service", metadata={"version": "2"},
        )  # fmt: skip

    def cloudevent(
        self, subject: str, kind: str, story: str, data: dict[str, Any], *, binary: bool = False
    ) -> Message:
        """A CloudEvent 1.0, structured or with its attributes in headers."""
        trace = f"00-{uuid.uuid4().hex}-{uuid.uuid4().hex[:16]}-01"
        attributes = {
            "specversion": "1.0", "id": uuid.uuid4().hex, "source": "/example/orchestrator",
            "type": kind, "time": self.stamp(), "correlationid": story, "traceparent": trace,
        }  # fmt: skip
        if binary:
            headers = {f"ce-{name}": value for name, value in attributes.items()}
            headers["content-type"] = "application/json"
            return Message(subject, msgspec.json.encode(data), headers)
        body = {**attributes, "datacontenttype": "application/json", "data": data}
        return Message(
            subject, msgspec.json.encode(body), {"content-type": "application/cloudevents+json"}
        )

    def stamp(self) -> str:
        """A time up to 80 ms ago, as RFC 3339."""
        late = timedelta(milliseconds=self.random.randint(0, 80))
        return (self.clock() - late).isoformat(timespec="milliseconds").replace("+00:00", "Z")
