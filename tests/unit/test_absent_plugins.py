"""A plugin whose libraries are not installed may be disabled, and says so where configured."""

import pytest

from almenara.config import ConfigError, Settings
from almenara.plugins import PluginCandidate, PluginRegistry


@pytest.fixture
def plugins() -> PluginRegistry:
    found = PluginRegistry()
    found.load(PluginCandidate("ray", "almenara", "", lambda: None))
    return found


def test_it_may_be_named_among_those_to_leave_out(plugins: PluginRegistry) -> None:
    plugins.check(Settings(plugins={"disabled": ["ray"]}))


def test_its_settings_are_refused_with_how_to_install_it(plugins: PluginRegistry) -> None:
    with pytest.raises(ConfigError, match=r"plugins\.ray needs .* pip install 'almenara\[ray\]'"):
        plugins.check(Settings(plugins={"ray": {}}))


def test_a_name_that_nobody_knows_is_still_refused(plugins: PluginRegistry) -> None:
    with pytest.raises(ConfigError, match="not a plugin that is installed"):
        plugins.check(Settings(plugins={"disabled": ["rai"]}))
