"""Storage of the state of clusters between runs of Almenara."""

import contextlib
from collections.abc import Sequence

import msgspec

from almenara.hookspecs import Context, ResourceKey
from almenara_ray.models import SavedState


async def load_state(context: Context, cluster: str) -> SavedState:
    """Return the stored state of a cluster; a fresh one where none can be read."""
    stored = await context.load(cluster)
    try:
        return msgspec.msgpack.decode(stored, type=SavedState) if stored else SavedState()
    except msgspec.MsgspecError:
        return SavedState()


class ClusterStateStore:
    """A `Context` that stores all values under one key of another `Context`.

    The clusters of KubeRay come and go. Under one key they can be listed, and deleted with the last
    trace of a cluster.
    """

    def __init__(self, context: Context, key: str) -> None:
        self._context, self._key = context, key
        self.data_dir = context.data_dir
        self._values: dict[str, bytes] = {}

    async def restore(self) -> None:
        """Read what an earlier run has stored."""
        self._values = decode_values(await self._context.load(self._key))

    async def load(self, key: str) -> bytes | None:
        return self._values.get(key)

    async def save(self, key: str, value: bytes) -> None:
        self._values[key] = value
        await self._write()

    async def known_resources(self, source: str, kind: str = "") -> Sequence[ResourceKey]:
        return await self._context.known_resources(source, kind)

    def list_keys(self) -> list[str]:
        """Return the keys of all values."""
        return list(self._values)

    def has(self, key: str) -> bool:
        """Return whether a value is stored."""
        return key in self._values

    async def delete(self, key: str) -> None:
        """Delete a value."""
        if self._values.pop(key, None) is not None:
            await self._write()

    async def _write(self) -> None:
        await self._context.save(self._key, msgspec.msgpack.encode(self._values))


def decode_values(stored: bytes | None) -> dict[str, bytes]:
    """Return the values that a `ClusterStateStore` has stored; none where they cannot be read."""
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.msgpack.decode(stored, type=dict[str, bytes]) if stored else {}
    return {}
