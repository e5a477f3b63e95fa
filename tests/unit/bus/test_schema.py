"""The tables of the log: migration from every earlier version."""

import asyncio
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.bus.schema import SchemaTooNewError, connect
from almenara.config import StorageSettings
from almenara.errors import AlmenaraError
from almenara.history import Filter, History
from almenara.signals import Event, Resource
from almenara.state.resources import Resources
from support.bus import collect_records, make_event
from support.old_schema import downgrade_to_9
from support.paths import FIXTURES

CENTURY = 3e9

pytestmark = pytest.mark.anyio


async def test_migrate_refuses_newer_schema_with_remedy(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)):
        pass
    connection = connect(tmp_path / "almenara.db", writable=True)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SchemaTooNewError, match="Upgrade Almenara"):
        async with EmbeddedBus(StorageSettings(dir=tmp_path)):
            pass


async def test_migrate_upgrades_schema_1_with_its_events(
    tmp_path: Path,
) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(1)], "x")
    downgrade_to_9(tmp_path / "almenara.db")
    connection = connect(tmp_path / "almenara.db", writable=True)
    added = (
        "names DROP COLUMN uses", "events DROP COLUMN namespace",
        "events DROP COLUMN checksum", "observations DROP COLUMN checksum",
        "position DROP COLUMN last_name",
        "position DROP COLUMN names_counted_from", "position DROP COLUMN has_inline_names",
        "position DROP COLUMN text_changed_at", "position DROP COLUMN anchor",
        "position DROP COLUMN uncounted_through", "position DROP COLUMN sealed_through",
        "position DROP COLUMN sealed_events", "position DROP COLUMN text_table",
        "position DROP COLUMN text_from", "position DROP COLUMN former_text_from",
    )  # fmt: skip
    connection.executescript(
        "DROP TABLE known_resources; DROP TABLE name_pairs; DROP TABLE event_counts;"
        "DROP TABLE blocks; DROP TABLE block_contents; DROP TABLE block_words;"
        "DROP TABLE block_names; DROP TABLE sealed_rows; DROP TABLE events_text_1;"
        "PRAGMA user_version = 1;" + "".join(f"ALTER TABLE {column};" for column in added)
    )
    connection.close()
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(2), Resource(kind="pod", name="x")], "cluster")
        assert await History(bus).count_stored() == 2
        assert await bus.known_resources("cluster") == [("pod", "", "x")]


@pytest.fixture
def version_0_1(tmp_path: Path) -> StorageSettings:
    """The settings of an installation that version 0.1.0 left behind."""
    shutil.copy(FIXTURES / "v0.1" / "almenara.db", tmp_path)
    return StorageSettings(dir=tmp_path, retention_age=CENTURY, sample_retention_age=CENTURY)


def downgrade_to_schema_1(settings: StorageSettings) -> None:
    connection = sqlite3.connect(settings.dir / "almenara.db")
    connection.executescript("DROP TABLE told; PRAGMA user_version = 1")
    connection.close()


async def test_migrate_keeps_every_signal_of_version_0_1(version_0_1: StorageSettings) -> None:
    async with EmbeddedBus(version_0_1) as bus:
        history, resources = History(bus), Resources()
        assert await history.count_stored() == 43
        records = await history.events(Filter(), limit=100)
        assert [each.sequence for each in records] == list(range(43, 0, -1))
        by_number = {int(each.signal.id.removeprefix("e-")): each.signal for each in records}  # type: ignore[union-attr]
        event = by_number[40]
        assert isinstance(event, Event)
        assert (event.source, event.origin, event.type) == ("/fleet/0", "nats/S0", "plan.approved")
        assert event.attributes == {"traceparent": "00-1-2-01", "namespace": "shop"}
        damaged = by_number[41]
        assert isinstance(damaged, Event)
        assert (damaged.raw, damaged.problem) == (b"\xff\x00no text", "the payload is not UTF-8")
        for text in ("word7", "café", '"next line"'):
            assert await history.count(Filter(text=text)) == (1 if text == "word7" else 41)
        await resources.rebuild(bus)
        pods = {each.name: (each.deleted, each.origin) for each in resources.of_kind("pod")}
        assert pods == {
            "web-1": (False, "kubernetes/eu"),
            "web-2": (True, "kubernetes"),
            "web-3": (False, "kubernetes/eu"),
        }
        assert resources.latest("pod", "shop", "web-1", "cpu") == 2.25
        assert len(resources.series("pod", "shop", "web-1", "cpu")) == 10
        assert len(await collect_records(bus, 0, bus.last_sequence)) == bus.last_sequence == 59


async def test_migrate_keeps_known_resources_state_and_deduplication_of_version_0_1(
    version_0_1: StorageSettings,
) -> None:
    async with EmbeddedBus(version_0_1) as bus:
        assert sorted(await bus.known_resources("kubernetes")) == [
            ("nats.stream", "", "ORDERS"),
            ("node", "", "n1"),
            ("pod", "shop", "web-1"),
            ("pod", "shop", "web-3"),
        ]
        assert await bus.load("nats", "position:ORDERS") == b"\x00\x01position 4711"
        assert await bus.load("ray", "jobs") == b'{"job-1":"RUNNING"}'
        repeated = [
            make_event(0, id=f"e-{each}", source=f"/fleet/{each % 2}") for each in range(43)
        ]
        await bus.publish([*repeated, make_event(43, id="e-43", source="/fleet/1")], "nats")
        assert bus.counters.deduplicated == 43
        assert await History(bus).count_stored() == 44


async def test_migrate_upgrades_schema_1_to_the_current_one(version_0_1: StorageSettings) -> None:
    downgrade_to_schema_1(version_0_1)
    async with EmbeddedBus(version_0_1) as bus:
        assert await History(bus).count_stored() == 43
        await bus.publish([make_event(44), Resource(kind="pod", name="x")], "cluster")
        assert await bus.known_resources("cluster") == [("pod", "", "x")]
        resources = Resources()
        await resources.rebuild(bus)
        assert [each.name for each in resources.of_kind("pod") if each.deleted] == ["web-2"]


async def test_migrate_counts_events_of_version_0_1_in_the_background(
    version_0_1: StorageSettings,
) -> None:
    async with EmbeddedBus(version_0_1) as bus:
        await bus.publish([make_event(43, type="new", time=0)], "nats")
        left = "SELECT uncounted_through FROM position"
        async with asyncio.timeout(10):
            while await bus.read(lambda each: each.execute(left).fetchone()) != (0,):
                await asyncio.sleep(0.01)
        total = "SELECT sum(events) FROM event_counts WHERE level = 2 AND type = 0"
        assert await bus.read(lambda each: each.execute(total).fetchone()) == (44,)
        assert await History(bus).count(Filter(type="plan.approved")) == 14
        assert await History(bus).count(Filter(type="new")) == 1


async def test_retention_removes_events_of_version_0_1_and_their_text_index(
    version_0_1: StorageSettings,
) -> None:
    async with EmbeddedBus(version_0_1):
        pass
    settings = msgspec.structs.replace(version_0_1, retention_size=1, retention_interval=0.05)
    async with EmbeddedBus(settings) as bus:
        history = History(bus)
        async with asyncio.timeout(10):
            while await history.count_stored():
                await asyncio.sleep(0.02)
        await bus.publish([make_event(1, data="a new start")], "nats")
        rows = "SELECT count(*) FROM events_text WHERE events_text MATCH ?"
        (left,) = await bus.read(lambda each: each.execute(rows, ("word7 OR café",)).fetchone())
        assert left == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"checksum INTEGER\n", b"chocksum INTEGER\n"),
        (b"last_sequence INTEGER", b"last_seq\xffence INTEGE"),
        (b"CREATE TABLE plugin_state", b"CREATE TABLE plugin_stale"),
        (b"USING fts5", b"USING fts9"),
    ],
)
async def test_changed_byte_in_the_schema_is_damage(
    tmp_path: Path, before: bytes, after: bytes
) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings):
        pass
    path = tmp_path / "almenara.db"
    content = path.read_bytes()
    assert before in content
    path.write_bytes(content.replace(before, after))
    with pytest.raises(AlmenaraError, match="is damaged"):
        await EmbeddedBus(settings).__aenter__()
    # Nothing was repaired on the way: the copy that an operator makes now is the evidence.
    assert after in path.read_bytes()
