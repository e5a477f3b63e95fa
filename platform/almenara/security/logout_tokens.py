"""The logout tokens that were accepted: each counts once, on whichever replica it arrives."""

import hashlib
from collections import OrderedDict
from typing import Final

import structlog

from almenara.errors import Unavailable, describe_error
from almenara.signals import now
from almenara.state_store import StateStore
from almenara.units import SECOND

log = structlog.get_logger(__name__)

PREFIX: Final = "logout."
"""The start of the keys of used tokens."""
LIFETIME: Final = 1_200
"""Seconds for which a used token is stored: twice as long as one is valid, as clocks differ."""
MAX_REMEMBERED: Final = 10_000


class UsedLogoutTokens:
    """Used tokens by a hash of provider and `jti`, in what replicas share, and in memory."""

    def __init__(self, store: StateStore | None = None) -> None:
        self._store = store
        self._remembered: OrderedDict[str, None] = OrderedDict()

    async def use(self, provider: str, token_id: str) -> bool:
        """Note that a token is used; return False where it was used before.

        While the other replicas cannot be reached, only this one knows.
        """
        key = PREFIX + hashlib.sha256(f"{provider}\0{token_id}".encode()).hexdigest()
        if key in self._remembered:
            return False
        self._remembered[key] = None
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        if self._store is None:
            return True
        try:
            is_new = await self._store.put(key, str(now()).encode(), 0) is not None
            await self._remove_old(self._store)
        except (Unavailable, TimeoutError) as error:
            log.warning("a logout token counts on this replica only", reason=describe_error(error))
            return True
        return is_new

    async def _remove_old(self, store: StateStore) -> None:
        oldest = now() - LIFETIME * SECOND
        for key, stored in (await store.list_values(PREFIX)).items():
            if not stored.value.isdigit() or int(stored.value) < oldest:
                await store.delete(key, stored.revision)
