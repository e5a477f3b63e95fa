"""A storage directory that cannot be used: serve, doctor and backup say why and what to do."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from support.command_line import output_of, run_almenara

PLUGINS = "plugins: {disabled: [demo, http, kubernetes, nats, prometheus, ray]}\n"


def use_file(folder: Path) -> None:
    (folder / "data").write_text("a file")


def use_path_through_file(folder: Path) -> None:
    (folder / "data").write_text("a file")
    (folder / "almenara.yaml").write_text(f"{PLUGINS}storage: {{dir: data/deeper/still}}\n")


def use_newer_schema(folder: Path) -> None:
    (folder / "data").mkdir()
    with closing(sqlite3.connect(folder / "data" / "almenara.db")) as connection:
        connection.execute("CREATE TABLE position (events INTEGER)")
        connection.execute("PRAGMA user_version = 9999")


def use_other_content(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "almenara.db").write_text("neither a database nor empty " * 100)


def use_read_only_directory(folder: Path) -> None:
    (folder / "data").mkdir(mode=0o555)


CASES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "file in place of the directory": (use_file, "data, ", "set storage.dir to a folder"),
    "path through a file": (use_path_through_file, "is a file", "set storage.dir to a folder"),
    "newer schema": (use_newer_schema, "was written by a newer Almenara", "Upgrade Almenara"),
    "file that is no database": (use_other_content, "is damaged", "restore the last backup"),
    "directory without permissions": (
        use_read_only_directory, "may not write to", "give that user the folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("doctor",), ("backup", "copy.db")])
def test_unusable_storage_is_reported_with_remedy(
    tmp_path: Path, case: str, command: tuple[str, ...]
) -> None:
    prepare, message, remedy = CASES[case]
    (tmp_path / "almenara.yaml").write_text(f"{PLUGINS}storage: {{dir: data}}\n")
    prepare(tmp_path)
    prefix: tuple[str, ...] = ()
    if case == "directory without permissions" and os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv, because root ignores permissions")
        prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    process = run_almenara(tmp_path, *command, "--config", "almenara.yaml", prefix=prefix)
    output = output_of(process)
    assert process.returncode == 1, output
    assert message in output
    assert remedy.lower() in output.lower()
    assert "Traceback" not in output
    assert "Errno" not in output
