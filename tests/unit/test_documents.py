"""What the documents and configuration for contributors name exists and agrees."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

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
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", text, re.MULTILINE))
    assert named >= {"check", "test"}
    assert named <= targets


def test_pre_commit_runs_the_checks_of_make_check() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (checks,) = re.findall(r"^check: (.*?) ##", makefile, re.MULTILINE)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert [hook["entry"] for hook in hooks[0]["hooks"]] == [
        f"make {name}" for name in checks.split()
    ]


def test_release_check_compares_tag_with_versions() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    check = [ROOT / ".ci" / "check-version"]
    subprocess.run([*check, f"v{version}"], check=True, timeout=20)
    done = subprocess.run([*check, "v99.0.0"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert f"The tag is v99.0.0, but pyproject.toml has {version}" in done.stderr


def test_architecture_shows_the_layers_of_import_linter() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    block = re.search(r"^```layers\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = [each["layers"] for each in contracts if each["name"].startswith("Layers: ")]
    assert block[1].splitlines() == layers


def test_architecture_names_functions_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = re.findall(r"`([\w/]+\.py):([\w.]+)`", text)
    assert len(named) >= 12
    for path, name in named:
        tree: ast.AST = ast.parse((ROOT / path).read_text("utf-8"))
        for part in name.split("."):
            matches = [
                node
                for node in ast.iter_child_nodes(tree)
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name == part
            ]
            assert matches, f"{path} has no {name}"
            tree = matches[0]
