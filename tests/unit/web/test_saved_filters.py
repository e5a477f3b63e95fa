"""Saved filters: what is stored, who sees them, and conflicts."""

from pathlib import Path

import pytest

from almenara.scope import FULL_SCOPE
from almenara.security.identity import Identity, Role, User
from almenara.web import saved_items
from almenara.web.saved_dashboards import SavedDashboards
from almenara.web.saved_filters import SavedFilters, make_filter
from almenara.web.saved_items import SaveConflictError
from support.saved_items import open_saved

pytestmark = pytest.mark.anyio


def identity(name: str, role: Role = Role.VIEWER) -> Identity:
    return Identity(user=User(name=name, subject=f"test:{name}"), role=role, scope=FULL_SCOPE)


ANN, BOB, OPERATOR = identity("ann"), identity("bob"), identity("op", Role.OPERATOR)
FAILED = {"severity": "ERROR", "since": "15m", "text": "", "unknown": "x"}


async def test_filter_has_its_conditions_and_no_other_value(tmp_path: Path) -> None:
    draft = make_filter("", "  Failed\n plans ", FAILED, "owner")
    saved = await (await open_saved(SavedFilters, tmp_path)).store(draft, ANN, 0)
    assert (saved.title, saved.query) == ("Failed plans", {"severity": "ERROR", "since": "15m"})
    assert (await open_saved(SavedFilters, tmp_path)).by_title(ANN) == [saved]
    # In the same file as dashboards, and apart from them.
    assert (await open_saved(SavedDashboards, tmp_path)).visible(ANN) == []


async def test_filters_of_a_title_are_those_of_several_users_own_first(tmp_path: Path) -> None:
    store = await open_saved(SavedFilters, tmp_path)
    for owner, share in ((ANN, "viewer"), (BOB, "owner"), (OPERATOR, "operator")):
        await store.store(make_filter("", "Failed", FAILED, share), owner, 0)  # type: ignore[arg-type]
    owners = {
        each.user.name: [saved.owner_name for saved in store.by_title(each)]
        for each in (ANN, BOB, OPERATOR)
    }
    assert owners["ann"] == ["ann"]
    assert owners["bob"] == ["bob", "ann"]
    assert owners["op"] == ["op", "ann"]


async def test_second_of_two_editors_gets_a_conflict_and_nothing_is_lost(tmp_path: Path) -> None:
    store = await open_saved(SavedFilters, tmp_path)
    first = await store.store(make_filter("", "One", FAILED, "viewer"), ANN, 0)
    second = make_filter(first.id, "Two", FAILED, "viewer")
    await store.store(second, ANN, 1)
    with pytest.raises(SaveConflictError, match="ann changed this filter"):
        await store.store(make_filter(first.id, "Three", FAILED, "viewer"), ANN, 1)
    with pytest.raises(ValueError, match="belongs to another filter"):
        await store.store(make_filter(first.id, "Theirs", FAILED, "viewer"), BOB, 2)
    assert [saved.title for saved in await store.versions(first.id, ANN)] == ["Two", "One"]


@pytest.mark.parametrize(
    ("title", "values", "message"),
    [
        ("  ", FAILED, "enter a name"),
        ("x" * 81, FAILED, "longer than 80"),
        ("A", {"severity": " "}, "at least one condition"),
        ("A", {"severity": "LOUD"}, "severity"),
        ("A", {"since": "yesterday"}, "since"),
        ("A", {"text": "x" * 501}, "text is longer"),
    ],
)
def test_make_filter_reports_what_is_wrong(
    title: str, values: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_filter("", title, values, "owner")


async def test_of_many_deleted_filters_the_oldest_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_items, "MAX_DELETED", 2)
    store = await open_saved(SavedFilters, tmp_path)
    ids = []
    for number in range(4):
        saved = await store.store(make_filter("", str(number), FAILED, "owner"), ANN, 0)
        await store.delete(saved.id, ANN, 1)
        ids.append(saved.id)
    counts = [len(await store.versions(each, ANN)) for each in ids]
    assert counts == [0, 0, 2, 2]
