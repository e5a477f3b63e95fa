"""Loading of settings from a file and from the environment."""

from pathlib import Path

import pytest

from almenara.config import ConfigError, Settings, load_settings


def test_load_settings_prefers_environment_to_file(tmp_path: Path) -> None:
    path = tmp_path / "almenara.yaml"
    path.write_text("server:\n  port: 9000\n  host: 0.0.0.0\nstorage:\n  dir: /data\n")
    settings = load_settings(path, {"ALMENARA_SERVER__PORT": "9001", "OTHER": "x"})
    assert (settings.server.port, settings.server.host) == (9001, "0.0.0.0")
    assert settings.storage.dir == Path("/data")


def test_load_settings_without_file_returns_defaults() -> None:
    assert load_settings(None, {}) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server:\n  prot: 1\n", "server.prot is not a setting; did you mean port?"),
        ("server:\n  port: 99999\n", "server.port"),
        ("server: 5\n", "server"),
        ("- a\n", "expected `name: value`"),
        ("a: [", "not YAML"),
        ("storge: {}\n", "did you mean storage?"),
    ],
)
def test_load_settings_reports_path_of_wrong_setting(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "almenara.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_settings(path, {})
    assert message in str(error.value)


def test_load_settings_reports_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "missing.yaml", {})
