"""Secrets: how they are read and redacted."""

from pathlib import Path

import pytest

from almenara.config import Secret, redact_secrets


def test_secret_is_one_line_from_every_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "  b3arer-word\n")
    path = tmp_path / "word"
    path.write_text("b3arer-word\r\n")
    file = Secret.parse({"file": str(path)})
    for secret in (Secret.parse({"env": "WORD"}), file, Secret.parse("b3arer-word\n")):
        assert secret.reveal() == "b3arer-word"
    monkeypatch.setenv("WORD", "b3arer-word\nmore")
    for setting in ({"env": "WORD"}, "b3arer-word\x00"):
        with pytest.raises(ValueError, match="a secret is one line") as error:
            Secret.parse(setting)
        assert "b3arer" not in str(error.value)
    # Invalid UTF-8 in the environment becomes lone surrogates, which no header can contain.
    monkeypatch.setenv("WORD", "b3arer-\udce9")
    with pytest.raises(
        ValueError, match="the environment variable WORD is not valid Unicode"
    ) as error:
        Secret.parse({"env": "WORD"})
    assert "b3arer" not in str(error.value)
    for content, message in (
        (b"b3arer\nword", "one line"),
        (b"\xff", "not UTF-8 text"),
        (b" ", "is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(OSError, match=message):
            file.reveal()
    path.unlink()
    with pytest.raises(OSError, match="cannot be read: No such file"):
        file.reveal()


@pytest.mark.parametrize("value", ["b3arer-word", "tw'o\nlines", "Schlüssel-€"])
def test_redact_secrets_replaces_every_escaped_form(value: str) -> None:
    texts = f"{value} {value!r} {value.encode()!r} {{'a': {value!r}}}"
    assert redact_secrets(texts, [None, Secret.of(value)]).count("***") >= 4
    assert value not in redact_secrets(texts, [Secret.of(value)])
    assert repr(value.encode())[2:-1] not in redact_secrets(texts, [Secret.of(value)])


@pytest.mark.parametrize("kept", range(12))
def test_redact_secrets_replaces_the_beginning_of_one_that_was_cut(kept: int) -> None:
    secret = "b3arer-word"
    text = redact_secrets(f"it answers {secret[:kept]}\u2026", [Secret.of(secret)])
    assert text == f"it answers {'***' if kept >= 4 else secret[:kept]}\u2026"
    assert redact_secrets("it answers b3arer", [Secret.of(secret)]) == "it answers b3arer"
