"""The registry accepts plugins that keep the contract, and names what is wrong with others."""

from pathlib import Path

import pytest

from almenara.plugins import PluginRegistry, plugins_in_folder


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
