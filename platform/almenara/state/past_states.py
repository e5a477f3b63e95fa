"""Resources as of past moments: the last few are in memory, for those who watch the same."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import msgspec

from almenara.signals import Resource
from almenara.state.past_samples import PastSeriesTable
from almenara.state.recorder import StateRecorder
from almenara.state.sample_store import SampleStore
from almenara.state.samples import Key

CACHED_STATES: Final = 16
CACHED_BYTES: Final = 96 * 1024**2
"""What the states in memory may take, as estimated; the last two and a checkpoint always stay."""
BYTES_PER_RESOURCE: Final = 3_000
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
    size: int
    """Bytes in memory, estimated."""
    is_checkpoint: bool = False
    """Whether other states start from it, which is read at the most expense."""


class PastStates:
    """Reads states from the recorder, and from one in memory where that is near."""

    def __init__(self, recorder: StateRecorder, store: SampleStore | None) -> None:
        self.recorder, self._store = recorder, store
        self._states: OrderedDict[int, PastState] = OrderedDict()
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
            self._expiry = loop.call_later(CACHE_SECONDS, self._states.clear)
            return state

    async def _read_state(self, moment: int) -> PastState | None:
        near = max((known for known in self._states if known < moment), default=None)
        if near is not None:
            # What others start from stays longest.
            self._states.move_to_end(near)
            state = await self._advance(near, moment)
            if state is not None:
                return state
        checkpoint = await self.recorder.read_checkpoint(moment)
        if checkpoint is None:
            return None
        # Any other moment up to the next checkpoint starts from it.
        state = self._store_state(checkpoint.time, checkpoint.resources, is_checkpoint=True)
        if checkpoint.time == moment:
            return state
        state = await self._advance(checkpoint.time, moment)
        if state is not None:
            return state
        resources = await self.recorder.read_at(moment)
        return None if resources is None else self._store_state(moment, resources)

    async def _advance(self, near: int, moment: int) -> PastState | None:
        """Return the state that follows from one in memory; None where only a checkpoint has it."""
        before = self._states[near]
        changes = await self.recorder.read_steps(near, moment)
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
        self, moment: int, resources: Mapping[Key, Resource], *, is_checkpoint: bool = False
    ) -> PastState:
        kinds: dict[str, dict[Key, Resource]] = {}
        for key, resource in resources.items():
            kinds.setdefault(key[0], {})[key] = resource
        size = len(resources) * (BYTES_PER_RESOURCE + BYTES_PER_ENTRY)
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
        """Store a state in memory; `size` is that of what it shares with no other."""
        table = None
        if self._store is not None:
            table = PastSeriesTable(self._store, moment, kinds)
        state = PastState(kinds, order, table, size, is_checkpoint)
        self._states[moment] = state
        while len(self._states) > 2 and (
            len(self._states) > CACHED_STATES
            or sum(each.size for each in self._states.values()) > CACHED_BYTES
        ):
            del self._states[self._find_oldest()]
        return state

    def _find_oldest(self) -> int:
        """Return the state that was used least recently, other than the last checkpoint."""
        checkpoints = [time for time, state in self._states.items() if state.is_checkpoint]
        return next(time for time in self._states if time not in checkpoints[-1:])
