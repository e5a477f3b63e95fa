"""What a replica knows of the leases and members of an installation, from watching them."""

import base64
import hashlib
from time import monotonic
from typing import Final

import msgspec

from almenara.shared_log import ValueChange

MEMBER: Final = "member."
LEASE: Final = "lease."
FORGET: Final = 10
"""Times to live after which a lease that was not renewed is forgotten."""


class Holder(msgspec.Struct, frozen=True):
    """The value of a lease: the process that has it."""

    replica: str
    instance: str
    """Differs between two runs of a replica."""


class Entry(msgspec.Struct):
    """A lease that some process has."""

    holder: Holder
    revision: int
    seen: float
    """When it was last renewed, as observed here; by the monotonic clock."""


def lease_key(name: str) -> str:
    """Return the key of the lease of a source; names may have any characters."""
    return LEASE + base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


class LeaseTable:
    """Leases by key. One that was not renewed for its time to live is not there any more."""

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self._entries: dict[str, Entry] = {}

    def accept(self, change: ValueChange) -> None:
        """Note that a lease was acquired, renewed or released."""
        if change.value is None:
            self._entries.pop(change.key, None)
            return
        try:
            holder = msgspec.json.decode(change.value, type=Holder)
        except msgspec.MsgspecError:
            # Written by something else; it expires like any other.
            holder = Holder("unknown", "")
        known = self._entries.get(change.key)
        # A watch that starts again repeats what exists: that is no renewal.
        is_known = known is not None and known.revision == change.revision
        seen = known.seen if known is not None and is_known else monotonic()
        self._entries[change.key] = Entry(holder, change.revision, seen)

    def get(self, key: str) -> Entry | None:
        """Return a lease; None where no process has it."""
        entry = self._entries.get(key)
        if entry is None or monotonic() - entry.seen > self.ttl:
            return None
        return entry

    def find_expired_holder(self, key: str) -> str:
        """Return the replica that did not renew a lease in time; empty where it was released."""
        entry = self._entries.get(key)
        return "" if entry is None or self.get(key) is not None else entry.holder.replica

    def members(self) -> set[str]:
        """The names of the replicas that can run something."""
        forgotten = monotonic() - FORGET * self.ttl
        self._entries = {
            key: entry for key, entry in self._entries.items() if entry.seen > forgotten
        }
        keys = [key for key in self._entries if key.startswith(MEMBER)]
        return {entry.holder.replica for key in keys if (entry := self.get(key)) is not None}


def choose_member(name: str, members: set[str]) -> str:
    """Return the member that should have a lease, by rendezvous hashing: when a member joins or
    leaves, only leases of that member move. Empty where there are no members."""

    def score(member: str) -> bytes:
        return hashlib.blake2b(f"{member}\0{name}".encode(), digest_size=8).digest()

    return max(members, key=score, default="")
