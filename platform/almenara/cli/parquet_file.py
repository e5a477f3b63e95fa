"""Tables in Parquet files, written with pyarrow in constant memory."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from almenara.bus.schema import create_private
from almenara.cli.common import CommandError

if TYPE_CHECKING:
    import pyarrow

ROWS_IN_GROUP: Final = 122_880
"""Rows of a row group, which readers load, skip and distribute whole: the default of DuckDB."""
BYTES_IN_GROUP: Final = 64 * 1024**2
"""Bytes of a row group in memory, for tables with long payloads."""
COMPRESSION: Final = "zstd"

Columns = Mapping[str, Sequence[Any]]


def import_pyarrow() -> Any:
    """Return the library. Raises `CommandError` where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CommandError(
            "Parquet needs pyarrow, which is not installed: pip install 'almenara[parquet]'. The"
            " container image does not have it, because it takes 170 MB."
        ) from None
    return pyarrow


def event_schema() -> "pyarrow.Schema":
    """Return the columns of events."""
    pa = import_pyarrow()
    return pa.schema(
        [
            pa.field("sequence", pa.int64(), nullable=False),
            pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field("severity", pa.string(), nullable=False),
            pa.field("severity_number", pa.int8(), nullable=False),
            pa.field("type", pa.string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("origin", pa.string(), nullable=False),
            pa.field("subject", pa.string(), nullable=False),
            pa.field("correlation", pa.string()),
            pa.field("id", pa.string(), nullable=False),
            pa.field("attributes", pa.map_(pa.string(), pa.string()), nullable=False),
            pa.field("data", pa.json_(), nullable=False),
            pa.field("problem", pa.string()),
            pa.field("raw", pa.binary()),
        ]
    )


def sample_schema() -> "pyarrow.Schema":
    """Return the columns of samples."""
    pa = import_pyarrow()
    texts = ("metric", "unit", "kind", "namespace", "name", "origin")
    return pa.schema(
        [
            pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
            *(pa.field(name, pa.string(), nullable=False) for name in texts),
            pa.field("value", pa.float64(), nullable=False),
        ]
    )


class ParquetFile:
    """A new file that has its name once it is complete. Use as a context manager.

    Raises `FileExistsError` where the file exists.
    """

    def __init__(self, path: Path, schema: "pyarrow.Schema") -> None:
        if path.exists():
            raise FileExistsError(f"{path} exists already; name a new file")
        self.rows = 0
        self._pa = import_pyarrow()
        self._path, self._schema = path, schema
        self._unfinished = path.with_name(f"{path.name}.part")
        self._batches: list[pyarrow.RecordBatch] = []
        self._pending_rows = self._pending_bytes = 0

    def __enter__(self) -> Self:
        self._unfinished.unlink(missing_ok=True)
        create_private(self._unfinished)
        self._writer = self._pa.parquet.ParquetWriter(
            self._unfinished, self._schema, compression=COMPRESSION
        )
        return self

    def write(self, columns: Columns) -> None:
        """Add rows, given as the values of each column."""
        arrays = [self._array(columns[field.name], field.type) for field in self._schema]
        batch = self._pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._batches.append(batch)
        self._pending_rows += batch.num_rows
        self._pending_bytes += batch.nbytes
        if self._pending_rows >= ROWS_IN_GROUP or self._pending_bytes >= BYTES_IN_GROUP:
            self._write_group()

    def _array(self, values: Sequence[Any], kind: "pyarrow.DataType") -> "pyarrow.Array":
        if isinstance(kind, self._pa.BaseExtensionType):
            return self._pa.ExtensionArray.from_storage(
                kind, self._pa.array(values, kind.storage_type)
            )
        return self._pa.array(values, kind)

    def _write_group(self) -> None:
        table = self._pa.Table.from_batches(self._batches, self._schema)
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self.rows += table.num_rows
        self._batches, self._pending_rows, self._pending_bytes = [], 0, 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None and self._batches:
                self._write_group()
            self._writer.close()
            if error is None:
                with self._unfinished.open("rb") as file:
                    os.fsync(file.fileno())
                self._unfinished.rename(self._path)
        finally:
            self._unfinished.unlink(missing_ok=True)
