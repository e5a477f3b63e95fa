"""Resources as of past moments: the last few are in memory, for those who watch the same."""

import asyncio
from collections import OrderedDict
from typing import Final

import msgspec

from almenara.signals import Resource
from almenara.state.past_samples import PastSeriesTable
from almenara.state.recorder import StateRecorder
from almenara.state.sample_store import SampleStore
from almenara.state.samples import Key

CACHED_STATES: Final = 16
CACHED_BYTES: Final = 96 * 1024**2
"""What the states in memory may take, as estimated; the two used last always stay."""
BYTES_PER_RESOURCE: Final = 3_000
"""What a decoded resource takes; states share those that are the same in both."""
BYTES_PER_ENTRY: Final = 300
"""What a state takes for its places in dictionaries, for each resource."""
CACHE_SECONDS: Final = 60.0
"""Seconds without use after which nothing of the past stays in memory."""


class PastState(msgspec.Struct, frozen=True):
    """What was known at a moment."""

    resources: dict[Key, Resource]
    kinds: dict[str, dict[Key, Resource]]
    """The same, by kind."""
    order: dict[str, list[Key]]
    """The sorted keys of a kind, once they are needed."""
    samples: PastSeriesTable | None
    size: int
    """Bytes in memory, estimated."""


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
            state = self._states.get(moment)
            if state is None:
                resources = await self._read_resources(moment)
                if resources is None:
                    return None
                state = self._store_state(moment, resources)
            self._states.move_to_end(moment)
            if self._expiry is not None:
                self._expiry.cancel()
            loop = asyncio.get_running_loop()
            self._expiry = loop.call_later(CACHE_SECONDS, self._states.clear)
            return state

    def _store_state(self, moment: int, resources: dict[Key, Resource]) -> PastState:
        table = None
        if self._store is not None:
            table = PastSeriesTable(self._store, moment, resources)
        kinds: dict[str, dict[Key, Resource]] = {}
        for key, resource in resources.items():
            kinds.setdefault(key[0], {})[key] = resource
        near = max((known for known in self._states if known < moment), default=None)
        shared = {} if near is None else self._states[near].resources
        own = sum(shared.get(key) is not resource for key, resource in resources.items())
        size = own * BYTES_PER_RESOURCE + len(resources) * BYTES_PER_ENTRY
        state = self._states[moment] = PastState(resources, kinds, {}, table, size)
        while len(self._states) > 2 and (
            len(self._states) > CACHED_STATES
            or sum(each.size for each in self._states.values()) > CACHED_BYTES
        ):
            self._states.popitem(last=False)
        return state

    async def _read_resources(self, moment: int) -> dict[Key, Resource] | None:
        near = max((known for known in self._states if known < moment), default=None)
        if near is not None:
            resources = dict(self._states[near].resources)
            # What others start from stays longest.
            self._states.move_to_end(near)
            if await self.recorder.advance(resources, near, moment):
                return resources
        checkpoint = await self.recorder.read_checkpoint(moment)
        if checkpoint is None:
            return None
        resources = checkpoint.resources
        if checkpoint.time == moment:
            return resources
        # Any other moment up to the next checkpoint starts from it.
        self._store_state(checkpoint.time, dict(resources))
        if await self.recorder.advance(resources, checkpoint.time, moment):
            return resources
        return await self.recorder.read_at(moment)
