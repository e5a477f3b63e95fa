"""When a snapshot is due."""

from pathlib import Path

import pytest

from almenara.bus import SnapshotStatus
from almenara.bus.snapshot_writer import EARLIEST, SnapshotRecord, SnapshotWriter
from almenara.config import BusSettings
from almenara.shared_log import LogBounds
from almenara.units import HOUR, SECOND
from support.memory_log import LogView, MemoryLog

START = 1_767_225_600_000_000


class Source:
    """A log from message 4,900 to 5,000."""

    snapshot: SnapshotStatus | None = None
    bounds = LogBounds("memory", 4_900, 5_000)
    applied = 5_000

    async def load(self, plugin: str, key: str) -> bytes | None:
        raise NotImplementedError


class Times:
    def __init__(self) -> None:
        self.system, self.steady = START, 0.0


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def writer(tmp_path: Path, times: Times) -> SnapshotWriter:
    settings = BusSettings(snapshot_interval=3_600)
    log = LogView(MemoryLog())
    return SnapshotWriter(tmp_path, log, settings, "a", lambda: times.system, lambda: times.steady)


@pytest.mark.parametrize(
    ("created", "resume_at", "is_due"),
    [
        (START - HOUR, 4_990, True),
        (START - HOUR + 1, 4_990, False),
        # The log starts soon after it, or has started already.
        (START - int(EARLIEST * SECOND), 4_000, True),
        (START - int(EARLIEST * SECOND) + 1, 4_000, False),
        # Nothing has followed but the record.
        (START - HOUR, 5_000, False),
        # The clock of its writer was ahead.
        (START + 24 * HOUR, 4_000, True),
        (START + 24 * HOUR, 4_990, True),
        (START + 24 * HOUR, 5_000, False),
    ],
)
def test_snapshot_is_due(
    writer: SnapshotWriter, created: int, resume_at: int, is_due: bool
) -> None:
    assert writer.is_due(SnapshotRecord(created, resume_at), Source()) is is_due


def test_snapshots_of_a_writer_whose_clock_goes_back_have_a_distance(
    writer: SnapshotWriter, times: Times
) -> None:
    record = SnapshotRecord(START, 4_990)
    times.system, times.steady = START - HOUR, 1_000.0
    assert writer.is_due(record, Source())
    writer.written_at = times.steady
    times.steady += EARLIEST - 1
    assert not writer.is_due(record, Source())
    times.steady += 1
    assert writer.is_due(record, Source())
