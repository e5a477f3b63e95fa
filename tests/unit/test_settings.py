from pathlib import Path

import pytest

from almenara.config import ConfigError, Secret, Settings, load_settings, redact_secrets


def test_a_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    path = tmp_path / "almenara.yaml"
    path.write_text("server:\n  port: 9000\n  host: 0.0.0.0\nstorage:\n  dir: /data\n")
    settings = load_settings(path, {"ALMENARA_SERVER__PORT": "9001", "OTHER": "x"})
    assert (settings.server.port, settings.server.host) == (9001, "0.0.0.0")
    assert settings.storage.dir == Path("/data")


def test_without_a_file_the_defaults_hold() -> None:
    assert load_settings(None, {}) == Settings()


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
    with pytest.raises(ConfigError) as error:
        load_settings(path, {})
    assert said in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml", {})


def test_a_secret_is_one_line_wherever_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "  b3arer-word\n")
    path = tmp_path / "word"
    path.write_text("b3arer-word\r\n")
    file = Secret.parse({"file": str(path)})
    for secret in (Secret.parse({"env": "WORD"}), file, Secret.parse("b3arer-word\n")):
        assert secret.reveal() == "b3arer-word"
    monkeypatch.setenv("WORD", "b3arer-word\nmore")
    for written in ({"env": "WORD"}, "b3arer-word\x00"):
        with pytest.raises(ValueError, match="a secret is one line") as refused:
            Secret.parse(written)
        assert "b3arer" not in str(refused.value)
    # What is not UTF-8 comes from the environment as lone surrogates, which no header can hold.
    monkeypatch.setenv("WORD", "b3arer-\udce9")
    with pytest.raises(
        ValueError, match="the environment variable WORD is not valid Unicode"
    ) as refused:
        Secret.parse({"env": "WORD"})
    assert "b3arer" not in str(refused.value)
    for later, told in (
        (b"b3arer\nword", "one line"),
        (b"\xff", "not UTF-8 text"),
        (b" ", "is empty"),
    ):
        path.write_bytes(later)
        with pytest.raises(OSError, match=told):
            file.reveal()
    path.unlink()
    with pytest.raises(OSError, match="cannot be read: No such file"):
        file.reveal()


@pytest.mark.parametrize("value", ["b3arer-word", "tw'o\nlines", "Schlüssel-€"])
def test_a_secret_is_masked_in_whatever_way_it_is_written(value: str) -> None:
    texts = f"{value} {value!r} {value.encode()!r} {{'a': {value!r}}}"
    assert redact_secrets(texts, [None, Secret.of(value)]).count("***") >= 4
    assert value not in redact_secrets(texts, [Secret.of(value)])
    assert repr(value.encode())[2:-1] not in redact_secrets(texts, [Secret.of(value)])
