"""The check of the databases of samples and resources."""

from pathlib import Path

from almenara.state.check import check_state
from support.state import damage_body, store_state


def test_check_reads_every_chunk(tmp_path: Path) -> None:
    assert check_state(tmp_path) == []
    store_state(tmp_path)
    samples, resources = check_state(tmp_path)
    assert samples.is_intact
    assert samples.describe() == "samples.db: 3 chunks are readable."
    assert resources.is_intact
    assert resources.rows == 2


def test_check_counts_damaged_chunks_with_remedy(tmp_path: Path) -> None:
    store_state(tmp_path)
    damage_body(tmp_path / "samples.db", "raw")
    damage_body(tmp_path / "resources.db", "checkpoints")
    samples, resources = check_state(tmp_path)
    assert (samples.rows, samples.damaged) == (3, 1)
    assert "samples.db: 1 chunks are damaged" in samples.describe()
    assert "leave damaged chunks out" in samples.describe()
    assert (resources.rows, resources.damaged) == (2, 1)
    assert "restore a backup" in resources.describe().lower()


def test_check_reports_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "samples.db").write_text("neither a database nor empty " * 100)
    (samples,) = check_state(tmp_path)
    assert not samples.is_intact
    assert "not a database" in samples.describe()


def test_check_reads_databases_on_a_read_only_volume(tmp_path: Path) -> None:
    store_state(tmp_path)
    for name in ("samples.db", "resources.db"):
        # As on such a volume, the index of the write-ahead log cannot be created.
        (tmp_path / f"{name}-shm").symlink_to("absent/index")
    reports = check_state(tmp_path)
    assert [(report.rows, report.is_intact) for report in reports] == [(3, True), (2, True)]
