"""`almenara export`: write events and samples into Parquet files."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import rich_click as click

from almenara.bus import Record
from almenara.bus.codec import OBSERVATION_COLUMNS, RowDecoder
from almenara.bus.schema import connect
from almenara.bus.stored_log import StoredLog
from almenara.bus.writer_thread import DATABASE
from almenara.cli.common import (
    CONFIG_OPTION,
    CommandError,
    copy_error,
    override_options,
    read_settings,
    run_async,
)
from almenara.cli.event_filter import EVENT_OPTIONS, SHARED_OPTIONS, add_options
from almenara.cli.parquet_file import (
    Columns,
    ParquetFile,
    event_schema,
    import_pyarrow,
    sample_schema,
)
from almenara.errors import AlmenaraError
from almenara.history.filter import Filter, parse_moment
from almenara.history.queries import History
from almenara.patterns import compile_pattern
from almenara.signals import Event, Sample
from almenara.state import sample_schema as sample_store
from almenara.state.sample_codec import Points
from almenara.state.sample_export import SampleReader
from almenara.state.sample_schema import SeriesName, StoredSeries, name_series
from almenara.units import MILLISECOND

EVENTS_FILE: Final = "events.parquet"
SAMPLES_FILE: Final = "samples.parquet"
EVENTS_AT_ONCE: Final = 4_000
SAMPLES_AT_ONCE: Final = 50_000
OBSERVATIONS_AT_ONCE: Final = 2_000
SAMPLE_OPTIONS: Final = {
    "metric": "Pattern of the metric.",
    "kind": "Pattern of the kind of resource.",
    "namespace": "Pattern of the namespace.",
    "name": "Pattern of the name of the resource.",
}
END_OF_TIME: Final = 2**62

SeriesTest = Callable[[SeriesName], bool]


@click.command()
@CONFIG_OPTION
@click.option(
    "--parquet",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A new file for events; or an existing directory, for events and samples.",
)
@click.option("--samples", "is_samples", is_flag=True, help="Write samples into the file.")
@add_options(SHARED_OPTIONS)
@add_options(EVENT_OPTIONS, "Events: ")
@add_options(SAMPLE_OPTIONS, "Samples: ")
@click.pass_context
def export(
    context: click.Context,
    /,
    config: Path | None,
    target: Path,
    is_samples: bool,
    **options: str | None,
) -> None:
    """Write events and samples into Parquet files, which DuckDB, pandas, Polars and Spark read.

    The databases in `storage.dir` are read, also while Almenara runs; signing in is not needed.
    Events are those that were stored when the export started, oldest first. Of samples, single
    ones are written and no rollups, so those of `samples.retention_age`.

    It needs pyarrow: `pip install 'almenara[parquet]'`.
    """
    override_options(context, config=config)
    folder = read_settings(context).storage.dir
    filters = {name: value for name, value in options.items() if value}
    is_directory = target.is_dir()
    if not is_directory:
        _refuse(filters, EVENT_OPTIONS if is_samples else SAMPLE_OPTIONS, is_samples)
    import_pyarrow()
    try:
        chosen = Filter.from_query(filters)
        if is_directory or not is_samples:
            path = target / EVENTS_FILE if is_directory else target
            run_async(lambda: _export_events(folder, path, chosen))
        if is_directory or is_samples:
            path = target / SAMPLES_FILE if is_directory else target
            _export_samples(folder, path, filters)
    except (AlmenaraError, ValueError, OSError, sqlite3.Error) as error:
        raise copy_error("export", error, folder, target) from None


def _refuse(filters: dict[str, str], names: Iterable[str], is_samples: bool) -> None:
    if wrong := [f"--{name}" for name in names if name in filters]:
        remedy = "leave out --samples" if is_samples else "add --samples"
        other = "events" if is_samples else "samples"
        raise CommandError(
            f"{', '.join(wrong)} selects {other}; {remedy}, or name an existing directory for both"
        )


async def _export_events(folder: Path, path: Path, chosen: Filter) -> None:
    async with StoredLog(folder) as log:
        history = History(log)
        cursor, end = 0, await history.last_sequence() + 1
        with ParquetFile(path, event_schema()) as file:
            while page := await history.events(chosen, after=cursor, limit=EVENTS_AT_ONCE):
                # The newest comes first.
                cursor = page[0].sequence
                file.write(_event_columns([each for each in page[::-1] if each.sequence < end]))
                if cursor >= end:
                    break
        _report(path, file.rows, "events", log.decoder.skipped, "events")


def _event_columns(records: Sequence[Record]) -> Columns:
    rows = [
        (record.sequence, record.signal) for record in records if isinstance(record.signal, Event)
    ]
    columns: dict[str, list[Any]] = {
        name: [getattr(event, name) for _, event in rows]
        for name in ("time", "type", "source", "origin", "subject", "correlation", "id", "problem",
                     "raw")
    }  # fmt: skip
    return {
        **columns,
        "sequence": [sequence for sequence, _ in rows],
        "severity": [event.severity.name for _, event in rows],
        "severity_number": [int(event.severity) for _, event in rows],
        "attributes": [list(event.attributes.items()) for _, event in rows],
        # The text as it is stored: decoding would change numbers and repeated keys.
        "data": [bytes(event.data).decode() for _, event in rows],
    }


def _export_samples(folder: Path, path: Path, filters: dict[str, str]) -> None:
    since = parse_moment("since", filters["since"]) if "since" in filters else -END_OF_TIME
    until = parse_moment("until", filters["until"]) if "until" in filters else END_OF_TIME
    bounds = -(-since // MILLISECOND), -(-until // MILLISECOND)
    test = _series_test(filters)
    position = damaged = 0
    with ParquetFile(path, sample_schema()) as file:
        stored = folder / sample_store.DATABASE
        if stored.exists():
            with closing(_open_samples(stored)) as connection:
                connection.execute("BEGIN")
                reader = SampleReader(connection)
                position = reader.position
                _write_samples(file, reader.read(test, *bounds))
                damaged = reader.damaged
        _write_samples(file, _read_log(folder / DATABASE, position, test, *bounds))
    _report(path, file.rows, "samples", damaged, "chunks")


def _series_test(filters: dict[str, str]) -> SeriesTest:
    patterns = [
        (name, text, compile_pattern(text))
        for name in (*SAMPLE_OPTIONS, "origin")
        if (text := filters.get(name)) is not None and text != ">"
    ]

    def test(series: SeriesName) -> bool:
        return all(
            getattr(series, name) == text
            if expression is None
            else expression.fullmatch(getattr(series, name)) is not None
            for name, text, expression in patterns
        )

    return test


def _open_samples(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _read_log(
    path: Path, position: int, test: SeriesTest, since: int, until: int
) -> Iterator[tuple[StoredSeries, Points]]:
    """Yield the samples of the log that the sample store does not have yet."""
    if not path.exists():
        return
    decoder = RowDecoder(is_quiet=True)
    with closing(connect(path, writable=False)) as connection:
        connection.execute("BEGIN")
        while rows := connection.execute(
            f"SELECT {OBSERVATION_COLUMNS} FROM observations WHERE sequence > ?"  # nosec B608 # constant fragments, bound values
            " ORDER BY sequence LIMIT ?",
            (position, OBSERVATIONS_AT_ONCE),
        ).fetchall():
            position = rows[-1][0]
            for record in decoder.observations(rows):
                sample = record.signal
                if not isinstance(sample, Sample):
                    continue
                series, time = name_series(sample), sample.time // MILLISECOND
                if since <= time < until and test(series):
                    yield StoredSeries(series, sample.unit), Points([time], [sample.value])


def _write_samples(file: ParquetFile, parts: Iterator[tuple[StoredSeries, Points]]) -> None:
    columns: dict[str, list[Any]] = {field.name: [] for field in sample_schema()}
    for series, points in parts:
        count = len(points.times)
        columns["time"] += points.times
        columns["value"] += points.values
        columns["unit"] += [series.unit] * count
        for name in SeriesName._fields:
            columns[name] += [getattr(series.name, name)] * count
        if len(columns["time"]) >= SAMPLES_AT_ONCE:
            file.write(columns)
            columns = {name: [] for name in columns}
    if columns["time"]:
        file.write(columns)


def _report(path: Path, rows: int, what: str, damaged: int, unit: str) -> None:
    click.echo(f"{path} contains {rows:,} {what}.")
    if damaged:
        click.echo(
            f"{damaged:,} {unit} are damaged and were left out; run `almenara storage check`.",
            err=True,
        )
