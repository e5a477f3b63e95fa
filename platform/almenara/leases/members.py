"""The memberships of replicas: the settings and the states of sources that each publishes, and how
the replicas differ.

Replicas with other settings store different histories without an error, and two installations on
one bus run each other's sources. Only digests of settings are published. That of `bus.secret` is
slow to compute, so that guessing the secret from it is no faster than from what the secret signs.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog

from almenara import __version__
from almenara.config import Settings
from almenara.leases.table import MEMBER, Entry, Holder, LeaseTable, Member, lease_key
from almenara.shared_log import LogSession

log = structlog.get_logger(__name__)

DIGEST_BYTES: Final = 6
SECRET: Final = "bus.secret"  # noqa: S105 # the name of the setting
SOURCES: Final = "the names of sources"
NO_SECRET: Final = "none"  # noqa: S105 # where there is no secret
SALT: Final = b"almenara bus.secret"
SCRYPT_COST: Final = 2**14
LARGEST_RECORD: Final = 256 * 1024
"""Bytes of a record with the states of sources; a larger one has none. A message may have 1 MiB."""


class SettingsDigests:
    """The digests of the settings of this process that all replicas must have alike."""

    def __init__(self, settings: Settings) -> None:
        storage, self._secret = settings.storage, settings.bus.secret
        values: dict[str, Any] = {
            "storage.deduplication_window": storage.deduplication_window,
            "storage.max_resources": storage.max_resources,
            "redaction": settings.redaction,
            "server.url": settings.server.url,
        }
        self._digests = {name: digest_value(value) for name, value in values.items()}

    def note_sources(self, names: Iterable[str]) -> None:
        """Note the names of the sources and intakes; they are not compared before."""
        self._digests[SOURCES] = digest_value(sorted(names))

    def read(self) -> dict[str, str]:
        """Return the digests by setting. Reads the file of the secret: call it in a thread."""
        if self._secret is None:
            return {**self._digests, SECRET: NO_SECRET}
        try:
            return {**self._digests, SECRET: digest_secret(self._secret.reveal())}
        except OSError:
            # Everything that needs the secret reports it.
            return dict(self._digests)


def digest_value(value: Any) -> str:
    """Return the digest of a setting that is no secret."""
    encoded = msgspec.json.encode(value, order="sorted")
    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).hexdigest()


def digest_secret(secret: str) -> str:
    """Return a digest of a secret that takes some 50 ms and 16 MiB to compute."""
    return hashlib.scrypt(
        secret.encode(), salt=SALT, n=SCRYPT_COST, r=8, p=1, dklen=DIGEST_BYTES
    ).hex()


def member_key(holder: Holder) -> str:
    """Return the key of the membership of a process."""
    return f"{MEMBER}{lease_key(holder.replica)}.{holder.instance}"


def list_differences(own: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the settings of which both have digests that differ."""
    return sorted(name for name in own.keys() & other.keys() if own[name] != other[name])


def describe_differences(
    member: Member, differences: Sequence[str], other: str, version: str
) -> str:
    """Return that a replica has other settings than another one of a version, and what to do."""
    during_upgrade = (
        ""
        if member.version == version
        else f" Its version is {member.version}, and that of {other} is {version}: if the upgrade"
        " changes these settings, the difference ends with it."
    )
    return (
        f"The replica {member.replica} differs from {other} in"
        f" {', '.join(differences)}.{during_upgrade} Give all replicas the same configuration: with"
        " different ones, they store different histories. If that replica is of another"
        " installation, set bus.settings.stream of one of the two to another name."
    )


def describe_namesake(replica: str) -> str:
    """Return that another process has the name of a replica, and what to do."""
    return (
        f"Two processes on this bus have the replica name {replica}. Set"
        " bus.replica of one of them to another name. If that process is of another installation,"
        " set bus.settings.stream of one of the two to another name."
    )


async def read_members(session: LogSession) -> list[Holder]:
    """Return the running replicas, by name. Raises `Unavailable`.

    Where several have one name, it takes up to the time to live of a lease: all but one may be what
    killed processes have left, which is never renewed.
    """
    table, is_known = LeaseTable(session.lease_ttl), False
    with suppress(TimeoutError):
        async with asyncio.timeout(session.lease_ttl):
            async for change in session.leases.watch():
                is_known = is_known or change is None
                if change is not None:
                    table.accept(change)
                if is_known and not _find_doubtful(table):
                    break
    doubtful = _find_doubtful(table)
    members = [entry.holder for key, entry in table.list_members().items() if key not in doubtful]
    return sorted(members, key=lambda member: member.replica)


def _find_doubtful(table: LeaseTable) -> set[str]:
    """Return the keys of records with one name that were not renewed yet."""
    members = table.list_members()
    names = Counter(entry.holder.replica for entry in members.values())
    return {
        key
        for key, entry in members.items()
        if names[entry.holder.replica] > 1 and not entry.is_renewed
    }


class Members:
    """The membership of this replica, and how the others differ from it."""

    def __init__(
        self, replica: str, instance: str, table: LeaseTable, digests: SettingsDigests | None
    ) -> None:
        self.replica, self.instance = replica, instance
        # Two processes with one name have a record each, so that they notice one another.
        self.key = member_key(Holder(replica, instance))
        self._table, self._digests = table, digests
        self.list_reports: Callable[[], dict[str, dict[str, Any]]] = dict
        """Returns the states of the sources that this replica runs."""
        self._own = Member(replica, instance, __version__)
        self._has_invalid_state = False
        self._reported: dict[str, str] = {}
        """The text that was logged last of each key."""

    def note_sources(self, names: Iterable[str]) -> None:
        """Note the names of the sources and intakes of this process."""
        if self._digests is not None:
            self._digests.note_sources(names)

    async def read_settings(self) -> None:
        """Compute the digests of the settings again: the file of the secret may have changed."""
        if self._digests is not None:
            digests = await asyncio.to_thread(self._digests.read)
            self._own = Member(self.replica, self.instance, __version__, digests)

    def encode(self) -> bytes:
        """Return the record of this replica."""
        record = msgspec.structs.replace(self._own, sources=self.list_reports())
        try:
            value = msgspec.json.encode(record)
        except (ValueError, TypeError, OverflowError):
            # No lease is renewed before this record: a state that is invalid must not end them all.
            if not self._has_invalid_state:
                log.exception("states of sources are not shared")
            self._has_invalid_state = True
            return msgspec.json.encode(self._own)
        self._has_invalid_state = False
        return value if len(value) <= LARGEST_RECORD else msgspec.json.encode(self._own)

    def find_report(self, name: str) -> dict[str, Any] | None:
        """Return the state of a source as the replica that runs it has published it."""
        lease = self._table.get(lease_key(name))
        if lease is None or lease.holder.instance == self.instance:
            return None
        member = self._table.get(member_key(lease.holder))
        if member is None or not isinstance(member.holder, Member):
            return None
        return member.holder.sources.get(name)

    def list_problems(self) -> list[str]:
        """Return how running replicas differ from this one, one text each, by their names."""
        return [text for _, text in self._find_problems()]

    def report(self) -> None:
        """Log what was not logged yet."""
        reported, self._reported = self._reported, {}
        known = self._table.list_members()
        self._reported = {key: text for key, text in reported.items() if key in known}
        for key, text in self._find_problems():
            if self._reported.get(key) != text:
                self._reported[key] = text
                log.warning("replicas of one bus differ", reason=text)

    def _find_problems(self) -> list[tuple[str, str]]:
        problems = []
        for key, entry in sorted(self._table.list_members().items()):
            text = self._compare(entry)
            if text and key != self.key and self._table.get(key) is not None:
                problems.append((key, text))
        return problems

    def _compare(self, entry: Entry) -> str:
        member = entry.holder
        if member.replica == self.replica:
            # What an earlier run of this replica has left when it was killed is never renewed.
            return describe_namesake(self.replica) if entry.is_renewed else ""
        if not isinstance(member, Member):
            return ""
        # One of an earlier version publishes no digests.
        differences = list_differences(self._own.digests, member.digests)
        return (
            describe_differences(member, differences, "this replica", __version__)
            if differences
            else ""
        )
