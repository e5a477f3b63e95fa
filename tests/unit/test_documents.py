"""What the documents for contributors name exists."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"\.?[\w.-]+(?:/[\w.-]+)*/?")


def find_paths(text: str) -> set[str]:
    """What is a path among the words in backticks: it has a slash, or the suffix of a file."""
    words = CODE.findall(re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))
    return {
        word
        for word in words
        if PATH.fullmatch(word) and ("/" in word or Path(word).suffix in {".md", ".toml", ".py"})
    }


def find_table_paths(text: str) -> set[str]:
    """The paths of the table "to change … | open"."""
    rows = re.search(r"^\| to change .*\n(?:\|.*\n)+", text, re.MULTILINE)
    assert rows is not None, "the table of what to open is missing"
    return find_paths(rows[0])


@pytest.mark.parametrize(
    ("document", "find", "minimum"),
    [("CONTRIBUTING.md", find_paths, 20), ("docs/architecture.md", find_table_paths, 15)],
)
def test_document_paths_exist(document: str, find: Callable[[str], set[str]], minimum: int) -> None:
    paths = find((ROOT / document).read_text("utf-8"))
    assert len(paths) >= minimum
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_contributing_names_only_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    assert named >= {"check", "test"}
    assert named <= targets
