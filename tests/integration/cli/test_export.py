"""`almenara export --parquet`, read back with pyarrow and DuckDB."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from almenara.bus.embedded import EmbeddedBus
from almenara.config import SampleSettings, StorageSettings
from almenara.signals import Event, Sample, Severity
from almenara.state.sample_store import SampleStore
from support.bus import make_event, store_and_seal
from support.command_line import output_of, run_almenara

PLUGINS = "plugins: {disabled: [demo, http, kubernetes, nats, prometheus, ray]}\n"
START = 1_790_000_000_000_000
DATA = (
    "null",
    '"line\\nbreak, \\"quotes\\" and \\u0000"',
    '{"n": 12345678901234567890123, "x": 1.0E+30, "y": 0.10, "n": 1}',
    '["\U0001f525", "\\u00e9", ";", "\'", "\\t"]',
    "1.50",
)


def event(number: int) -> Event:
    return make_event(
        number,
        time=START + number,
        type=f"t.{number % 5}",
        severity=Severity.ERROR if number % 7 == 0 else Severity.INFO,
        subject="two\nlines, and a comma" if number % 3 else "",
        correlation=None if number % 2 else f"story-{number}",
        attributes={"namespace": "a", "x": "\r\n"} if number % 4 else {},
        data=msgspec.Raw(DATA[number % len(DATA)].encode()),
        raw=b"\xff\x00" if number % 5 == 0 else None,
        problem="not UTF-8" if number % 5 == 0 else None,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the events above, sealed ones and rows, and with samples."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "almenara.yaml").write_text(f"{PLUGINS}storage: {{dir: data}}\n")
    settings = StorageSettings(dir=folder / "data", hot_events=500, retention_interval=0.02)
    events = [event(number) for number in range(5_000)]

    async def store() -> None:
        await store_and_seal(settings, events)
        async with EmbeddedBus(settings) as bus:
            stored = [sample(number) for number in range(400)]
            await bus.publish(stored, "x")
            store = SampleStore(settings.dir, SampleSettings(), bus)
            async with store, asyncio.TaskGroup() as tasks:
                running = tasks.create_task(store.run())
                await store.caught_up.wait()
                await store.flush()
                running.cancel()
            # What the sample store does not have yet.
            await bus.publish([sample(number) for number in range(400, 500)], "x")

    asyncio.run(store())
    return folder


def sample(number: int) -> Sample:
    time = (datetime.now(UTC).timestamp() - 3_600) // 1 * 1_000_000
    return Sample(
        kind="pod", namespace="a", name=f"p{number % 2}", metric=f"cpu.{number % 2}", unit="1",
        value=number / 3, time=int(time) + number * 1_000_000,
    )  # fmt: skip


def run_export(folder: Path, target: Path, *options: str) -> str:
    done = run_almenara(
        folder, "export", "--config", "almenara.yaml", "--parquet", str(target), *options
    )
    assert done.returncode == 0, output_of(done)
    return output_of(done)


def test_export_writes_every_event_exactly(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    assert "contains 5,000 events" in run_export(folder, path)
    assert path.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [path]
    table = pq.read_table(path)
    assert table.column("sequence").to_pylist() == list(range(1, 5_001))
    assert table.schema.field("time").type == pa.timestamp("us", tz="UTC")
    for number, row in enumerate(table.slice(0, 50).to_pylist() + table.slice(4_950).to_pylist()):
        expected = event(number if number < 50 else 4_900 + number)
        assert row == {
            "sequence": int(expected.id) + 1,
            "time": datetime.fromtimestamp(expected.time / 1e6, UTC),
            "severity": expected.severity.name,
            "severity_number": int(expected.severity),
            "type": expected.type,
            "source": "test",
            "origin": "nats",
            "subject": expected.subject,
            "correlation": expected.correlation,
            "id": expected.id,
            "attributes": list(expected.attributes.items()),
            "data": bytes(expected.data).decode(),
            "problem": expected.problem,
            "raw": expected.raw,
        }


def test_export_is_read_by_duckdb(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    run_export(folder, path, "--severity", "ERROR", "--type", "t.*")
    rows = duckdb.sql(
        "SELECT epoch_us(time), severity_number, type, correlation, data::VARCHAR"
        f" FROM '{path}' ORDER BY sequence"
    ).fetchall()
    assert rows == [
        (each.time, 17, each.type, each.correlation, bytes(each.data).decode())
        for each in map(event, range(0, 5_000, 7))
    ]
    assert duckdb.sql(f"SELECT typeof(data) FROM '{path}' LIMIT 1").fetchall() == [("JSON",)]


def test_export_to_directory_writes_samples_too(folder: Path, tmp_path: Path) -> None:
    output = run_export(folder, tmp_path, "--text", "nowhere", "--metric", "cpu.*")
    assert "contains 0 events" in output
    assert "contains 500 samples" in output
    assert pq.read_table(tmp_path / "events.parquet").num_rows == 0
    samples = read_samples(tmp_path / "samples.parquet")
    assert sorted(each["value"] for each in samples) == [number / 3 for number in range(500)]
    assert {(each["metric"], each["name"], each["unit"], each["origin"]) for each in samples} == {
        ("cpu.0", "p0", "1", "x"),
        ("cpu.1", "p1", "1", "x"),
    }


def test_export_of_samples_is_filtered(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    run_export(folder, path, "--samples", "--name", "p1", "--since", "1w", "--until", "57m")
    values = [each["value"] for each in read_samples(path)]
    assert values
    assert set(values) < {number / 3 for number in range(1, 500, 2)}


def test_export_refuses_wrong_filters_and_existing_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    for options, message in (
        (("--metric", "cpu"), "--metric selects samples"),
        (("--samples", "--type", "t"), "--type selects events"),
        (("--severity", "loud"), "is not a severity"),
    ):
        done = run_almenara(
            folder, "export", "-c", "almenara.yaml", "--parquet", str(path), *options
        )
        assert done.returncode == 1
        assert message in output_of(done)
        assert not list(tmp_path.iterdir())
    path.write_text("mine")
    done = run_almenara(folder, "export", "-c", "almenara.yaml", "--parquet", str(path))
    assert "exists already" in output_of(done)
    assert path.read_text() == "mine"


def read_samples(path: Path) -> list[dict[str, Any]]:
    return duckdb.sql(f"SELECT * FROM '{path}'").arrow().read_all().to_pylist()
