"""The registry accepts plugins that keep the contract, and names what is wrong with others."""

from pathlib import Path

import pytest

from almenara.plugins import PluginError, PluginRegistry, plugins_in_folder


def load(folder: Path, text: str) -> PluginRegistry:
    (folder / "mine.py").write_text(text)
    plugins = PluginRegistry()
    for candidate in plugins_in_folder(folder):
        plugins.load(candidate)
    return plugins


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "def almenara_panels():\n    return []\n",
            "has a function almenara_panels that is not marked as a hook; put @almenara.hookimpl",
        ),
        (
            "import almenara\n@almenara.hookimpl\ndef almenara_panel():\n    return []\n",
            "implements almenara_panel, no such hook; did you mean almenara_panels?",
        ),
        (
            "import almenara\n@almenara.hookimpl\ndef almenara_settings():\n    return dict\n",
            "must return a subclass of msgspec.Struct",
        ),
        ("ALMENARA_API_VERSION = 99\n", "needs version 99 of the plugin API"),
        ("import nowhere_to_be_seen\n", "it cannot be imported: ModuleNotFoundError"),
    ],
)
def test_registry_names_what_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    (info,) = load(tmp_path, text).infos()
    assert info.state == "failed"
    assert reason in (info.error or "")


def test_registry_ignores_imported_hook_specifications(tmp_path: Path) -> None:
    text = (
        "import almenara\nfrom almenara.hookspecs import *\n"
        "@almenara.hookimpl\ndef almenara_panels():\n    return []\n"
    )
    (info,) = load(tmp_path, text).infos()
    assert (info.state, info.hooks) == ("active", ["almenara_panels"])


@pytest.mark.parametrize(
    ("panel", "reason"),
    [
        (
            "EventsPanel(name='a', titel='A', query=EventQuery())",
            "almenara_panels of plugin mine: EventsPanel 'a' has no field 'titel'; did you mean"
            " title? (mine.py, line 6)",
        ),
        (
            "TablePanel(name='a', title='A', query=ResourceQuery(kind='k'))",
            "almenara_panels of plugin mine: TablePanel 'a': Missing required argument 'columns'"
            " (mine.py, line 6)",
        ),
        ("'a'", "almenara_panels of plugin mine must return almenara.hookspecs.Panel"),
    ],
)
def test_hooks_name_panel_field_and_line_of_a_wrong_declaration(
    tmp_path: Path, panel: str, reason: str
) -> None:
    text = (
        "import almenara\nfrom almenara.hookspecs import *\n"
        f"@almenara.hookimpl\ndef almenara_panels():\n    return [\n        {panel}\n    ]\n"
    )
    plugins = load(tmp_path, text)
    with pytest.raises(PluginError) as refused:
        plugins.hooks.panels("mine", None)
    assert reason in str(refused.value)
