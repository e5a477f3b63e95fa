"""A plugin whose libraries are not installed may be disabled, and says so where configured."""

import pytest

from almenara.plugins import Found, Plugins
from almenara.settings import Settings, SettingsError


@pytest.fixture
def plugins() -> Plugins:
    found = Plugins()
    found.load(Found("ray", "almenara", "", lambda: None))
    return found


def test_it_may_be_named_among_those_to_leave_out(plugins: Plugins) -> None:
    plugins.check(Settings(plugins={"disabled": ["ray"]}))


def test_its_settings_are_refused_with_how_to_install_it(plugins: Plugins) -> None:
    with pytest.raises(SettingsError, match=r"plugins\.ray needs .* pip install 'almenara\[ray\]'"):
        plugins.check(Settings(plugins={"ray": {}}))


def test_a_name_that_nobody_knows_is_still_refused(plugins: Plugins) -> None:
    with pytest.raises(SettingsError, match="not a plugin that is installed"):
        plugins.check(Settings(plugins={"disabled": ["rai"]}))
