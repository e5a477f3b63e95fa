"""Reads everything in the databases of samples and of resources, and reports what is damaged."""

import sqlite3
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara.errors import describe_error
from almenara.signals import Resource
from almenara.state import checkpoints, sample_schema
from almenara.state.checkpoint_codec import Change, decode_parts
from almenara.state.sample_codec import decode_points, decode_rollups

PAGE_PROBLEMS: Final = 5
"""Problems of SQLite's own check that are reported."""
DAMAGE: Final = (ValueError, IndexError, TypeError, sqlite3.Error, msgspec.MsgspecError, zlib.error)
"""What reading a damaged body may raise."""


class DatabaseReport(msgspec.Struct):
    """What a database contains, and what is damaged."""

    name: str
    consequence: str
    """What Almenara does about damage."""
    rows: int = 0
    damaged: int = 0
    page_problems: list[str] = []

    @property
    def is_intact(self) -> bool:
        return not (self.damaged or self.page_problems)

    def describe(self) -> str:
        """Return the result for people, in a few lines."""
        lines = [f"{self.name}: {self.rows - self.damaged:,} chunks are readable."]
        if self.damaged:
            lines.append(f"{self.name}: {self.damaged:,} chunks are damaged.")
        lines += [f"{self.name}: SQLite: {problem}" for problem in self.page_problems]
        if not self.is_intact:
            lines.append(f"{self.name}: {self.consequence}")
        return "\n".join(lines)


def check_state(folder: Path) -> list[DatabaseReport]:
    """Check the databases of samples and resources in a folder, as far as they exist."""
    reports = []
    for name, consequence, tables in (
        (
            sample_schema.DATABASE,
            "charts leave damaged chunks out. If SQLite reports problems, stop Almenara, remove"
            f" {sample_schema.DATABASE}, or restore a backup; charts start empty without it.",
            _SAMPLES,
        ),
        (
            checkpoints.DATABASE,
            "Almenara renames it when it meets the damage; the past of resources then starts with"
            " the next checkpoint. Restore a backup to have the past again.",
            _RESOURCES,
        ),
    ):
        if (folder / name).exists():
            reports.append(_check(folder / name, DatabaseReport(name, consequence), tables))
    return reports


def _check(
    path: Path, report: DatabaseReport, tables: Mapping[str, Callable[[bytes], object]]
) -> DatabaseReport:
    try:
        with closing(_connect(path)) as connection:
            problems = connection.execute(f"PRAGMA integrity_check({PAGE_PROBLEMS})").fetchall()
            report.page_problems += [text for (text,) in problems if text != "ok"]
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            for table, decode in tables.items():
                if table == "notes" and version < NOTES_SINCE:
                    continue
                for (body,) in connection.execute(f"SELECT body FROM {table}"):  # nosec B608 # nosemgrep: values-written-into-a-statement # a table of ours
                    report.rows += 1
                    try:
                        decode(body)
                    except DAMAGE:
                        report.damaged += 1
    except (sqlite3.Error, UnicodeDecodeError) as error:
        report.page_problems.append(describe_error(error))
    return report


def _connect(path: Path) -> sqlite3.Connection:
    """Open a database to read it, also on a read-only volume.

    There, the index of the write-ahead log cannot be created, which is no damage.
    """
    uri = path.absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=10)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        connection.close()
        if not getattr(error, "sqlite_errorname", "").startswith("SQLITE_CANTOPEN"):
            raise
        return sqlite3.connect(f"{uri}?immutable=1", uri=True)
    return connection


def _decode_all(kind: Any) -> Callable[[bytes], object]:
    return lambda body: [None for _ in decode_parts(body, kind)]


NOTES_SINCE: Final = 2
"""The first version of `resources.db` with notes."""
_SAMPLES: Final[Mapping[str, Callable[[bytes], object]]] = {
    "fresh": decode_points,
    "raw": decode_points,
    "minutes": decode_rollups,
    "hours": decode_rollups,
}
_RESOURCES: Final[Mapping[str, Callable[[bytes], object]]] = {
    "checkpoints": _decode_all(list[Resource]),
    "changes": _decode_all(list[Change]),
    "notes": _decode_all(list[checkpoints.Note]),
}
