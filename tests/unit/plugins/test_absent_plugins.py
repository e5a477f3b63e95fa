"""A plugin whose libraries are not installed may be disabled, and says so where configured."""

import pytest

from almenara.config import ConfigError, Settings
from almenara.plugins import PluginCandidate, PluginRegistry


@pytest.fixture
def plugins() -> PluginRegistry:
    found = PluginRegistry()
    found.load(PluginCandidate("ray", "almenara", "", lambda: None))
    return found


def test_absent_plugin_may_be_disabled(plugins: PluginRegistry) -> None:
    plugins.check(Settings(plugins={"disabled": ["ray"]}))


def test_absent_plugin_settings_are_refused_with_install_hint(plugins: PluginRegistry) -> None:
    with pytest.raises(ConfigError, match=r"plugins\.ray needs .* pip install 'almenara\[ray\]'"):
        plugins.check(Settings(plugins={"ray": {}}))


def test_unknown_plugin_name_is_refused(plugins: PluginRegistry) -> None:
    with pytest.raises(ConfigError, match="not a plugin that is installed"):
        plugins.check(Settings(plugins={"disabled": ["rai"]}))
