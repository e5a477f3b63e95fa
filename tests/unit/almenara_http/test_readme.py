"""The configuration in the README of the HTTP checks is valid."""

import pytest
import yaml

from almenara.config import decode_settings
from almenara_http.settings import HttpSettings
from support.paths import ROOT


def test_configuration_in_the_readme_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN", "x")
    text = (ROOT / "plugins/almenara_http/README.md").read_text("utf-8")
    example = text.partition("```yaml\n")[2].partition("```")[0]
    tree = yaml.safe_load(example)["plugins"]["http"]
    settings = decode_settings(HttpSettings, tree, place="plugins.http")
    assert len(settings.checks) == 3
    assert settings.checks[2].conditions
