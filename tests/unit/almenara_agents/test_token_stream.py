"""What models write: collected token by token, in order, each once, and not stored."""

import random
from typing import Any

import msgspec
from hypothesis import given, strategies as st

from almenara.hookspecs import TextStream
from almenara.signals import Event, Resource
from almenara.units import SECOND
from almenara_agents.kinds import COUNCIL, GENERATION_PROGRESS
from almenara_agents.settings import AgentsSettings
from almenara_agents.token_stream import TokenStream
from almenara_agents.writings import MAX_TEXT

START = 1_767_225_600 * SECOND
COUNCIL_RESOURCE = Resource(kind=COUNCIL, name="DEV", state={"members": ["a", "b"], "last": "t"})


class Data:
    """A data view with one council, of a viewer with a role."""

    def __init__(self, role: str = "operator", origin: str = "", story: str = "") -> None:
        self.role, self.hidden_origin, self.story = role, origin, story

    def resource(self, kind: str, namespace: str, name: str) -> Resource | None:
        if kind == COUNCIL:
            return COUNCIL_RESOURCE if name == "DEV" else None
        return Resource(kind=kind, name=name, state={"members": ["a"], "story": self.story})

    def permits(self, event: Event) -> bool:
        return event.origin != self.hidden_origin

    def has_role(self, role: str) -> bool:
        return role in ("viewer", self.role)


def make(kind: str, at: float, agent: str = "a", **fields: Any) -> Event:
    return Event(
        id=f"{kind}-{at}-{fields.get('position')}", source="fleet", type=f"vllm_{kind}",
        subject=f"vllm.streaming.{agent}", time=START + int(at * SECOND), origin="nats/VLLM",
        data=msgspec.Raw(msgspec.json.encode({"agent_id": agent, "story_id": "US-1", **fields})),
    )  # fmt: skip


def start(at: float = 0, agent: str = "a") -> Event:
    return make("stream_start", at, agent, stream_info={"role": "DEV", "model": "m"})


def token(position: int, text: str = "", at: float | None = None) -> Event:
    return make("token", at or 1 + position * 0.5, position=position, token=text or f"{position} ")


def read(stream: TokenStream, data: Any = None) -> dict[str, str]:
    return {text.key: text.text for text in stream.read(data or Data(), {"council": "DEV"})}


def create(**settings: Any) -> TokenStream:
    return TokenStream(AgentsSettings(texts="operator", **settings))


def test_tokens_are_displayed_and_only_start_and_summary_are_stored() -> None:
    stream = create()
    assert isinstance(stream, TextStream)
    assert stream.accept(start()) == [start()]
    assert [stream.accept(token(number)) for number in range(5)] == [[]] * 5
    assert read(stream) == {"a": "0 1 2 3 4 "}
    end = make("stream_complete", 4, total_tokens=5, finish_reason="stop")
    (stored,) = stream.accept(end)
    assert stored.data["generation"] == {
        "tokens": 5, "time_to_first_token": 1.0, "tokens_per_second": 2.0, "finish_reason": "stop",
        "duration": 4.0, "complete": True,
    }  # fmt: skip
    assert stored.data["total_tokens"] == 5
    assert stream.accept(end) == [stored]


@given(st.randoms(use_true_random=False))
def test_repeated_and_late_tokens_are_put_in_order(chance: random.Random) -> None:
    stream, tokens = create(), [token(number) for number in range(30)]
    stream.accept(start())
    pending = [*tokens, *chance.sample(tokens, 10)]
    pending.sort(key=lambda event: event.time + chance.randrange(5) * SECOND)
    for event in pending:
        stream.accept(event)
    assert read(stream) == {"a": "".join(f"{number} " for number in range(30))}
    (end,) = stream.accept(make("stream_complete", 40))
    assert end.data["generation"]["tokens"] == 30
    assert end.data["generation"]["complete"]


def test_missing_tokens_and_start_are_marked() -> None:
    stream = create()
    for number in (3, 4, 6):
        stream.accept(token(number))
    assert read(stream) == {"a": "\N{HORIZONTAL ELLIPSIS} 3 4 6 "}
    (end,) = stream.accept(make("stream_complete", 9))
    assert end.data["generation"] == {"tokens": 3, "tokens_per_second": 1.3, "complete": False}


def test_next_text_replaces_the_last_one() -> None:
    stream = create()
    for event in (start(), token(0), make("stream_complete", 3), start(10), token(0, "new", 11)):
        stream.accept(event)
    assert read(stream) == {"a": "new"}
    stream.accept(token(1, "of the text before", 2))
    assert read(stream) == {"a": "new"}


def test_texts_of_two_stories_do_not_mix() -> None:
    stream = create()
    for story, word in (("US-1", "one "), ("US-2", "two "), ("US-1", "more")):
        for event in (start(), token(0, word)):
            fields = {**msgspec.json.decode(event.data), "story_id": story}
            identity = f"{story}-{event.id}-{word}"
            stream.accept(msgspec.structs.replace(event, id=identity, data=fields))
    assert read(stream) == {"a": "more"}
    stream.accept(make("stream_complete", 9, story_id="US-2"))
    assert read(stream, Data(story="US-2")) == {"a": "two "}


def test_tokens_without_a_story_belong_to_the_text_started_last() -> None:
    stream = create()
    stream.accept(start())
    bare = {"token": "word", "position": 0, "agent_id": "a"}
    stream.accept(msgspec.structs.replace(token(0), data=bare))
    assert read(stream) == {"a": "word"}
    (end,) = stream.accept(msgspec.structs.replace(make("stream_complete", 9), data={}))
    assert end.data["generation"]["complete"]


def test_long_text_is_bounded_and_stays_alive_in_the_log() -> None:
    stream = create()
    stream.accept(start())
    stored = [each for n in range(5_000) for each in stream.accept(token(n, "word ", 1 + n / 50))]
    assert len(read(stream)["a"]) < MAX_TEXT + 1_000
    assert {event.type for event in stored} == {GENERATION_PROGRESS}
    assert 5 <= len(stored) <= 7
    assert "word" not in str(stored)


def test_text_is_hidden_by_default_and_from_other_roles_and_scopes() -> None:
    hidden = TokenStream(AgentsSettings())
    for stream in (hidden, shown := create()):
        stream.accept(start())
        stream.accept(token(0, "secret plan"))
    assert read(hidden) == {"a": "1 tokens"}
    assert read(shown, Data(role="viewer")) == {"a": "1 tokens"}
    assert read(shown, Data(origin="nats/VLLM")) == {}


def test_tokens_are_stored_where_configured() -> None:
    stream = create(store_tokens=True)
    assert stream.accept(token(0)) == [token(0)]
    assert read(stream)["a"].endswith("0 ")


def test_listeners_hear_of_their_council_alone() -> None:
    stream, heard = create(), []
    ends = [
        stream.listen({"council": name}, lambda name=name: heard.append(name))
        for name in ("DEV", "QA")
    ]
    stream.accept(start())
    stream.accept(token(0))
    assert heard == ["DEV", "DEV"]
    for end in ends:
        end()
    stream.accept(token(1))
    assert len(heard) == 2
