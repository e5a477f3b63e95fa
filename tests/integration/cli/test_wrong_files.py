"""Commands with files and folders that cannot be used: one error with a remedy each."""

from pathlib import Path

import pytest

from support.command_line import output_of, run_almenara


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("plugins", "check", "http", "--settings", "list.yaml"),
            "list.yaml is not a YAML file: ",
        ),
        (
            ("plugins", "check", "http", "--settings", "binary"),
            "binary is not a YAML file: 'utf-8' codec can't decode",
        ),
        (
            ("doctor", "--url", "http://127.0.0.1:1", "--token-file", "binary"),
            "The token in binary cannot be read: 'ascii' codec can't decode",
        ),
        (
            ("--config", "almenara.yaml", "storage", "check", "--repair"),
            "Nothing of a database can be read: file is not a database. Restore the last backup",
        ),
        (
            ("demo", "--data-dir", "binary/demo"),
            "The folder binary/demo cannot be created: Not a directory. Set --data-dir",
        ),
    ],
)
def test_file_that_cannot_be_used_is_named(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "almenara.yaml").write_text("storage: {dir: data}\n")
    (tmp_path / "list.yaml").write_text("a: [\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "almenara.db").write_text("garbage")
    done = run_almenara(tmp_path, *arguments)
    output = output_of(done)
    assert done.returncode == 1
    assert "Traceback" not in output
    assert message in output
