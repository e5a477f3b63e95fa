from pathlib import Path

import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.bus.schema import SchemaTooNewError, connect
from almenara.config import StorageSettings
from almenara.history import History
from almenara.signals import Resource
from support.bus import make_event

pytestmark = pytest.mark.anyio


async def test_migrate_refuses_newer_schema_with_remedy(tmp_path: Path) -> None:
    async with EmbeddedBus(StorageSettings(dir=tmp_path)):
        pass
    connection = connect(tmp_path / "almenara.db", writable=True)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SchemaTooNewError, match="upgrade Almenara"):
        async with EmbeddedBus(StorageSettings(dir=tmp_path)):
            pass


async def test_migrate_upgrades_schema_1_with_its_events(
    tmp_path: Path,
) -> None:
    settings = StorageSettings(dir=tmp_path)
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(1)], "x")
    connection = connect(tmp_path / "almenara.db", writable=True)
    connection.executescript("DROP TABLE known_resources; PRAGMA user_version = 1")
    connection.close()
    async with EmbeddedBus(settings) as bus:
        await bus.publish([make_event(2), Resource(kind="pod", name="x")], "cluster")
        assert await History(bus).count_stored() == 2
        assert await bus.known_resources("cluster") == [("pod", "", "x")]
