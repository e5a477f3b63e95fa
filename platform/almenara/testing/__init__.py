"""What plugin authors test with: the conformance suite, and a source run in memory.

    from almenara.testing import conformance

    test_conformance = conformance("my_plugin")

holds a plugin against the rules of `almenara.testing.rules`. The fixture `run_source`, which
pytest discovers through the entry point, runs a source against a bus in memory and a clock that the
test advances.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from almenara.testing.clock import ManualClock
from almenara.testing.processor_run import ProcessorRun, check_processor
from almenara.testing.rendering import render_panel
from almenara.testing.source_run import SourceRun

if TYPE_CHECKING:
    from almenara.testing.rules import Settings

__all__ = [
    "ManualClock",
    "ProcessorRun",
    "SourceRun",
    "check_processor",
    "conformance",
    "render_panel",
]


def conformance(
    plugin: str,
    settings: "Settings | None" = None,
    receivers: "Settings | None" = None,
    last_known: Mapping[str, str] | None = None,
) -> Callable[..., Any]:
    """A test function that holds a plugin against each rule.

    `plugin` is the name of an installed plugin or the path of one. `settings` is its part of the
    configuration, or a function that returns a context manager of it, which may start and stop the
    system that the plugin observes. `receivers` has, in the same way, the settings of one receiver
    of each kind of notifier that the plugin offers.

    `last_known` has the kinds whose resources keep their status while the system is unreachable,
    because a resource of another kind shows that it is: `{"cluster.*": "cluster"}`.
    """
    import pytest

    from almenara.testing.rules import RULES, examine

    @pytest.mark.parametrize("rule", list(RULES))
    def test_conformance(rule: str) -> None:
        result = examine(plugin, settings, rule, receivers, last_known)
        if result.verdict == "skipped":
            pytest.skip(result.text)
        if result.verdict == "failed":
            pytest.fail(result.text, pytrace=False)

    return test_conformance
