"""How tokens and sessions of two replicas merge."""

from pathlib import Path

import msgspec
import pytest

from almenara.security import shared_values
from almenara.security.identity import User
from almenara.security.shared_values import DELETED_MARGIN, is_obsolete, mark_deleted, merge, verify
from almenara.security.store import (
    ACCESS,
    SESSION,
    TOKEN,
    AccessHash,
    AccessStore,
    ApiToken,
    SessionRecord,
)
from almenara.state_store.signature import sign


def session(last_seen: int, mark: str = "m") -> bytes:
    return msgspec.json.encode(
        SessionRecord(
            id="s1", digest="d", csrf="c", user=User(name="u", subject="u"), created=1,
            last_seen=last_seen, expires=9, address="", agent="", access_token_mark=mark,
        )
    )  # fmt: skip


def token(name: str = "n") -> bytes:
    return msgspec.json.encode(
        ApiToken(
            id="t1", name=name, hash="h", role=1, grants=(), created=1, expires=2, created_by=""
        )
    )


A, B, C = token("a"), token("b"), token("c")
DELETED = mark_deleted(f"{TOKEN}t1", A)


@pytest.mark.parametrize(
    ("local", "base", "remote", "value", "new_base"),
    [
        (None, None, A, A, A),
        (A, None, None, A, None),
        (A, A, None, None, DELETED),
        (B, A, None, None, DELETED),
        (None, A, A, None, DELETED),
        (None, A, B, None, DELETED),
        (None, DELETED, A, None, DELETED),
        (None, DELETED, None, None, DELETED),
        (A, A, B, B, B),
        (B, A, A, B, A),
        (B, A, B, B, B),
        (A, None, B, B, B),
        (B, A, C, C, C),
        (None, None, None, None, None),
    ],
)
def test_merge_lets_a_deletion_win(local, base, remote, value, new_base) -> None:
    assert merge(f"{TOKEN}x", local, base, remote) == (value, new_base)


def test_deletion_is_remembered_until_every_copy_has_expired() -> None:
    base = mark_deleted(f"{SESSION}s1", session(1), None, b"damaged")
    assert not is_obsolete(base, 9 + DELETED_MARGIN)
    assert is_obsolete(base, 10 + DELETED_MARGIN)
    assert not is_obsolete(session(1), 10 + DELETED_MARGIN)


def test_merge_keeps_the_newer_access_token() -> None:
    old, new = (msgspec.json.encode(AccessHash("h", created)) for created in (1, 2))
    assert merge(ACCESS, new, old, old) == (new, old)
    assert merge(ACCESS, old, old, new) == (new, new)
    assert merge(ACCESS, None, None, old) == (old, old)
    assert merge(ACCESS, old, old, None) == (old, None)


def test_signature_holds_for_its_key_and_secret_alone() -> None:
    key = f"{TOKEN}t1"
    signed = sign("secret", key, token())
    assert verify("secret", key, signed) == token()
    assert verify("other", key, signed) is None
    assert verify("secret", f"{TOKEN}t2", signed) is None
    assert verify("secret", key, signed[:-1]) is None
    assert verify("secret", key, b"") is None
    assert verify("secret", ACCESS, sign("secret", ACCESS, b"[]")) is None


def test_merge_keeps_the_session_that_was_active_last() -> None:
    key = f"{SESSION}s1"
    old, here, there = session(1), session(5), session(3)
    assert merge(key, here, old, there) == (here, there)
    assert merge(key, there, old, here) == (here, here)


def test_values_survive_the_file(tmp_path: Path) -> None:
    store = AccessStore(tmp_path)
    assert shared_values.read_bases(store) == {}
    access = msgspec.json.encode(AccessHash("h", 7))
    values = {ACCESS: access, f"{TOKEN}t1": token(), f"{SESSION}s1": session(1)}
    assert all(shared_values.is_valid(key, value) for key, value in values.items())
    shared_values.write(store, values, {f"{TOKEN}t1": token(), "x": A})
    assert shared_values.read_values(store) == values
    assert store.read().access_hash == "h"
    assert [each.id for each in store.read().sessions] == ["s1"]
    shared_values.write(store, dict.fromkeys(values), {"x": None})
    assert shared_values.read_values(store) == {}
    assert shared_values.read_bases(store) == {f"{TOKEN}t1": token()}


def test_sessions_of_a_provider_are_not_shared(tmp_path: Path) -> None:
    store = AccessStore(tmp_path)
    store.put_session(msgspec.json.decode(session(1, mark=""), type=SessionRecord))
    assert shared_values.read_values(store) == {}
    assert not shared_values.is_valid(f"{SESSION}s1", session(1, mark=""))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (ACCESS, b"{}"),
        (f"{TOKEN}other", token()),
        (f"{SESSION}other", session(1)),
        (f"{SESSION}s1", b"[]"),
        ("else", b"1"),
    ],
)
def test_invalid_values_are_recognized(key: str, value: bytes) -> None:
    assert not shared_values.is_valid(key, value)
