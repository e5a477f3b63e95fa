"""Saved dashboards: who sees and changes them, versions, and conflicts."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from almenara.config import DashboardSettings, PlacedPanel
from almenara.scope import FULL_SCOPE
from almenara.security.identity import Identity, Role, User
from almenara.web.routes.dashboard_editor import parse_dashboard, to_yaml
from almenara.web.saved_dashboards import SavedDashboard, SavedDashboards
from almenara.web.saved_filters import SavedFilters, make_filter
from almenara.web.saved_items import MAX_VERSIONS, SaveConflictError, SavedItem
from support.saved_items import open_saved

pytestmark = pytest.mark.anyio


def identity(name: str, role: Role = Role.VIEWER) -> Identity:
    return Identity(user=User(name=name, subject=f"test:{name}"), role=role, scope=FULL_SCOPE)


ANN, BOB, ADMIN = identity("ann"), identity("bob"), identity("adm", Role.ADMIN)


def board(title: str = "One", name: str = "mine") -> DashboardSettings:
    return DashboardSettings(name=name, title=title, panels=[PlacedPanel(panel="numbers")])


async def test_save_survives_a_restart(tmp_path: Path) -> None:
    await (await open_saved(SavedDashboards, tmp_path)).save(board(), ANN, "owner", 0)
    (saved,) = (await open_saved(SavedDashboards, tmp_path)).visible(ANN)
    assert (saved.settings.title, saved.version, saved.owner_name) == ("One", 1, "ann")


async def test_dashboard_is_visible_to_its_owner_and_those_it_is_shared_with(
    tmp_path: Path,
) -> None:
    store = await open_saved(SavedDashboards, tmp_path)
    await store.save(board(), ANN, "owner", 0)
    assert [len(store.visible(each)) for each in (ANN, BOB, ADMIN)] == [1, 0, 0]
    await store.save(board(), ANN, "operator", 1)
    assert [len(store.visible(each)) for each in (ANN, BOB, ADMIN)] == [1, 0, 1]
    await store.save(board(), ANN, "viewer", 2)
    assert [len(store.visible(each)) for each in (ANN, BOB, ADMIN)] == [1, 1, 1]


async def test_dashboard_is_changed_by_its_owner_and_admins_alone(tmp_path: Path) -> None:
    store = await open_saved(SavedDashboards, tmp_path)
    await store.save(board(), ANN, "viewer", 0)
    with pytest.raises(ValueError, match="another dashboard"):
        await store.save(board("Theirs"), BOB, "viewer", 1)
    with pytest.raises(ValueError, match="may not delete"):
        await store.delete("mine", BOB, 1)
    saved = await store.save(board("Of an admin"), ADMIN, "viewer", 1)
    assert (saved.owner_name, saved.changed_by) == ("ann", "adm")


async def test_second_of_two_editors_gets_a_conflict_and_nothing_is_lost(tmp_path: Path) -> None:
    store = await open_saved(SavedDashboards, tmp_path)
    await store.save(board(), ANN, "viewer", 0)
    await store.save(board("First"), ADMIN, "viewer", 1)
    with pytest.raises(SaveConflictError, match="adm changed") as error:
        await store.save(board("Second"), ANN, "viewer", 1)
    assert isinstance(error.value.current, SavedDashboard)
    assert error.value.current.settings.title == "First"
    await store.save(board("Second"), ANN, "viewer", error.value.current.version)
    titles = [each.settings.title for each in await store.versions("mine", ANN)]
    assert titles == ["Second", "First", "One"]


async def test_private_dashboard_is_not_shown_to_who_takes_its_name(tmp_path: Path) -> None:
    store, replica = [await open_saved(SavedDashboards, tmp_path) for _ in range(2)]
    await store.save(board("Private"), ANN, "owner", 0)
    with pytest.raises(ValueError, match="another dashboard"):
        await replica.save(board("Same time"), BOB, "owner", 0)
    await store.delete("mine", ANN, 1)
    saved = await store.save(board("New"), BOB, "owner", 0)
    assert [each.settings.title for each in await store.versions("mine", BOB)] == ["New"]
    await store.delete("mine", BOB, saved.version)
    again = await store.save(board("Again"), ANN, "owner", 0)
    await store.save(board("Shared"), ANN, "viewer", again.version)
    for user, expected in ((ANN, ["Shared", "Again", "Private", "Private"]),
                           (BOB, ["Shared", "New", "New"])):  # fmt: skip
        titles = [each.settings.title for each in await store.versions("mine", user)]
        assert titles == expected


async def test_deleted_dashboard_keeps_its_versions_and_frees_its_name(tmp_path: Path) -> None:
    store = await open_saved(SavedDashboards, tmp_path)
    await store.save(board(), ANN, "viewer", 0)
    await store.delete("mine", ANN, 1)
    assert store.visible(ANN) == []
    saved = await store.save(board("Of bob"), BOB, "owner", 0)
    assert (saved.owner_name, saved.version) == ("bob", 3)
    assert len(await (await open_saved(SavedDashboards, tmp_path)).versions("mine", BOB)) == 3


async def test_oldest_versions_are_deleted(tmp_path: Path) -> None:
    store = await open_saved(SavedDashboards, tmp_path)
    for version in range(MAX_VERSIONS + 5):
        await store.save(board(), ANN, "owner", version)
    assert len(await store.versions("mine", ANN)) == MAX_VERSIONS


async def test_two_processes_that_save_at_once_get_one_conflict(tmp_path: Path) -> None:
    one, other = [await open_saved(SavedDashboards, tmp_path) for _ in range(2)]
    await one.save(board("First"), ANN, "viewer", 0)
    with pytest.raises(SaveConflictError, match="ann changed") as error:
        await other.save(board("Second"), ANN, "viewer", 0)
    assert isinstance(error.value.current, SavedDashboard)
    assert error.value.current.settings.title == "First"
    await other.save(board("Second"), ANN, "viewer", 1)


@pytest.mark.parametrize("version", [1, 2])
async def test_items_of_the_former_formats_are_read(tmp_path: Path, version: int) -> None:
    boards = await open_saved(SavedDashboards, tmp_path)
    filters = await open_saved(SavedFilters, tmp_path)
    saved = [await boards.save(board(title), ANN, "viewer", n) for n, title in enumerate("ab")]
    stored = await filters.store(make_filter("", "Failed", {"severity": "ERROR"}, "owner"), ANN, 0)
    (tmp_path / "dashboards.db").unlink()
    with closing(sqlite3.connect(tmp_path / "dashboards.db")) as connection, connection:
        tables: dict[str, list[SavedItem]] = {"versions": [*saved], "filters": [stored]}
        for table in ("versions", "filters")[:version]:
            connection.execute(f"CREATE TABLE {table} (name TEXT, version INTEGER, body TEXT)")
            rows = [(e.name, e.version, msgspec.json.encode(e).decode()) for e in tables[table]]
            connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", rows)
        connection.execute(f"PRAGMA user_version = {version}")
    migrated = await open_saved(SavedDashboards, tmp_path)
    assert migrated.visible(ANN) == [saved[1]]
    assert await migrated.versions("mine", ANN) == [saved[1], saved[0]]
    known = await open_saved(SavedFilters, tmp_path)
    assert known.by_title(ANN) == [stored][: version - 1]


@pytest.mark.parametrize("form", ["{}", "dashboards:\n- {}", "- {}"])
def test_parse_dashboard_reads_the_forms_of_the_configuration(form: str) -> None:
    text = form.format(
        "{name: a, title: A, panels: [numbers, {panel: chart, title: CPU, width: 3}]}"
    )
    settings = parse_dashboard(text)
    assert [each.panel for each in settings.panels] == ["numbers", "chart"]  # type: ignore[union-attr]
    assert parse_dashboard(to_yaml(settings)) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "one at a time"),
        ("name: [", "expected"),
        ("x", "not a dashboard"),
        ("{name: a, panels: [], widht: 1}", "widht"),
        ("{name: A B, panels: []}", "name"),
    ],
)
def test_parse_dashboard_reports_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        parse_dashboard(text)
