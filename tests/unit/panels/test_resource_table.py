"""The table of any resources: its columns, rows and what there is to choose from."""

import pytest
from hypothesis import given, strategies as st

from almenara.panels.resource_table import TableFilters, parse_columns


def test_columns_have_titles_paths_and_formats() -> None:
    columns = parse_columns("status, Node=state.node,sample.cpu_used:percent, time, name,,")
    assert [(each.title, each.path, each.format) for each in columns] == [
        ("Name", "name", "text"), ("Status", "status", "status"), ("Node", "state.node", "text"),
        ("Cpu used", "sample.cpu_used", "percent"), ("Time", "time", "time"),
    ]  # fmt: skip
    assert [each.path for each in parse_columns("")] == ["name", "namespace", "status", "time"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("node", "is not a path"),
        ("a=b=state.c", "is not a path"),
        ("sample.cpu:percents", "did you mean percent"),
        (",".join(f"state.{number}" for number in range(13)), "at most 12 columns"),
    ],
)
def test_wrong_columns_are_refused(columns: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableFilters.from_query({"kind": "pod", "columns": columns})


@given(st.dictionaries(st.sampled_from(TableFilters.__struct_fields__), st.text(max_size=60)))
def test_filters_read_back_what_they_write(values: dict[str, str]) -> None:
    try:
        filters = TableFilters.from_query(values)
    except ValueError:
        return
    assert TableFilters.from_query(filters.to_query()) == filters
    assert filters.declare().columns[0].path == "name"
