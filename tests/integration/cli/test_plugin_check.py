"""`almenara plugins check`: settings, plugins of a folder, and what it prints."""

from pathlib import Path

import pytest

from almenara.testing.rules import RULES
from support.command_line import output_of, run_almenara

WEATHER = """
import almenara
import msgspec

class WeatherSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    station: str
    \"\"\"Station to observe.\"\"\"

@almenara.hookimpl
def almenara_settings():
    return WeatherSettings
"""
GONG = """
import almenara
import msgspec
from almenara.hookspecs import DeliveryError, NotifierKind

class GongSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    text: str
    \"\"\"What to say.\"\"\"

class Gong:
    def __init__(self, settings):
        self.settings = settings

    async def notify(self, notification):
        raise DeliveryError(f"no answer to {self.settings.text}")

@almenara.hookimpl
def almenara_notifiers():
    return [NotifierKind(name="gong", settings=GongSettings, create=Gong)]
"""
FAILING = """
import almenara

@almenara.hookimpl
def almenara_sources(settings):
    return {}["missing"]

@almenara.hookimpl
def almenara_processors(settings, context):
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "weather.py").write_text(WEATHER)
    (plugins / "gong.py").write_text(GONG)
    (plugins / "failing.py").write_text(FAILING)
    (plugins / "broken.py").write_text("raise RuntimeError('boom')\n")
    (tmp_path / "almenara.yaml").write_text(
        "plugins_dir: plugins\nplugins: {weather: {station: north}}\n"
    )
    (tmp_path / "settings.yaml").write_text("station: north\n")
    (tmp_path / "receivers.yaml").write_text("gong: {text: ding}\n")
    return tmp_path


def check(folder: Path, *arguments: str) -> tuple[int, str]:
    """The exit status, and the output with its words one space apart."""
    done = run_almenara(folder, *arguments)
    return done.returncode, " ".join(output_of(done).split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "almenara.yaml", "plugin", "check", "weather"),
        ("plugin", "check", "weather", "--config", "almenara.yaml"),
        ("--config", "almenara.yaml", "plugin", "check", "plugins/weather.py"),
        ("plugin", "check", "weather", "--plugins-dir", "plugins", "--settings", "settings.yaml"),
    ],
)
def test_check_uses_the_section_of_the_configuration(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    status, output = check(folder, *arguments)
    assert status == 0, output
    assert f"{len(RULES)} rules: 4 passed, 0 failed, {len(RULES) - 4} skipped" in output


def test_check_reports_missing_settings_once_with_a_remedy(folder: Path) -> None:
    status, output = check(folder, "plugin", "check", "plugins/weather.py")
    assert status == 1
    assert output.count("station is missing") == 1
    assert "`--settings`" in output
    assert "plugins.weather" in output


def test_check_reports_a_plugin_that_cannot_be_imported_once(folder: Path) -> None:
    status, output = check(folder, "plugin", "check", "plugins/broken.py")
    assert status == 1
    assert output.count("boom (broken.py, line 1)") == 1


def test_check_prints_a_reason_to_skip_once(folder: Path) -> None:
    _, output = check(folder, "plugin", "check", "plugins/gong.py")
    assert output.count("it has no processor with these settings") == 1
    assert "`almenara plugin check --receivers FILE`" in output


def test_check_delivers_to_the_receivers_of_a_file(folder: Path) -> None:
    arguments = ("plugin", "check", "plugins/gong.py", "--receivers", "receivers.yaml")
    status, output = check(folder, *arguments)
    assert status == 1
    assert "no answer to ding (gong.py, line 15)" in output


def test_check_names_the_line_where_a_hook_raises(folder: Path) -> None:
    _, output = check(folder, "plugin", "check", "plugins/failing.py")
    assert "KeyError: 'missing' (failing.py, line 6)" in output
    assert "almenara_processors of plugin failing must return a list; it returned int" in output
