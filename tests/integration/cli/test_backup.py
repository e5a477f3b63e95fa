"""`almenara backup` to a directory, `almenara restore` and `almenara storage check`."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from almenara.bus.check import check_database
from almenara.bus.embedded import EmbeddedBus
from almenara.bus.folder import FolderLock
from almenara.config import DashboardSettings, PlacedPanel, StorageSettings
from almenara.scope import FULL_SCOPE
from almenara.security.identity import Identity, Role, User
from almenara.state.check import check_state
from almenara.web.saved_dashboards import SavedDashboard, SavedDashboards
from support.bus import make_events
from support.command_line import output_of, run_almenara
from support.disks import small_disk
from support.saved_items import open_saved
from support.state import damage_body, store_state

pytestmark = pytest.mark.anyio
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
    saved = asyncio.run(open_saved(SavedDashboards, folder))
    asyncio.run(saved.save(dashboard, identity_of("ann"), "owner", 0))


def list_dashboards(folder: Path) -> list[SavedDashboard]:
    saved = asyncio.run(open_saved(SavedDashboards, folder))
    return saved.visible(identity_of("ann"))


def identity_of(name: str) -> Identity:
    user = User(name=name, subject=f"test:{name}")
    return Identity(user=user, role=Role.VIEWER, scope=FULL_SCOPE)


def run_backup(folder: Path, target: str = "copy") -> str:
    done = run_almenara(folder, "backup", target, "--config", "almenara.yaml")
    assert done.returncode == 0, output_of(done)
    return output_of(done)


def run_restore(folder: Path, *arguments: str) -> tuple[int, str]:
    (folder / "almenara.yaml").write_text(f"{PLUGINS}storage: {{dir: restored}}\n")
    done = run_almenara(folder, "restore", *arguments, "--config", "almenara.yaml")
    return done.returncode, output_of(done)


def check_restored(folder: Path) -> None:
    assert {path.name for path in folder.iterdir() if path.suffix == ".db"} == {
        "almenara.db", "dashboards.db", "resources.db", "samples.db",
    }  # fmt: skip
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    assert check_database(folder).is_intact
    assert [report.rows for report in check_state(folder)] == [3, 2]
    assert len(list_dashboards(folder)) == 1


def test_backup_to_directory_is_restored(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "copy").mkdir()
    assert "contains 100 events" in run_backup(tmp_path)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "copy").iterdir())
    again = run_backup(tmp_path)
    assert "Copied 0.0 MiB; 0." in again
    status, output = run_restore(tmp_path, "copy")
    assert status == 0, output
    check_restored(tmp_path / "restored")
    status, output = run_restore(tmp_path, "copy")
    assert status == 1
    assert "add --replace" in output
    assert run_restore(tmp_path, "copy", "--replace")[0] == 0
    assert (tmp_path / "restored" / "almenara.db.replaced").exists()
    check_restored(tmp_path / "restored")


def test_restore_accepts_copies_of_the_databases(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    assert "contains 100 events" in run_backup(tmp_path, "copy.db")
    assert run_restore(tmp_path, "copy.db")[0] == 0
    assert check_database(tmp_path / "restored").events == 100
    # What an earlier version copied to a directory.
    assert run_restore(tmp_path, "data", "--replace")[0] == 0
    check_restored(tmp_path / "restored")
    assert "name a directory for backups" in output_of(
        run_almenara(tmp_path, "backup", str(folder), "--config", "almenara.yaml")
    )


@pytest.mark.parametrize("is_older", [False, True])
def test_restore_only_reads_the_backup(tmp_path: Path, is_older: bool) -> None:
    prepare(tmp_path)
    backups = tmp_path / "backups"
    (backups / "copy").mkdir(parents=True)
    for name in ("copy", "copy.db"):
        run_backup(tmp_path, f"backups/{name}")
    copies = list(backups.rglob("*.db"))
    # The bytes that say whether reading needs a write-ahead log beside the file, which cannot be
    # created on a read-only volume.
    assert {file.read_bytes()[18:20] for file in copies} == {b"\1\1"}
    if is_older:
        # Earlier versions left the copies of a whole database so.
        with closing(sqlite3.connect(backups / "copy.db")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
    before = {file: file.stat().st_mtime_ns for file in backups.rglob("*")}
    assert run_restore(tmp_path, "backups/copy")[0] == 0
    status, output = run_restore(tmp_path, "backups/copy.db", "--replace")
    assert status == 0, output
    assert "almenara.db is renamed to almenara.db.replaced. " in output
    # They belong to the history that was there before.
    assert "samples.db is renamed to samples.db.replaced; it is not in the backup." in output
    assert "dashboards.db stays; it is not in the backup." in output
    assert len(list_dashboards(tmp_path / "restored")) == 1
    assert {file: file.stat().st_mtime_ns for file in backups.rglob("*")} == before


def test_dashboards_alone_do_not_stop_a_restore(tmp_path: Path) -> None:
    prepare(tmp_path)
    run_backup(tmp_path, "copy.db")
    save_dashboard(tmp_path / "restored")
    status, output = run_restore(tmp_path, "copy.db")
    assert status == 0, output
    assert len(list_dashboards(tmp_path / "restored")) == 1
    (tmp_path / "copy").mkdir()
    (tmp_path / "data" / "dashboards.db").unlink()
    (tmp_path / "almenara.yaml").write_text(f"{PLUGINS}storage: {{dir: data}}\n")
    run_backup(tmp_path)
    status, output = run_restore(tmp_path, "copy", "--replace")
    assert (status, "dashboards.db stays" in output) == (0, True), output


def test_restore_names_what_is_no_backup(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    for path, reason in (
        (tmp_path / "almenara.yaml", "is not a database"),
        (folder / "samples.db", "is a database without a history"),
    ):
        status, output = run_restore(tmp_path, str(path))
        assert status == 1
        assert f"{reason}; name a directory or a file that `almenara backup` wrote" in output


def test_missing_directory_of_a_backup_is_named(tmp_path: Path) -> None:
    prepare(tmp_path)
    done = run_almenara(tmp_path, "backup", "absent/copy.db", "--config", "almenara.yaml")
    assert done.returncode == 1
    assert "there is no directory absent. Create it first" in output_of(done)


async def test_full_disk_is_named(tmp_path: Path) -> None:
    await asyncio.to_thread(prepare, tmp_path)
    async with small_disk(tmp_path / "copy", "64k"):
        done = await asyncio.to_thread(
            run_almenara, tmp_path, "backup", "copy", "--config", "almenara.yaml"
        )
    assert done.returncode == 1
    assert "the disk that holds copy is full. Free space on it" in output_of(done)


def test_restore_is_refused_while_the_folder_is_in_use(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "copy").mkdir()
    run_backup(tmp_path)
    (tmp_path / "restored").mkdir()
    lock = FolderLock.acquire(tmp_path / "restored")
    try:
        status, output = run_restore(tmp_path, "copy")
    finally:
        lock.release()
    assert status == 1
    assert "is in use by the process" in output
    assert [path.name for path in (tmp_path / "restored").iterdir()] == ["almenara.lock"]


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
