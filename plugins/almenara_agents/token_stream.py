"""The token stream: what language models write is displayed while they write it, and not stored."""

import secrets
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara.hookspecs import DataView, LiveText, ResourceQuery
from almenara.signals import Event
from almenara.units import SECOND
from almenara_agents.chunks import SpanTexts, read_chunk
from almenara_agents.describe import find_council, name_deliberation
from almenara_agents.genai import LOG_TYPE, SPAN_TYPES, hide_content
from almenara_agents.kinds import DELIBERATION, GENERATION_PROGRESS, RUNNING, TURN
from almenara_agents.mapping import VOCABULARY, Fields, Mapper
from almenara_agents.settings import AgentsSettings
from almenara_agents.writings import UNKNOWN, Writing

MAX_WRITINGS: Final = 2_000
CLOCK_SKEW: Final = SECOND
"""Microseconds by which the times of the events of a text may be out of order."""
PROGRESS_INTERVAL: Final = 15 * SECOND
"""Microseconds between two stored signs of life of a text."""
STEPS: Final = ("generation_started", "token", "generation_completed")

Key = tuple[str, str]
Listener = Callable[[], None]


class TokenStream:
    """The texts of all agents: `hookspecs.TextStream`."""

    name = "tokens"

    def __init__(self, settings: AgentsSettings) -> None:
        self._settings, self._mapper = settings, Mapper(settings.mappings)
        self._digest_key = secrets.token_bytes(16)
        rules = [*settings.mappings, *VOCABULARY]
        self.types: Sequence[str] = [
            name
            for rule in rules
            if rule.step in STEPS
            for name in rule.types
            if name != GENERATION_PROGRESS
        ] + [*SPAN_TYPES, LOG_TYPE]
        self._chunks = SpanTexts()
        self._writings: OrderedDict[Key, Writing] = OrderedDict()
        """By agent and story; the one that was written to last is last."""
        self._latest: dict[str, Key] = {}
        """The text that an agent started last."""
        self._listeners: defaultdict[str, set[Listener]] = defaultdict(set)
        """By council, in lower case."""

    def accept(self, event: Event) -> Sequence[Event]:
        """Take a token, note the start or end of a text, or hide what a span has of one."""
        if event.type in (*SPAN_TYPES, LOG_TYPE):
            return self._accept_telemetry(event)
        rule = self._mapper.find_rule(event.type)
        if rule is None or rule.step not in STEPS:
            return [event]
        fields = Fields(decode_data(event), rule)
        agent = fields.name("agent")
        if not agent:
            return [event]
        if rule.step == "token":
            return self._accept_token(event, agent, fields)
        if rule.step == "generation_started":
            self._start(event, agent, fields)
            return [event]
        return [self._end(event, agent, fields)]

    def _accept_telemetry(self, event: Event) -> Sequence[Event]:
        """Take a chunk of a text, or a span in which texts are written."""
        decoded, settings = decode_data(event), self._settings
        stored = event if settings.store_content else hide_content(decoded, self._digest_key)
        if event.type in SPAN_TYPES:
            summary = self._chunks.follow_span(decoded)
            if summary:
                self._notify_all()
            return [stored, *summary]
        chunk = read_chunk(decoded)
        if chunk is None:
            return [stored]
        writing, events = self._chunks.add(chunk, decoded)
        if writing is not None:
            self._notify_all()
        return [stored, *events] if settings.store_tokens else events

    def _start(self, event: Event, agent: str, fields: Fields) -> None:
        key = agent, fields.name("story")
        writing = self._writings.get(key)
        if writing is not None and writing.start_id == event.id:
            return
        is_late = (
            writing is not None
            and not (writing.start_id or writing.ended)
            and writing.first >= event.time - CLOCK_SKEW
        )
        if writing is None or not is_late:
            writing = self._add(key, event)
        writing.start_id, writing.started = event.id, event.time
        self._describe(writing, fields)
        self._notify(writing)

    def _find_key(self, agent: str, fields: Fields) -> Key:
        """The text that a token or an end belongs to: where it names no story, the text that the
        agent started last."""
        story = fields.name("story")
        if not story:
            return self._latest.get(agent, (agent, ""))
        key = agent, story
        return (agent, "") if key not in self._writings and (agent, "") in self._writings else key

    def _accept_token(self, event: Event, agent: str, fields: Fields) -> Sequence[Event]:
        key = self._find_key(agent, fields)
        writing = self._writings.get(key)
        if writing is None or (writing.ended and event.time > writing.ended + CLOCK_SKEW):
            writing = self._add(key, event)
            self._describe(writing, fields)
        if event.time >= writing.started - CLOCK_SKEW:
            has_position = isinstance(fields.value("position"), int)
            position = fields.count("position") if has_position else UNKNOWN
            if writing.add(event, fields.text("token"), position):
                self._writings.move_to_end(key)
                self._notify(writing)
        if self._settings.store_tokens:
            return [event]
        last = max(writing.reported, writing.started, writing.first)
        if event.time < last + PROGRESS_INTERVAL:
            return []
        writing.reported = event.time
        data = {"agent_id": agent, "story_id": writing.story, "tokens": writing.tokens}
        return [
            msgspec.structs.replace(
                event, id=f"progress/{event.id}", type=GENERATION_PROGRESS, data=data, raw=None,
                deduplication_key="",
            )
        ]  # fmt: skip

    def _end(self, event: Event, agent: str, fields: Fields) -> Event:
        """Return the end of a text with a summary."""
        writing = self._writings.get(self._find_key(agent, fields))
        if writing is None or (writing.ended and writing.end_id != event.id):
            return event
        writing.end_id, writing.ended = event.id, event.time
        writing.finish_reason = fields.name("finish_reason") or writing.finish_reason
        self._describe(writing, fields)
        self._notify(writing)
        data = decode_data(event).data
        summary = writing.summarize(fields.count("tokens_out"))
        content = {**data, "generation": summary} if isinstance(data, dict) else data
        return msgspec.structs.replace(event, data=content)

    def _add(self, key: Key, event: Event) -> Writing:
        writing = self._writings[key] = Writing(key[0], event)
        self._writings.move_to_end(key)
        self._latest[key[0]] = key
        if len(self._writings) > MAX_WRITINGS:
            oldest, _ = self._writings.popitem(last=False)
            if self._latest.get(oldest[0]) == oldest:
                del self._latest[oldest[0]]
        return writing

    def _describe(self, writing: Writing, fields: Fields) -> None:
        writing.role = fields.name("role") or writing.role
        writing.story = fields.name("story") or writing.story
        writing.model = fields.name("model") or writing.model

    def _notify_all(self) -> None:
        # A span does not report the council of its agent.
        for listeners in self._listeners.values():
            for listener in listeners:
                listener()

    def _notify(self, writing: Writing) -> None:
        # Where the role was not reported, any council may be the one.
        councils = (writing.role.lower(), "") if writing.role else tuple(self._listeners)
        for council in councils:
            for listener in self._listeners.get(council, ()):
                listener()

    def read(self, data: DataView, filters: Mapping[str, str]) -> Sequence[LiveText]:
        """The texts of the members of a council: what each writes for the story of its deliberation
        or, without one, for any."""
        names, story = find_members(data, filters)
        writings: dict[str, Writing] = {}
        for (agent, about), writing in self._writings.items():
            if agent in names and about in ("", story or about) and data.permits(writing.cause):
                writings[agent] = writing
        for _, writing in self._chunks.texts():
            agent, about = writing.agent, writing.story
            if agent not in names or about not in ("", story or about):
                continue
            last = writings[agent].last if agent in writings else 0
            if writing.last >= last and data.permits(writing.cause):
                writings[agent] = writing
        return [
            LiveText(key=agent, text=self._show(data, writings[agent]))
            for agent in names
            if agent in writings
        ]

    def read_turns(self, data: DataView) -> Sequence[LiveText]:
        """What is written in running turns, by the name of the turn: the last text of each."""
        turns = {
            str(turn.state.get("trace")): turn.name
            for turn in data.resources(ResourceQuery(kind=TURN, limit=10_000))
            if turn.status == RUNNING
        }
        texts = {
            turns[writing.trace]: self._show(data, writing)
            for _, writing in self._chunks.texts()
            if writing.trace in turns and data.permits(writing.cause)
        }
        return [LiveText(key=name, text=text) for name, text in texts.items()]

    def _show(self, data: DataView, writing: Writing) -> str:
        access = self._settings.texts
        if access != "hidden" and data.has_role(access):
            return writing.text
        rate = f", {writing.rate:.0f} a second" if writing.rate and not writing.ended else ""
        return f"{writing.tokens} tokens{rate}"

    def listen(self, filters: Mapping[str, str], listener: Listener) -> Callable[[], None]:
        """Call a listener when a text of a council changes."""
        council = filters.get("council", "").lower()
        self._listeners[council].add(listener)

        def end() -> None:
            self._listeners[council].discard(listener)
            if not self._listeners[council]:
                del self._listeners[council]

        return end


class TurnTexts:
    """What models write in turns: `hookspecs.TextStream`. The token stream takes the events."""

    name = "turns"
    types: Sequence[str] = ()

    def __init__(self, tokens: TokenStream) -> None:
        self._tokens = tokens

    def accept(self, event: Event) -> Sequence[Event]:
        """Take no event."""
        return [event]

    def read(self, data: DataView, filters: Mapping[str, str]) -> Sequence[LiveText]:
        """The texts of running turns."""
        return self._tokens.read_turns(data)

    def listen(self, filters: Mapping[str, str], listener: Listener) -> Callable[[], None]:
        """Call a listener when any text changes."""
        return self._tokens.listen({}, listener)


def find_members(data: DataView, filters: Mapping[str, str]) -> tuple[Sequence[str], str]:
    """The names of the agents in a council room, those of its deliberation first, and the story
    that they deliberate on."""
    council = find_council(data, filters.get("council", ""))
    state: Mapping[str, Any] = council.state if council is not None else {}
    name = name_deliberation(council, filters.get("deliberation", ""))
    deliberation = data.resource(DELIBERATION, "", name) if name else None
    talk: Mapping[str, Any] = deliberation.state if deliberation is not None else {}
    members = dict.fromkeys([*talk.get("members", ()), *state.get("members", ())])
    return list(members), str(talk.get("story", ""))


def decode_data(event: Event) -> Event:
    """The event with its data as values."""
    if isinstance(event.data, msgspec.Raw):
        return msgspec.structs.replace(event, data=msgspec.json.decode(event.data))
    return event
