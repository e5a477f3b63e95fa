"""The rules of a good plugin, and the examination of a plugin against them."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from almenara.config import ConfigError
from almenara.errors import describe_error
from almenara.plugins import PluginError
from almenara.plugins.discovery import module_location
from almenara.testing.rules.intakes import (
    accepts_hostile_pieces_of_text,
    refuses_hostile_pushes,
)
from almenara.testing.rules.notifiers import (
    delivers_notifications,
    ends_deliveries_when_cancelled,
    names_its_notifiers,
    shows_no_secret_in_deliveries,
)
from almenara.testing.rules.panels import escapes_what_it_renders
from almenara.testing.rules.processors import (
    derives_the_same_of_late_and_repeated_signals,
    derives_the_same_wherever_it_is_restarted,
    names_its_processors,
    processes_every_signal,
)
from almenara.testing.rules.settings import (
    documents_its_settings,
    keeps_secrets_as_secrets,
    keeps_the_contract,
    shows_no_secret,
    types_its_settings,
)
from almenara.testing.rules.silence import shows_what_is_unreachable_as_unknown
from almenara.testing.rules.sources import (
    deletes_what_disappeared_while_it_was_stopped,
    does_not_block,
    ends_when_cancelled,
    keeps_identity_over_restarts,
    names_its_sources,
    publishes_again_what_another_replica_may_have_changed,
    restarts_after_a_failure_without_repeats,
    runs_again_on_another_event_loop,
)
from almenara.testing.rules.subject import Result, Skip, Subject

__all__ = ["RULES", "Result", "Settings", "examine"]

Settings = Mapping[str, Any] | Callable[[], AbstractContextManager[Mapping[str, Any]]]
LEFTOVER_TIMEOUT: Final = 1.0
"""Seconds that tasks which a source has left running have to end."""

RULES: Final[dict[str, Callable[[Subject], Coroutine[Any, Any, None]]]] = {
    "keeps the contract": keeps_the_contract,
    "documents its settings": documents_its_settings,
    "types its settings": types_its_settings,
    "keeps secrets as secrets": keeps_secrets_as_secrets,
    "names its sources": names_its_sources,
    "ends when cancelled": ends_when_cancelled,
    "runs again on another event loop": runs_again_on_another_event_loop,
    "does not block": does_not_block,
    "keeps identity over restarts": keeps_identity_over_restarts,
    "restarts after a failure without repeats": restarts_after_a_failure_without_repeats,
    "deletes what disappeared while it was stopped": deletes_what_disappeared_while_it_was_stopped,
    "publishes again what another replica may have changed": (
        publishes_again_what_another_replica_may_have_changed
    ),
    "shows what is unreachable as unknown": shows_what_is_unreachable_as_unknown,
    "escapes what it renders": escapes_what_it_renders,
    "shows no secret": shows_no_secret,
    "refuses hostile pushes": refuses_hostile_pushes,
    "accepts hostile pieces of text": accepts_hostile_pieces_of_text,
    "names its processors": names_its_processors,
    "derives the same wherever it is restarted": derives_the_same_wherever_it_is_restarted,
    "derives the same of late and repeated signals": derives_the_same_of_late_and_repeated_signals,
    "processes every signal": processes_every_signal,
    "names its notifiers": names_its_notifiers,
    "delivers notifications": delivers_notifications,
    "ends deliveries when cancelled": ends_deliveries_when_cancelled,
    "shows no secret in deliveries": shows_no_secret_in_deliveries,
}
"""By a sentence about the plugin that keeps the rule. A rule raises `AssertionError` with what is
wrong and what to do, or `Skip` where it does not apply."""


def examine(
    plugin: str,
    settings: Settings | None,
    rule: str,
    receivers: Settings | None = None,
    last_known: Mapping[str, str] | None = None,
) -> Result:
    """Hold a plugin against one rule; whatever the plugin raises is a failure of the rule.

    `plugin` is the name of an installed plugin or the path of one; `receivers` has the settings of
    one receiver of each kind of notifier that is to be examined. `last_known` is explained at
    `almenara.testing.conformance`.
    """
    module = None
    with contextlib.ExitStack() as system, _prepare(receivers) as receiver_trees:
        tree = system.enter_context(_prepare(settings))
        try:
            subject = Subject(plugin, tree, receiver_trees)
            module = subject.plugins.modules[subject.name]
            subject.stop_system = system.close if callable(settings) else None
            subject.last_known = last_known or {}
            _run(RULES[rule](subject))
        except Skip as reason:
            return Result(rule, "skipped", str(reason))
        except (AssertionError, ConfigError, PluginError) as error:
            return Result(rule, "failed", str(error))
        except Exception as error:
            place = module_location(error, module) if module is not None else ""
            described = describe_error(error, with_type=True)
            return Result(rule, "failed", f"it raised {described}{place}")
    return Result(rule, "passed")


def _prepare(settings: Settings | None) -> AbstractContextManager[Mapping[str, Any]]:
    return settings() if callable(settings) else contextlib.nullcontext(settings or {})


def _run(examination: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, which would wait for ever for a source that does not end."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(examination)
    finally:
        leftovers = asyncio.all_tasks(loop)
        for task in leftovers:
            task.cancel()
        if leftovers:
            loop.run_until_complete(asyncio.wait(leftovers, timeout=LEFTOVER_TIMEOUT))
        for task in asyncio.all_tasks(loop):
            # The rule has reported it; asyncio would complain again when it is collected.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
