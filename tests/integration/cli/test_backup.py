"""`almenara backup` to a directory, and `almenara storage check`, with all databases."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from almenara.bus.embedded import EmbeddedBus
from almenara.config import DashboardSettings, PlacedPanel, StorageSettings
from almenara.scope import FULL_SCOPE
from almenara.security.identity import Identity, Role, User
from almenara.state.check import check_state
from almenara.web.saved_dashboards import SavedDashboards
from support.bus import make_events
from support.command_line import output_of, run_almenara
from support.state import damage_body, store_state

PLUGINS = "plugins: {disabled: [demo, http, kubernetes, nats, prometheus, ray]}\n"


def prepare(folder: Path) -> Path:
    """Store events, samples and checkpoints; return their folder."""
    (folder / "almenara.yaml").write_text(f"{PLUGINS}storage: {{dir: data}}\n")

    async def store() -> None:
        async with EmbeddedBus(StorageSettings(dir=folder / "data")) as bus:
            await bus.publish(make_events(0, 100), "x")

    asyncio.run(store())
    store_state(folder / "data")
    save_dashboard(folder / "data")
    return folder / "data"


def save_dashboard(folder: Path) -> None:
    dashboard = DashboardSettings(name="mine", title="Mine", panels=[PlacedPanel(panel="numbers")])
    asyncio.run(SavedDashboards(folder).save(dashboard, identity_of("ann"), "owner", 0))


def identity_of(name: str) -> Identity:
    user = User(name=name, subject=f"test:{name}")
    return Identity(user=user, role=Role.VIEWER, scope=FULL_SCOPE)


def test_backup_copies_all_databases_to_a_directory(tmp_path: Path) -> None:
    prepare(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    done = run_almenara(tmp_path, "backup", "copy", "--config", "almenara.yaml")
    assert done.returncode == 0, output_of(done)
    assert sorted(path.name for path in copy.iterdir()) == [
        "almenara.db", "dashboards.db", "resources.db", "samples.db",
    ]  # fmt: skip
    assert all(path.stat().st_mode & 0o077 == 0 for path in copy.iterdir())
    with closing(sqlite3.connect(copy / "almenara.db")) as connection:
        assert connection.execute("SELECT events FROM position").fetchone() == (100,)
    assert [report.rows for report in check_state(copy)] == [3, 2]
    assert len(SavedDashboards(copy).visible(identity_of("ann"))) == 1
    again = run_almenara(tmp_path, "backup", "copy", "--config", "almenara.yaml")
    assert again.returncode == 1
    assert "name an empty directory" in output_of(again)


def test_storage_check_reports_damaged_samples(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    command = ("storage", "check", "--config", "almenara.yaml")
    intact = run_almenara(tmp_path, *command)
    assert intact.returncode == 0, output_of(intact)
    assert "samples.db: 3 chunks are readable" in output_of(intact)
    damage_body(folder / "samples.db", "raw")
    damaged = run_almenara(tmp_path, *command)
    assert damaged.returncode == 1
    assert "samples.db: 1 chunks are damaged" in output_of(damaged)
