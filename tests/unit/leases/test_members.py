"""What replicas publish of their settings, and how they notice that these differ."""

from pathlib import Path

import msgspec
import pytest

from almenara import __version__
from almenara.config import Secret, Settings
from almenara.config.bus import BusSettings
from almenara.leases.members import NO_SECRET, SECRET, Members, SettingsDigests, list_differences
from almenara.leases.table import Holder, LeaseTable, Member, lease_key
from almenara.shared_log import ValueChange

pytestmark = pytest.mark.anyio

BUS_SECRET = "a-secret-that-all-replicas-of-this-bus-have"


def make_digests(**settings: object) -> SettingsDigests:
    return SettingsDigests(msgspec.convert(settings, Settings))


def with_secret(secret: Secret | None) -> SettingsDigests:
    return SettingsDigests(Settings(bus=BusSettings(kind="jetstream", secret=secret)))


async def make_members(
    table: LeaseTable, replica: str, instance: str, digests: SettingsDigests
) -> Members:
    members = Members(replica, instance, table, digests)
    await members.read_settings()
    return members


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"storage": {"deduplication_window": 5}}, "storage.deduplication_window"),
        ({"storage": {"max_resources": 5}}, "storage.max_resources"),
        ({"redaction": {"keys": ["pin"]}}, "redaction"),
        ({"server": {"url": "https://almenara.example"}}, "server.url"),
    ],
)
def test_digests_differ_in_the_setting_that_differs(settings: dict[str, object], name: str) -> None:
    own, other = make_digests().read(), make_digests(**settings).read()
    assert list_differences(own, other) == [name]
    assert list_differences(other, make_digests(**settings).read()) == []


def test_digests_do_not_compare_what_one_side_does_not_know() -> None:
    own, other = make_digests(), make_digests()
    own.note_sources(["nats", "ray"])
    assert list_differences(own.read(), other.read()) == []
    other.note_sources(["nats"])
    assert list_differences(own.read(), other.read()) == ["the names of sources"]
    other.note_sources(["ray", "nats"])
    assert list_differences(own.read(), other.read()) == []


def test_digest_of_the_secret_follows_its_file_and_is_no_fast_hash(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(BUS_SECRET)
    digests = with_secret(Secret.parse({"file": str(path)}))
    first = digests.read()
    assert first == with_secret(Secret.of(BUS_SECRET)).read()
    assert list_differences(first, with_secret(None).read()) == [SECRET]
    assert with_secret(None).read()[SECRET] == NO_SECRET
    assert BUS_SECRET not in str(first)
    path.write_text(f"{BUS_SECRET}-2")
    assert list_differences(first, digests.read()) == [SECRET]
    path.unlink()
    assert SECRET not in digests.read()


async def test_members_report_a_live_replica_that_differs_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("almenara.leases.table.monotonic", lambda: clock[0])
    table = LeaseTable(6.0)
    own = await make_members(table, "a", "1", make_digests())
    other = await make_members(table, "b", "2", make_digests(storage={"max_resources": 5}))
    table.accept(ValueChange(other.key, other.encode(), 1))
    table.accept(ValueChange("member.old", msgspec.json.encode(Holder("c", "3")), 2))
    table.accept(ValueChange("member.other", b"not JSON", 3))
    (problem,) = own.list_problems()
    assert "The replica b differs from this replica in storage.max_resources." in problem
    assert "upgrade" not in problem
    for _ in range(2):
        own.report()
    assert capsys.readouterr().out.count("replicas of one bus differ") == 1
    clock[0] += 7
    assert own.list_problems() == []


async def test_members_say_that_a_difference_may_end_with_an_upgrade() -> None:
    table = LeaseTable(6.0)
    own = await make_members(table, "a", "1", make_digests())
    digests = make_digests(redaction={"keys": ["pin"]}).read()
    record = msgspec.json.encode(Member("b", "2", "9.9.9", digests))
    table.accept(ValueChange("member.b", record, 1))
    (problem,) = own.list_problems()
    assert "The replica b differs from this replica in redaction." in problem
    assert f"version is 9.9.9, and that of this replica is {__version__}: if the up" in problem


async def test_members_report_a_namesake_that_lives_and_no_earlier_run() -> None:
    table = LeaseTable(6.0)
    own = await make_members(table, "a", "1", make_digests())
    other = await make_members(table, "a", "2", make_digests())
    assert own.key != other.key
    table.accept(ValueChange(own.key, own.encode(), 1))
    table.accept(ValueChange(own.key, own.encode(), 2))
    table.accept(ValueChange(other.key, other.encode(), 3))
    # What a watch that starts again repeats is no renewal.
    table.accept(ValueChange(other.key, other.encode(), 3))
    assert own.list_problems() == []
    table.accept(ValueChange(other.key, other.encode(), 4))
    (problem,) = own.list_problems()
    assert "Two processes on this bus have the replica name a." in problem
    assert table.members() == {"a"}


async def test_members_find_what_the_holder_of_a_lease_reports() -> None:
    table = LeaseTable(6.0)
    own = await make_members(table, "a", "1", make_digests())
    other = await make_members(table, "b", "2", make_digests())
    other.list_reports = lambda: {"nats": {"status": "degraded"}}
    table.accept(ValueChange(other.key, other.encode(), 1))
    assert own.find_report("nats") is None
    held = msgspec.json.encode(Holder("b", "2"))
    table.accept(ValueChange(lease_key("nats"), held, 2))
    table.accept(ValueChange(lease_key("ray"), held, 3))
    assert own.find_report("nats") == {"status": "degraded"}
    assert own.find_report("ray") is None
    # Its own report is not that of another one.
    assert other.find_report("nats") is None
    # A record with too much is published without the states.
    other.list_reports = lambda: {"nats": {"error": "x" * 300_000}}
    table.accept(ValueChange(other.key, other.encode(), 4))
    assert own.find_report("nats") is None
    # Nor does one that cannot be encoded keep the leases from being renewed.
    other.list_reports = lambda: {"nats": {"error": "\ud83d", "lag": 2**80}}
    table.accept(ValueChange(other.key, other.encode(), 5))
    assert own.find_report("nats") is None
    # The earlier run of the same name had another instance.
    table.accept(ValueChange(lease_key("nats"), msgspec.json.encode(Holder("b", "3")), 6))
    assert own.find_report("nats") is None
