"""Tokens and sessions of `access.db` as the values that replicas share, and how two merge."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
import structlog

from almenara.security.store import (
    ACCESS,
    BASE,
    SESSION,
    TOKEN,
    AccessHash,
    AccessStore,
    ApiToken,
    SessionRecord,
)
from almenara.shared_log import ValueChange
from almenara.state_store import signature
from almenara.units import DAY

log = structlog.get_logger(__name__)

PREFIXES: Final = (ACCESS, TOKEN, SESSION)
"""What the keys of the file begin with that can be shared."""
IDENTITY: Final = "#identity"
"""Key of the base that identifies the shared values; none of them can have it."""

DELETED: Final = b"\0"
"""The start of the base of a value that was deleted; when the value would have expired follows."""
DELETED_MARGIN: Final = DAY
"""Time after that for which the base is stored, in case of a wrong clock."""

Values = dict[str, bytes]


class Merged(msgspec.Struct):
    """What a merge has changed in the file. None is a value or base that was deleted."""

    values: dict[str, bytes | None]
    bases: dict[str, bytes | None]
    unshared: set[str]
    """Keys of which the shared value still is another one."""


decode_session = msgspec.json.Decoder(SessionRecord).decode
decode_token = msgspec.json.Decoder(ApiToken).decode
decode_access = msgspec.json.Decoder(AccessHash).decode


def is_own(key: str) -> bool:
    """Whether a shared value is a token or a session; dashboards are shared as well."""
    return key == ACCESS or key.startswith((TOKEN, SESSION))


def is_shareable(key: str, value: bytes) -> bool:
    """Whether a token or session of the file can be shared."""
    return not key.startswith(SESSION) or decode_session(value).is_shareable


def is_valid(key: str, value: bytes) -> bool:
    """Whether a shared value is what its key says; another program may have written it."""
    try:
        if key == ACCESS:
            return bool(decode_access(value).hash)
        if key.startswith(TOKEN):
            return decode_token(value).id == key.removeprefix(TOKEN)
        return (
            key.startswith(SESSION)
            and decode_session(value).id == key.removeprefix(SESSION)
            and is_shareable(key, value)
        )
    except msgspec.MsgspecError:
        return False


def verify(secret: str, key: str, signed: bytes) -> bytes | None:
    """Return the value that was signed for a key; None where the signature is wrong or the value
    is not what the key says."""
    value = signature.verify(secret, key, signed)
    return value if value is not None and is_valid(key, value) else None


def mark_deleted(key: str, *values: bytes | None) -> bytes:
    """Return the base of a value that was deleted, of which there may be these copies."""
    expires = [_read_expiry(key, value) for value in values if value is not None]
    return DELETED + str(max(expires, default=0)).encode()


def is_deleted(base: bytes | None) -> bool:
    """Whether a base is that of a value that was deleted."""
    return base is not None and base.startswith(DELETED)


def is_obsolete(base: bytes, moment: int) -> bool:
    """Whether a base is of a value that was deleted, and every copy of that has expired."""
    return is_deleted(base) and int(base.removeprefix(DELETED)) + DELETED_MARGIN < moment


def _read_expiry(key: str, value: bytes) -> int:
    try:
        decoded = decode_token(value) if key.startswith(TOKEN) else decode_session(value)
    except msgspec.MsgspecError:
        # No replica accepts it.
        return 0
    return decoded.expires


def merge(
    key: str, local: bytes | None, base: bytes | None, remote: bytes | None
) -> tuple[bytes | None, bytes | None]:
    """Return the value to store here and its new base, which is what both had last in common.

    What was deleted on either side stays deleted: a revocation always wins, and its base says so
    for as long as a copy of the value could bring it back. Of a session that
    changed on both sides, the later activity and the later refresh count, and of access tokens the
    newer one.
    """
    if key == ACCESS:
        if remote is None or (local is not None and _created(local) > _created(remote)):
            return local, None if remote is None else remote
        return remote, remote
    if is_deleted(base):
        return None, base
    if base is not None and (local is None or remote is None):
        return None, mark_deleted(key, base, local, remote)
    if remote is None:
        return local, base
    if local is None or local == base:
        return remote, remote
    if remote == base:
        return local, remote
    return (_merge_sessions(local, remote) if key.startswith(SESSION) else remote), remote


def _merge_sessions(local: bytes, remote: bytes) -> bytes:
    records = decode_session(local), decode_session(remote)
    seen = max(records, key=lambda record: record.last_seen)
    fresh = max(records, key=lambda record: record.refreshed)
    return msgspec.json.encode(
        msgspec.structs.replace(
            seen, user=fresh.user, sealed=fresh.sealed, refreshed=fresh.refreshed
        )
    )


def _created(access: bytes) -> int:
    return decode_access(access).created


def read_values(store: AccessStore) -> Values:
    """Return what can be shared of the file, by key."""
    return {
        key: stored.value
        for key, stored in store.file.read().items()
        if is_own(key) and is_shareable(key, stored.value)
    }


def read_bases(store: AccessStore) -> Values:
    """Return the bases of the file, by key."""
    return {key.removeprefix(BASE): stored.value for key, stored in store.file.read(BASE).items()}


def write(
    store: AccessStore, values: Mapping[str, bytes | None], bases: Mapping[str, bytes | None]
) -> None:
    """Store values and bases in one transaction; None deletes one."""
    store.file.set_all({**values, **{f"{BASE}{key}": base for key, base in bases.items()}})


def merge_into(store: AccessStore, secret: str, changes: Sequence[ValueChange]) -> Merged:
    """Merge shared values into the file, in one transaction: what another process stores or deletes
    meanwhile is part of the merge, and not lost."""
    remotes = list(_verify_all(secret, changes))
    merged = Merged({}, {}, set())
    if not remotes:
        return merged
    names = {key for key, _ in remotes}

    def merge_stored(stored: Mapping[str, bytes]) -> dict[str, bytes | None]:
        for key, remote in remotes:
            local = merged.values[key] if key in merged.values else stored.get(key)
            base_key = f"{BASE}{key}"
            base = merged.bases[key] if key in merged.bases else stored.get(base_key)
            if local is not None and not is_shareable(key, local):
                continue
            value, new_base = merge(key, local, base, remote)
            if value != local:
                merged.values[key] = value
            if new_base != base:
                merged.bases[key] = new_base
            merged.unshared.discard(key)
            if value != remote:
                merged.unshared.add(key)
        return {**merged.values, **{f"{BASE}{key}": base for key, base in merged.bases.items()}}

    store.file.update([*names, *(f"{BASE}{key}" for key in names)], merge_stored)
    return merged


def _verify_all(secret: str, changes: Iterable[ValueChange]) -> Iterable[tuple[str, bytes | None]]:
    for change in changes:
        value = change.value
        if value is not None and (value := verify(secret, change.key, value)) is None:
            log.error("a shared value has no valid signature and is ignored", key=change.key)
        else:
            yield change.key, value
