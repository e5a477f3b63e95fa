"""Loading of settings from a file and from the environment."""

import json
from pathlib import Path

import msgspec
import pytest

from almenara.config import ConfigError, Settings, decode_settings, load_settings
from almenara.config.model import nested_structs


def test_load_settings_prefers_environment_to_file(tmp_path: Path) -> None:
    path = tmp_path / "almenara.yaml"
    path.write_text("server:\n  port: 9000\n  host: 0.0.0.0\nstorage:\n  dir: /data\n")
    settings = load_settings(path, {"ALMENARA_SERVER__PORT": "9001", "OTHER": "x"})
    assert (settings.server.port, settings.server.host) == (9001, "0.0.0.0")
    assert settings.storage.dir == Path("/data")


def test_load_settings_without_file_returns_defaults() -> None:
    assert load_settings(None, {}) == Settings()


RULE = "storage:\n  {}_rules:\n  - match: {}\n    {}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server:\n  prot: 1\n", "server.prot is not a setting; did you mean port?"),
        ("server:\n  port: 99999\n", "server.port"),
        ("server: 5\n", "server"),
        ("- a\n", "expected `name: value`"),
        (
            "storage: {retention_age: 7d}",
            "storage.retention_age: expected a number, found '7d'; times are in seconds,"
            " so write 604800",
        ),
        ("storage: {retention_size: 1.5 GiB}", "sizes are in bytes, so write 1610612736"),
        ("storage: {retention_size: 10GB}", "sizes are in bytes, so write 10000000000"),
        ("server: {tls: 5}", "server.tls: expected `name: value` lines or null, found 5"),
        ("a: [", "not YAML"),
        ("storge: {}\n", "did you mean storage?"),
        (
            RULE.format("ingest", "{type: a}", "keep: 2"),
            "ingest_rules[0].keep: expected a number of at most 1",
        ),
        (
            RULE.format("ingest", "{tpye: a}", "keep: 0"),
            "match.tpye is not a setting; did you mean type?",
        ),
        (
            RULE.format("ingest", "{}", "keep: 0"),
            "ingest_rules[0].match: set origin or type; `type: '>'`",
        ),
        (
            RULE.format("ingest", "{type: a, severity_below: BAD}", "keep: 0"),
            "severity_below: expected one of INFO, WARN, ERROR, FATAL, found 'BAD'",
        ),
        (
            RULE.format("retention", "{type: a}", "age: 9e9"),
            "storage: the age of retention_rules[0] is 9,000,000,000 s, longer than retention_age"
            " (2,592,000 s), after which every event is deleted; raise retention_age, or remove"
            " the rule",
        ),
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


@pytest.mark.parametrize(
    "value",
    ["!s3cr3t-word", "*s3cr3t-word", "&s3cr3t-word x: y", "!s3cr3t!word x", "%s3cr3t-word",
     "s3cr3t-word: a: b", "'s3cr3t-word", "{s3cr3t-word", "@s3cr3t-word", "s3cr3t\x07word",
     "[" * 5000 + "s3cr3t"],
)  # fmt: skip
def test_load_settings_does_not_show_values_of_invalid_yaml(tmp_path: Path, value: str) -> None:
    path = tmp_path / "almenara.yaml"
    path.write_text(f"auth:\n  token: {value}\n")
    for arguments in ((path, {}), (None, {"ALMENARA_AUTH__TOKEN": value})):
        with pytest.raises(ConfigError) as error:
            load_settings(*arguments)
        assert "s3cr3t" not in str(error.value)
        assert "Traceback" not in str(error.value)


class Validated(msgspec.Struct, forbid_unknown_fields=True):
    """Settings that validate themselves."""

    size: int = 1
    text: str = ""

    def __post_init__(self) -> None:
        if self.size > 5:
            raise ValueError("size must be at most 5; lower it")
        if self.text:
            raise KeyError(self.text)


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    """Settings with parts that validate themselves."""

    parts: list[Validated] = []


def test_decode_settings_reports_own_validation_as_written() -> None:
    with pytest.raises(ConfigError) as error:
        decode_settings(Validated, {"size": 9}, place="plugins.mine")
    assert str(error.value) == "plugins.mine: size must be at most 5; lower it"
    with pytest.raises(ConfigError) as error:
        decode_settings(Outer, {"parts": [{}, {"size": 9}]}, place="plugins.mine")
    assert str(error.value) == "plugins.mine.parts[1]: size must be at most 5; lower it"


def test_decode_settings_reports_failing_validation_without_values() -> None:
    with pytest.raises(ConfigError) as error:
        decode_settings(Validated, {"text": "s3cr3t-word"}, place="plugins.mine")
    assert str(error.value) == (
        "plugins.mine: its validation failed with KeyError; report this to the author"
    )


@pytest.mark.parametrize(
    "text",
    [
        "0123",
        "12345678901234567890",
        "1_000",
        "12:30:45",
        "0x1f",
        "2026-01-31",
        "2026-13-45",
        "1e5",
        "-7",
    ],
)
def test_load_settings_reads_secrets_that_look_like_numbers(tmp_path: Path, text: str) -> None:
    path = tmp_path / "almenara.yaml"
    path.write_text(f"auth: {{proxy: {{secret: {text}}}}}\n")
    for arguments in ((path, {}), (None, {"ALMENARA_AUTH__PROXY__SECRET": text})):
        secret = load_settings(*arguments).auth.proxy.secret
        assert secret is not None
        assert secret.reveal() == text


def test_load_settings_keeps_floats_of_the_environment_exact(tmp_path: Path) -> None:
    path = tmp_path / "almenara.yaml"
    path.write_text("auth: {proxy: {secret: 12.50}}\n")
    with pytest.raises(ConfigError, match="looks like a number or a boolean must be in quotes"):
        load_settings(path, {})
    settings = load_settings(
        None, {"ALMENARA_AUTH__PROXY__SECRET": "12.50", "ALMENARA_SERVER__KEEP_ALIVE": "12.50"}
    )
    assert settings.auth.proxy.secret is not None
    assert settings.auth.proxy.secret.reveal() == "12.50"
    assert settings.server.keep_alive == 12.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: {port: 1}\nlog: {}\nserver: {host: a}\n", "`server` is there twice in line 3"),
        ("server:\n  port: 1\n  port: 2\n", "`port` is there twice in line 3, column 3"),
    ],
)
def test_load_settings_refuses_duplicate_keys(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "almenara.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_settings(path, {})


def test_load_settings_accepts_merge_keys(tmp_path: Path) -> None:
    path = tmp_path / "almenara.yaml"
    path.write_text(
        "log: &log {level: debug}\nserver: {port: 1}\nredaction:\n  keys: [a]\n"
        "supervisor: {sources: {a: &limits {burst: 1}, b: {<<: *limits, burst: 2}}}\n"
    )
    sources = load_settings(path, {}).supervisor.sources
    assert (sources["a"].burst, sources["b"].burst) == (1, 2)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"server": {"drain": 5}}, "server.drain .* any more; it is named drain_period now"),
        ({"auth": {"roles": [{"sees": {}}]}}, r"auth.roles\[0\].sees .* named grants now"),
        ({"redaction": {"spare": []}}, "redaction.spare .* named exclude now"),
    ],
)
def test_load_settings_names_the_present_name_of_a_renamed_setting(
    tmp_path: Path, tree: dict[str, object], message: str
) -> None:
    file = tmp_path / "almenara.yaml"
    file.write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=message):
        load_settings(file, {})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"alerting": {"rules": [{"name": "a", "events": {}}]}}, "events .* it belongs under when"),
        ({"server": {"cert": "a"}}, "server.cert .* it belongs under tls"),
    ],
)
def test_load_settings_names_the_section_of_a_setting_that_is_a_level_too_high(
    tmp_path: Path, tree: dict[str, object], message: str
) -> None:
    file = tmp_path / "almenara.yaml"
    file.write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match=message):
        load_settings(file, {})


def test_renamed_settings_exist_under_their_present_names() -> None:
    kinds: list[type[msgspec.Struct]] = [Settings]
    for kind in kinds:
        for field in msgspec.structs.fields(kind):
            kinds += [each for each in nested_structs(field.type) if each not in kinds]
        for former, present in getattr(kind, "RENAMED", {}).items():
            names = {field.encode_name for field in msgspec.structs.fields(kind)}
            assert present in names, kind
            assert former not in names, kind
