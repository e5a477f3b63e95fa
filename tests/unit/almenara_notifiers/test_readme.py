"""The README of the notifiers has every setting, as the structs describe it."""

import re

from almenara.config.reference import render_field_table
from almenara_notifiers import KINDS
from support.paths import ROOT

README = ROOT / "plugins" / "almenara_notifiers" / "README.md"
MARK = "<!-- settings -->"


def render_settings() -> str:
    parts = []
    for kind in KINDS:
        text = " ".join((kind.settings.__doc__ or "").split())
        table = "\n".join(render_field_table(kind.settings, "setting")).strip()
        parts.append(f"### `{kind.name}`\n\n{text}\n\n{table}\n")
    return "\n".join(parts)


def test_readme_has_the_settings_of_every_kind() -> None:
    blocks = re.split(re.escape(MARK), README.read_text("utf-8"))
    assert len(blocks) == 3, f"README.md has the settings between two lines {MARK}"
    assert blocks[1].strip() == render_settings().strip()
