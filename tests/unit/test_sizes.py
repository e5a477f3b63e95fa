"""Bounds of the code base: lines of templates, and lengths of modules and classes."""

import ast
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
MAX_TEMPLATE_LINE: Final = 160
"""Characters."""
MAX_MODULE: Final = 500
"""Lines."""
MAX_CLASS: Final = 300
"""Lines, from `class` to the end of the last statement."""

TEMPLATES: Final = sorted(
    path for root in ("platform", "plugins") for path in (ROOT / root).rglob("*.html")
)
MODULES: Final = sorted(
    path
    for root in ("platform", "plugins", "helm", "tests")
    for path in (ROOT / root).rglob("*.py")
    # Environments and caches such as `.venv` are not part of the code base.
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)


def test_templates_have_no_long_lines() -> None:
    assert TEMPLATES
    long = [
        f"{path.relative_to(ROOT)}:{number}: {len(line)} characters"
        for path in TEMPLATES
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
        if len(line) > MAX_TEMPLATE_LINE
    ]
    assert not long, "\n".join(long)


def test_modules_are_short() -> None:
    assert MODULES
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    long = [
        f"{path.relative_to(ROOT)}: {length} lines"
        for path, length in lengths.items()
        if length > MAX_MODULE
    ]
    assert not long, "\n".join(long)


def test_classes_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_CLASS
    ]
    assert not long, "\n".join(long)
