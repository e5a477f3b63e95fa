"""`almenara access` where the tokens cannot be stored."""

from pathlib import Path

import pytest

from support.command_line import output_of, run_almenara


@pytest.mark.parametrize("arguments", [("rotate",), ("create", "report"), ("list",)])
def test_access_reports_a_database_that_cannot_be_opened(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "data" / "access.db").mkdir(parents=True)
    (tmp_path / "almenara.yaml").write_text("storage: {dir: data}\n")
    done = run_almenara(tmp_path, "--config", "almenara.yaml", "access", *arguments)
    assert done.returncode == 1
    assert "Traceback" not in output_of(done)
    assert "Almenara may not write to data: unable to open database file" in output_of(done)
    assert "set storage.dir to another folder" in output_of(done)
