"""The routing tree: which receivers an alert goes to, and in which groups."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Final

import msgspec

from almenara.alerting.matchers import LABEL_NAME, Matcher, match_all, parse_matcher
from almenara.config import ConfigError, RouteSettings, suggest
from almenara.hookspecs import Alert
from almenara.units import SECOND

ROOT: Final = "alerting.route"
"""The path of the root in the configuration."""
ALL_LABELS: Final = "..."
"""The entry of `group_by` that stands for all labels."""
DIRECT: Final = "notify:"
"""Starts the key of the route of alerts whose rule names its receivers."""
DEFAULT_GROUP_BY: Final = ("rule",)
DEFAULT_GROUP_WAIT: Final = 30.0
DEFAULT_GROUP_INTERVAL: Final = 300.0
DEFAULT_REPEAT_INTERVAL: Final = 4 * 3600.0


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A route with everything that it inherits. Times in microseconds."""

    key: str
    """Identifies the route by its matchers, so that groups survive changes of other routes."""
    matchers: tuple[Matcher, ...] = ()
    receivers: tuple[str, ...] = ()
    proceed: bool = False
    group_by: tuple[str, ...] = DEFAULT_GROUP_BY
    group_wait: int = int(DEFAULT_GROUP_WAIT * SECOND)
    group_interval: int = int(DEFAULT_GROUP_INTERVAL * SECOND)
    repeat_interval: int = int(DEFAULT_REPEAT_INTERVAL * SECOND)
    routes: "tuple[Route, ...]" = ()

    def select(self, labels: Mapping[str, str]) -> "list[Route]":
        """Return the deepest routes that match labels; empty where this one does not."""
        if not match_all(self.matchers, labels):
            return []
        selected: list[Route] = []
        for route in self.routes:
            matching = route.select(labels)
            selected += matching
            if matching and not route.proceed:
                break
        return selected or [self]

    def group_labels(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Return the labels that alerts of this route are grouped by."""
        if ALL_LABELS in self.group_by:
            return dict(sorted(labels.items()))
        return {name: labels[name] for name in self.group_by if name in labels}

    def walk(self) -> "Iterator[Route]":
        """Yield this route and all below it."""
        yield self
        for route in self.routes:
            yield from route.walk()


def routing_labels(alert: Alert) -> dict[str, str]:
    """Return the labels of an alert by which it is routed: its own, `rule` and `severity`."""
    return {"severity": alert.severity.name.lower(), **alert.labels, "rule": alert.rule}


def routes_of(root: Route, alert: Alert, notify: Collection[str]) -> list[Route]:
    """Return the routes of an alert: one to the receivers that its rule names, or those of the
    tree."""
    if not notify:
        return root.select(routing_labels(alert))
    names = tuple(sorted(set(notify)))
    return [
        msgspec.structs.replace(
            root, key=f"{DIRECT}{','.join(names)}", receivers=names, routes=(), matchers=()
        )
    ]


def group_key(route: Route, labels: Mapping[str, str]) -> str:
    """Return the key of the group that alerts with these labels belong to."""
    identity = msgspec.json.encode([route.key, sorted(route.group_labels(labels).items())])
    return hashlib.blake2b(identity, digest_size=10).hexdigest()


def compile_routes(settings: RouteSettings, receivers: Collection[str]) -> Route:
    """Return the routing tree of the configuration, whose root matches every alert.

    `receivers` are the names of those that exist. Raises `ConfigError` with the path of what is
    wrong.
    """
    if settings.matchers or settings.proceed:
        name = "matchers" if settings.matchers else "continue"
        raise ConfigError(
            f"{ROOT}.{name}: the root takes all alerts that no route below it matches; move"
            f" {name} to an entry of {ROOT}.routes"
        )
    if receivers and not settings.receivers:
        raise ConfigError(
            f"{ROOT}.receivers: the root must name a receiver; {suggest('', receivers)}"
        )
    return _compile(settings, ROOT, Route(key="{}"), "{}", frozenset(receivers))


def _compile(
    settings: RouteSettings, path: str, above: Route, key: str, receivers: frozenset[str]
) -> Route:
    for index, name in enumerate(settings.receivers or ()):
        if name not in receivers:
            raise ConfigError(
                f"{path}.receivers[{index}]: {name!r} is not a receiver;"
                f" {suggest(name, sorted(receivers))}"
            )
    for index, label in enumerate(settings.group_by or ()):
        if label != ALL_LABELS and not re.fullmatch(LABEL_NAME, label):
            raise ConfigError(
                f"{path}.group_by[{index}]: {label!r} is not the name of a label; use `...` for all"
                " labels"
            )
    inherited = msgspec.structs.replace(
        above,
        key=key,
        matchers=_parse_matchers(settings.matchers, path),
        receivers=above.receivers if settings.receivers is None else tuple(settings.receivers),
        proceed=settings.proceed,
        group_by=above.group_by if settings.group_by is None else tuple(settings.group_by),
        group_wait=_microseconds(settings.group_wait, above.group_wait),
        group_interval=_microseconds(settings.group_interval, above.group_interval),
        repeat_interval=_microseconds(settings.repeat_interval, above.repeat_interval),
        routes=(),
    )
    routes: list[Route] = []
    keys: Counter[str] = Counter()
    for index, below in enumerate(settings.routes):
        matchers = _parse_matchers(below.matchers, f"{path}.routes[{index}]")
        step = "{" + ",".join(sorted(map(str, matchers))) + "}"
        keys[step] += 1
        if keys[step] > 1:
            step += f"#{keys[step]}"
        routes.append(
            _compile(below, f"{path}.routes[{index}]", inherited, f"{key}/{step}", receivers)
        )
    return msgspec.structs.replace(inherited, routes=tuple(routes))


def _parse_matchers(texts: list[str], path: str) -> tuple[Matcher, ...]:
    matchers = []
    for index, text in enumerate(texts):
        try:
            matchers.append(parse_matcher(text))
        except ValueError as error:
            raise ConfigError(f"{path}.matchers[{index}]: {error}") from None
    return tuple(matchers)


def _microseconds(seconds: float | None, inherited: int) -> int:
    return inherited if seconds is None else int(seconds * SECOND)
