"""The Ray plugin keeps the rule about what is unreachable, before a simulated cluster."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from almenara.testing.rules import examine
from support.simulated_ray import simulated_ray


@contextlib.contextmanager
def observed() -> Iterator[dict[str, Any]]:
    with simulated_ray() as settings:
        (cluster,) = json.loads(settings["plugins__ray__clusters"])
        yield {"clusters": [cluster]}


def test_ray_shows_what_is_unreachable_as_unknown() -> None:
    result = examine(
        "ray", observed, "shows what is unreachable as unknown",
        # Jobs that have ended stay as they are.
        last_known={"ray.job": "ray.cluster"},
    )  # fmt: skip
    assert (result.verdict, result.text) == ("passed", "")
