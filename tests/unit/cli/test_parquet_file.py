"""Parquet files: groups of bounded size, and nothing left of a file that failed."""

from pathlib import Path
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest

from almenara.cli.parquet_file import Columns, ParquetFile, sample_schema


def make_rows(first: int, count: int) -> Columns:
    texts = dict.fromkeys(("metric", "unit", "kind", "namespace", "name", "origin"), ["x"] * count)
    return {
        **texts, "time": list(range(first, first + count)), "value": [0.5] * count,
    }  # fmt: skip


def group_sizes(path: Path) -> list[int]:
    metadata = pq.ParquetFile(path).metadata
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def test_rows_are_written_in_groups(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    with (
        patch("almenara.cli.parquet_file.ROWS_IN_GROUP", 100),
        ParquetFile(path, sample_schema()) as file,
    ):
        for first in range(0, 250, 50):
            file.write(make_rows(first, 50))
    assert file.rows == 250
    assert group_sizes(path) == [100, 100, 50]
    assert pq.read_table(path).column("time").cast("int64").to_pylist() == list(range(250))


def test_long_rows_are_written_in_smaller_groups(tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    with (
        patch("almenara.cli.parquet_file.BYTES_IN_GROUP", 1),
        ParquetFile(path, sample_schema()) as file,
    ):
        file.write(make_rows(0, 10))
        file.write(make_rows(10, 20))
    assert group_sizes(path) == [10, 20]


def test_failed_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ParquetFile(tmp_path / "file", sample_schema()) as file:
        file.write({"time": [1]})
    assert list(tmp_path.iterdir()) == []
