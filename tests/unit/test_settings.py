from pathlib import Path

import pytest

from almenara.settings import Settings, SettingsError, load


def test_a_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    path = tmp_path / "almenara.yaml"
    path.write_text("server:\n  port: 9000\n  host: 0.0.0.0\nstorage:\n  dir: /data\n")
    settings = load(path, {"ALMENARA_SERVER__PORT": "9001", "OTHER": "x"})
    assert (settings.server.port, settings.server.host) == (9001, "0.0.0.0")
    assert settings.storage.dir == Path("/data")


def test_without_a_file_the_defaults_hold() -> None:
    assert load(None, {}) == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server:\n  prot: 1\n", "server.prot is not a setting; did you mean port?"),
        ("server:\n  port: 99999\n", "server.port"),
        ("server: 5\n", "server"),
        ("- a\n", "expected `name: value`"),
        ("a: [", "not YAML"),
        ("storge: {}\n", "did you mean storage?"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "almenara.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        load(path, {})
    assert said in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "none.yaml", {})
