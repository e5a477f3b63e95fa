"""What a replica knows of the leases and members of an installation, from watching them."""

import base64
import hashlib
from functools import lru_cache
from time import monotonic
from typing import Any, Final

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


class Member(Holder, frozen=True):
    """The value of a membership: a process that can have leases."""

    version: str = ""
    """Of Almenara; empty where it is one that does not publish it."""
    digests: dict[str, str] = {}
    """Of the settings that all replicas must have alike, by their names."""
    sources: dict[str, dict[str, Any]] = {}
    """The states of the sources that it runs, by their names."""


class Entry(msgspec.Struct):
    """A lease that some process has."""

    holder: Holder
    revision: int
    seen: float
    """When it was last renewed, as observed here; by the monotonic clock."""
    is_renewed: bool = False
    """Whether it was renewed since it was first observed here."""


@lru_cache(maxsize=1024)
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
        holder = decode_holder(change.key, change.value)
        known = self._entries.get(change.key)
        # A watch that starts again repeats what exists: that is no renewal.
        is_known = known is not None and known.revision == change.revision
        seen = known.seen if known is not None and is_known else monotonic()
        is_same = known is not None and known.holder.instance == holder.instance
        is_renewed = is_same and known is not None and (known.is_renewed or not is_known)
        self._entries[change.key] = Entry(holder, change.revision, seen, is_renewed)

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
        entries = [self.get(key) for key in self.list_members()]
        return {entry.holder.replica for entry in entries if entry is not None}

    def list_members(self) -> dict[str, Entry]:
        """Return the records of replicas by key, with those that have expired since."""
        return {key: entry for key, entry in self._entries.items() if key.startswith(MEMBER)}


def decode_holder(key: str, value: bytes) -> Holder:
    """Return the process in the value of a lease or of a membership."""
    try:
        return msgspec.json.decode(value, type=Member if key.startswith(MEMBER) else Holder)
    except msgspec.MsgspecError:
        # Written by something else; it expires like any other.
        return Holder("unknown", "")


def choose_member(name: str, members: set[str]) -> str:
    """Return the member that should have a lease, by rendezvous hashing: when a member joins or
    leaves, only leases of that member move. Empty where there are no members."""

    def score(member: str) -> bytes:
        return hashlib.blake2b(f"{member}\0{name}".encode(), digest_size=8).digest()

    return max(members, key=score, default="")
