"""The table of leases, and who should have each."""

from collections import Counter

import pytest

from almenara.leases.table import LEASE, MEMBER, LeaseTable, choose_member, lease_key
from almenara.shared_log import ValueChange

VALUE = b'{"replica":"a","instance":"1"}'


def test_choose_member_moves_only_leases_of_the_member_that_left() -> None:
    names = [f"source-{number}" for number in range(300)]
    before = {name: choose_member(name, {"a", "b", "c"}) for name in names}
    after = {name: choose_member(name, {"a", "c"}) for name in names}
    assert all(after[name] == member for name, member in before.items() if member != "b")
    assert min(Counter(before.values()).values()) > 60
    assert choose_member("x", set()) == ""


@pytest.mark.parametrize("name", ["nats", "kubernetes/a b", "intake*>", "ä"])
def test_lease_key_is_a_valid_key(name: str) -> None:
    key = lease_key(name).removeprefix(LEASE)
    assert key.isascii()
    assert not set(key) & set("*>. =")


def test_table_forgets_what_was_released_or_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("almenara.leases.table.monotonic", lambda: clock[0])
    table = LeaseTable(6.0)
    table.accept(ValueChange("lease.x", VALUE, 3))
    table.accept(ValueChange(f"{MEMBER}a", VALUE, 4))
    table.accept(ValueChange("lease.y", b"not JSON", 5))
    assert table.members() == {"a"}
    assert table.get("lease.y").holder.replica == "unknown"  # type: ignore[union-attr]
    table.accept(ValueChange("lease.y", None, 6))
    assert table.get("lease.y") is None
    assert table.find_expired_holder("lease.y") == ""
    clock[0] += 5
    table.accept(ValueChange("lease.x", VALUE, 7))
    clock[0] += 2
    assert table.get("lease.x").revision == 7  # type: ignore[union-attr]
    assert table.find_expired_holder("lease.x") == ""
    assert table.members() == set()
    clock[0] += 5
    assert table.get("lease.x") is None
    assert table.find_expired_holder("lease.x") == "a"
