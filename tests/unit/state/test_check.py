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
