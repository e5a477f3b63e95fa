"""Resources as of past moments: the last few are in memory, for those who watch the same."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import msgspec

from almenara.signals import Resource
from almenara.state.checkpoint_codec import SharedResources
from almenara.state.past_samples import PastSeriesTable
from almenara.state.recorder import StateRecorder
from almenara.state.sample_store import SampleStore
from almenara.state.samples import Key

CACHED_STATES: Final = 16
CACHED_BYTES: Final = 96 * 1024**2
"""What the states in memory may take, as estimated; the last two and a checkpoint always stay.
`SharedResources` refers to some thousands of resources beside them."""
BYTES_PER_RESOURCE: Final = 4_800
"""What a decoded resource takes; states share those that are the same in both."""
BYTES_PER_ENTRY: Final = 300
"""What a state takes for its places in dictionaries, for each resource."""
CACHE_SECONDS: Final = 60.0
"""Seconds without use after which nothing of the past stays in memory."""


class PastState(msgspec.Struct, frozen=True):
    """What was known at a moment."""

    kinds: dict[str, dict[Key, Resource]]
    """The resources by kind; states share the dictionaries of kinds that are the same in both."""
    order: dict[str, list[Key]]
    """The sorted keys of a kind, once they are needed."""
    samples: PastSeriesTable | None
    count: int
    """How many resources it has."""
    size: int
    """Bytes in memory, estimated, of what no state had before."""
    is_checkpoint: bool = False
    """Whether other states start from it, which is read at the most expense."""


class PastStates:
    """Reads states from the recorder, and from one in memory where that is near."""

    def __init__(self, recorder: StateRecorder, store: SampleStore | None) -> None:
        self.recorder, self._store = recorder, store
        self._states: OrderedDict[int, PastState] = OrderedDict()
        self._shared = SharedResources()
        self._lock = asyncio.Lock()
        self._expiry: asyncio.TimerHandle | None = None

    async def read(self, moment: int) -> PastState | None:
        """Return the state as of a moment in microseconds; None before the stored past.

        Raises `Unavailable`.
        """
        async with self._lock:
            state = self._states.get(moment) or await self._read_state(moment)
            if state is None:
                return None
            self._states.move_to_end(moment)
            if self._expiry is not None:
                self._expiry.cancel()
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(CACHE_SECONDS, self._clear)
            return state

    def _clear(self) -> None:
        self._states.clear()
        # A read may be using what is shared so far.
        self._shared = SharedResources()

    async def _read_state(self, moment: int) -> PastState | None:
        near = max((known for known in self._states if known < moment), default=None)
        if near is not None:
            # What others start from stays longest.
            self._states.move_to_end(near)
            state = await self._advance(near, moment)
            if state is not None:
                return state
        shared, decoded = self._shared, self._shared.decoded
        checkpoint = await self.recorder.read_checkpoint(moment, shared)
        if checkpoint is None:
            return None
        decoded = shared.decoded - decoded
        # Any other moment up to the next checkpoint starts from it.
        state = self._store_state(
            checkpoint.time, checkpoint.resources, decoded, is_checkpoint=True
        )
        if checkpoint.time == moment:
            return state
        state = await self._advance(checkpoint.time, moment)
        if state is not None:
            return state
        resources = await self.recorder.read_at(moment)
        if resources is None:
            return None
        return self._store_state(moment, resources, len(resources))

    async def _advance(self, near: int, moment: int) -> PastState | None:
        """Return the state that follows from one in memory; None where only a checkpoint has it."""
        before = self._states[near]
        changes = await self.recorder.read_steps(near, moment, self._shared)
        if changes is None:
            return None
        kinds, order = dict(before.kinds), dict(before.order)
        changed: set[str] = set()
        for _, resource in changes:
            kind, key = resource.kind, resource.key
            if kind not in changed:
                changed.add(kind)
                kinds[kind] = dict(kinds.get(kind, {}))
            if resource.deleted == (key in kinds[kind]):
                order.pop(kind, None)
            if resource.deleted:
                kinds[kind].pop(key, None)
            else:
                kinds[kind][key] = resource
        entries = sum(len(kinds[kind]) for kind in changed)
        for kind in changed:
            if not kinds[kind]:
                del kinds[kind]
        size = len(changes) * BYTES_PER_RESOURCE + entries * BYTES_PER_ENTRY
        return self._add(moment, kinds, order, size)

    def _store_state(
        self,
        moment: int,
        resources: Mapping[Key, Resource],
        decoded: int,
        *,
        is_checkpoint: bool = False,
    ) -> PastState:
        """Store a state of which so many resources were not in memory."""
        kinds: dict[str, dict[Key, Resource]] = {}
        for key, resource in resources.items():
            kinds.setdefault(key[0], {})[key] = resource
        size = decoded * BYTES_PER_RESOURCE + len(resources) * BYTES_PER_ENTRY
        return self._add(moment, kinds, {}, size, is_checkpoint=is_checkpoint)

    def _add(
        self,
        moment: int,
        kinds: dict[str, dict[Key, Resource]],
        order: dict[str, list[Key]],
        size: int,
        *,
        is_checkpoint: bool = False,
    ) -> PastState:
        """Store a state in memory; `size` is that of what no other had before."""
        table = None
        if self._store is not None:
            table = PastSeriesTable(self._store, moment, kinds)
        count = sum(map(len, kinds.values()))
        state = PastState(kinds, order, table, count, size, is_checkpoint)
        self._states[moment] = state
        while len(self._states) > 2 and (
            len(self._states) > CACHED_STATES or self._estimate_memory() > CACHED_BYTES
        ):
            del self._states[self._find_oldest()]
        return state

    def _estimate_memory(self) -> int:
        """Return the bytes of all states: what each added and, where the one that added most is
        no longer among them, all resources of the largest."""
        states = self._states.values()
        largest = max(state.count for state in states) * BYTES_PER_RESOURCE
        is_counted = any(state.size >= largest for state in states)
        return sum(state.size for state in states) + (0 if is_counted else largest)

    def _find_oldest(self) -> int:
        """Return the state that was used least recently, other than the last checkpoint."""
        checkpoints = [time for time, state in self._states.items() if state.is_checkpoint]
        return next(time for time in self._states if time not in checkpoints[-1:])
