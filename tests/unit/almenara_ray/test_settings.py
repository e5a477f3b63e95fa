"""The settings of the Ray plugin."""

from typing import Any

import pytest

from almenara.config import ConfigError, decode_settings
from almenara_ray.settings import RaySettings


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"name": "a b", "url": "http://x"}, "name of a cluster must be letters"),
        ({"name": "a", "url": "ftp://x"}, "must start with http:// or https://"),
        (
            {"name": "a", "url": "http://u:secret-word@x"},
            "must not contain a user name or password",
        ),
        ({"name": "a", "url": "http://x", "token": {"env": "NOT_SET"}}, "NOT_SET is not set"),
        ({"name": "a", "url": "http://x", "tokn": "b"}, "token"),
    ],
)
def test_invalid_cluster_settings_are_rejected_with_a_remedy(
    tree: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        decode_settings(RaySettings, {"clusters": [tree]}, place="plugins.ray")
    assert reason in str(refused.value)
    assert "secret-word" not in str(refused.value)


def test_duplicate_cluster_names_are_rejected() -> None:
    tree = {"clusters": [{"name": "a", "url": "http://x"}, {"name": "a", "url": "http://y"}]}
    with pytest.raises(ConfigError, match="two entries named 'a'"):
        decode_settings(RaySettings, tree, place="plugins.ray")
