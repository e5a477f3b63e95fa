"""A plugin whose libraries are not installed may be disabled, and says so where configured."""

import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from almenara.config import ConfigError, Settings
from almenara.plugins import PluginCandidate, PluginRegistry
from almenara.plugins.discovery import missing_requirements
from support.paths import ROOT


@pytest.fixture
def plugins() -> PluginRegistry:
    matches = PluginRegistry()
    matches.load(PluginCandidate("ray", "almenara", "", lambda: None))
    return matches


def test_absent_plugin_may_be_disabled(plugins: PluginRegistry) -> None:
    plugins.check(Settings(plugins={"disabled": ["ray"]}))


def test_absent_plugin_settings_are_refused_with_install_hint(plugins: PluginRegistry) -> None:
    with pytest.raises(ConfigError, match=r"plugins\.ray needs .* pip install 'almenara\[ray\]'"):
        plugins.check(Settings(plugins={"ray": {}}))


def test_absent_plugin_is_found_by_missing_requirement_of_its_extra(tmp_path: Path) -> None:
    metadata = tmp_path / "almenara_fake-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: almenara-fake\nVersion: 1.0\nProvides-Extra: fake\n"
        "Requires-Dist: msgspec>=0.1\n"
        'Requires-Dist: no-such-library[a]>=2,<3; extra == "fake"\n'
        "Requires-Dist: also-missing; extra == 'other'\n"
        "Requires-Dist: msgspec; extra == 'fake'\n"
    )
    (distribution,) = Distribution.discover(path=[str(tmp_path)])
    assert missing_requirements(distribution, "fake") == ["no-such-library"]
    assert missing_requirements(distribution, "none") == []


def test_every_bundled_plugin_with_libraries_has_an_extra_of_its_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].keys()
    # The plugin of agents reads events that others publish, and needs no library.
    assert project["entry-points"]["almenara"].keys() - {"agents"} <= extras


def test_unknown_plugin_name_is_refused(plugins: PluginRegistry) -> None:
    with pytest.raises(ConfigError, match="not a plugin that is installed"):
        plugins.check(Settings(plugins={"disabled": ["rai"]}))
