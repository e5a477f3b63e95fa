"""The tables of templates: on a phone, each cell says what it is."""

import re
from pathlib import Path

import pytest

from support.paths import ROOT

TABLE = re.compile(r'<div class="table-wrap stacks.*?</table>', re.DOTALL)
HEAD = re.compile(r'<th scope="col"[^>]*>(.*?)</th>', re.DOTALL)
CELL = re.compile(r'<td data-label="([^"]*)"')
TEMPLATES = sorted(
    path
    for folder in ("platform", "plugins")
    for path in (ROOT / folder).rglob("*.html")
    if any(HEAD.search(table) for table in TABLE.findall(path.read_text("utf-8")))
)


def test_there_are_tables() -> None:
    assert len(TEMPLATES) > 10


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_cells_have_the_titles_of_their_columns(path: Path) -> None:
    for table in TABLE.findall(path.read_text("utf-8")):
        if "{{" in "".join(HEAD.findall(table)):
            # Titles that the data brings.
            continue
        # A hidden title is that of buttons, which say what they do.
        titles = [
            re.sub(r"<[^>]*>", "", title)
            for title in HEAD.findall(table)
            if 'class="hidden"' not in title
        ]
        # The first cell is the name of the row.
        assert CELL.findall(table) == titles[1:]
