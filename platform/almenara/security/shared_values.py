"""Tokens and sessions of `access.db` as the values that replicas share, and how two merge."""

from collections.abc import Mapping
from typing import Final

import msgspec

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
from almenara.state_store import signature
from almenara.units import DAY

IDENTITY: Final = "#identity"
"""Key of the base that identifies the shared values; none of them can have it."""

DELETED: Final = b"\0"
"""The start of the base of a value that was deleted; when the value would have expired follows."""
DELETED_MARGIN: Final = DAY
"""Time after that for which the base is stored, in case of a wrong clock."""

Values = dict[str, bytes]


decode_session = msgspec.json.Decoder(SessionRecord).decode
decode_token = msgspec.json.Decoder(ApiToken).decode
decode_access = msgspec.json.Decoder(AccessHash).decode


def is_own(key: str) -> bool:
    """Whether a shared value is a token or a session; dashboards are shared as well."""
    return key == ACCESS or key.startswith((TOKEN, SESSION))


def is_shareable(value: bytes) -> bool:
    """Whether every replica can confirm a session: one that a token has started, or that contains
    what refreshes it. What confirms others is in the memory of one replica."""
    record = decode_session(value)
    return bool(record.user.token_id or record.access_token_mark or record.sealed)


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
            and is_shareable(value)
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
        if is_own(key) and (not key.startswith(SESSION) or is_shareable(stored.value))
    }


def read_bases(store: AccessStore) -> Values:
    """Return the bases of the file, by key."""
    return {key.removeprefix(BASE): stored.value for key, stored in store.file.read(BASE).items()}


def write(
    store: AccessStore, values: Mapping[str, bytes | None], bases: Mapping[str, bytes | None]
) -> None:
    """Store values and bases in one transaction; None deletes one."""
    store.file.set_all({**values, **{f"{BASE}{key}": base for key, base in bases.items()}})
