"""What of the fleet somebody may see: one value that narrows history, resources and channels."""

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, Self

import msgspec

from almenara.patterns import compile_pattern
from almenara.signals import Event, Resource, Signal

ACCESS_LOG: Final = "almenara/access"
"""The origin of events about who signed in and what was refused."""
NAMESPACE: Final = "namespace"
"""The attribute of an event that names the namespace of what it is about."""
LABELS: Final = "labels"
"""The attribute of an event, `a=b,c=d`, and the part of a resource's state, with its labels."""

Share = Literal["whole", "part", "none"]


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Signals that somebody may see: those that fit every part that is not empty.

    A signal that has no such part does not fit: a grant with types shows events alone, and one
    with namespaces nothing that is in none.
    """

    sources: tuple[str, ...] = ()
    """Names of sources, `nats`, or patterns of origins, `nats/PLANNING_*`."""
    types: tuple[str, ...] = ()
    """Patterns of event types."""
    namespaces: tuple[str, ...] = ()
    """Names or patterns of namespaces."""
    labels: tuple[tuple[str, str], ...] = ()
    """Labels that what a signal is about must all have."""

    @property
    def origins(self) -> tuple[str, ...]:
        """The patterns of origins that `sources` stands for."""
        return tuple(it for text in self.sources for it in _origins(text))

    def narrowed(self, by: Self) -> Self | None:
        """What both show; None where that is nothing, or cannot be told from their patterns."""
        parts: dict[str, tuple[Any, ...]] = {}
        for name in ("sources", "types", "namespaces"):
            ours, theirs = getattr(self, name), getattr(by, name)
            if ours and not all(_within(name, it, ours) for it in theirs):
                return None
            parts[name] = theirs or ours
        labels = tuple(sorted({*self.labels, *by.labels}))
        return msgspec.structs.replace(self, labels=labels, **parts)


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody may see: all that any of the grants shows."""

    grants: tuple[Grant, ...] = (Grant(),)
    access_log: bool = True
    """Whether the events about who signed in are among it."""
    guarded: tuple[str, ...] = ()
    """Sources whose signals are seen only in `namespaces`, whatever the grants say."""
    namespaces: tuple[str, ...] = ()
    """Namespaces of those sources; the empty name stands for what belongs to the cluster."""
    rights: tuple[tuple[str, str], ...] = ()
    """Further rights there, `get pods/log`, each with the namespace in which it is had."""

    @property
    def is_full(self) -> bool:
        """Whether nothing is kept back."""
        return self is FULL_SCOPE or (
            self.access_log and not self.guarded and Grant() in self.grants
        )

    @property
    def sees_all_sources(self) -> bool:
        """Whether it keeps nothing back of what sources say."""
        return not self.guarded and Grant() in self.grants

    @property
    def key(self) -> str:
        """What tells channels of different scopes apart; empty for everything."""
        return _key(self)

    def delegate(self, wanted: Grant) -> list[Grant]:
        """The grants of somebody else who is to see what `wanted` shows, and nothing that is not
        shown here; empty where that is nothing.

        Rights in a cluster are somebody's own: what depends on them is not given on.
        """
        guarded = {it.partition("/")[0] for it in self.guarded}
        found = [it.narrowed(wanted) for it in self.grants]
        return [
            it
            for it in found
            if it is not None
            and not (guarded and any(_may_be(text, guarded) for text in it.sources or ("*",)))
        ]

    def permits(self, signal: Signal) -> bool:
        """Whether a signal may be seen."""
        if self.is_full:
            return True
        return _checks(self)(
            signal.origin,
            signal.type if isinstance(signal, Event) else None,
            namespace_of(signal),
            functools.partial(labels_of, signal),
        )

    def permits_namespaced(self, origin: str, namespace: str) -> bool:
        """Whether something of a source may be seen of which only the namespace is known."""
        if self.is_full:
            return True
        return _checks(self)(origin, None, namespace, dict)

    def has_cluster_right(self, right: str, origin: str, namespace: str) -> bool:
        """Whether somebody has a right that something takes besides being seen."""
        guarded = any(_fits(it, origin) for text in self.guarded for it in _origins(text))
        return not guarded or (right, namespace) in self.rights

    def source_share(self, name: str) -> Share:
        """How much of a source may be seen."""
        if self.is_full:
            return "whole"
        found: Share = "none"
        for grant in self.grants:
            covered = not grant.sources or any(
                _fits(it, name) or _fits(it, f"{name}/-") for it in grant.origins
            )
            if covered and not (grant.types or grant.namespaces or grant.labels):
                guarded = any(_fits(it, f"{name}/-") or it == name for it in self.guarded)
                return "part" if guarded else "whole"
            inside = any(it == name or it.startswith(f"{name}/") for it in grant.sources)
            if covered or inside:
                found = "part"
        return found

    def covers(self, other: Self) -> bool:
        """Whether all that the other shows is shown here too, as far as that can be told."""
        if self.is_full or self == other:
            return True
        return (
            (Grant() in self.grants or set(other.grants) <= set(self.grants))
            and (self.access_log or not other.access_log)
            and (
                not self.guarded
                or (
                    self.guarded == other.guarded
                    and set(other.namespaces) <= set(self.namespaces)
                    and set(other.rights) <= set(self.rights)
                )
            )
        )


FULL_SCOPE: Final = Scope()
EMPTY_SCOPE: Final = Scope(grants=(), access_log=False)


def namespace_of(signal: Signal) -> str:
    """The namespace of what a signal is about; empty where it has none."""
    if isinstance(signal, Event):
        return signal.attributes.get(NAMESPACE, "")
    if isinstance(signal, Resource) and not signal.namespace and signal.kind.endswith(".namespace"):
        return signal.name
    return signal.namespace


def labels_of(signal: Signal) -> Mapping[str, str]:
    """The labels of what a signal is about."""
    if isinstance(signal, Event):
        pairs = signal.attributes.get(LABELS, "").split(",")
        return {name: value for name, _, value in (it.partition("=") for it in pairs) if name}
    if isinstance(signal, Resource) and isinstance(found := signal.state.get(LABELS), Mapping):
        return {str(name): str(value) for name, value in found.items()}
    return {}


def build_scope(
    grants: Iterable[Grant], *, access_log: bool, guarded: Iterable[str] = (),
    namespaces: Iterable[str] = (),
) -> Scope:  # fmt: skip
    """The scope of these grants, written so that equal ones have equal keys."""
    found = tuple(sorted(set(grants), key=msgspec.json.encode))
    return Scope(
        grants=(Grant(),) if Grant() in found else found,
        access_log=access_log,
        guarded=tuple(sorted(set(guarded))),
        namespaces=tuple(sorted(set(namespaces))),
    )


def _origins(text: str) -> tuple[str, ...]:
    plain = "*" not in text and not text.endswith(">")
    return (text, f"{text}/>") if plain else (text,)


def _fits(text: str, name: str) -> bool:
    expression = _expression(text)
    return name == text if expression is None else expression.fullmatch(name) is not None


@functools.lru_cache(maxsize=4096)
def _expression(text: str) -> re.Pattern[str] | None:
    return compile_pattern(text)


@functools.lru_cache(maxsize=1024)
def _key(scope: Scope) -> str:
    if scope.is_full:
        return ""
    return hashlib.blake2b(msgspec.json.encode(scope), digest_size=12).hexdigest()


Check = Callable[[str, str | None, str, Callable[[], Mapping[str, str]]], bool]


@functools.lru_cache(maxsize=1024)
def _checks(scope: Scope) -> Check:
    """Whether origin, type, namespace and labels may be seen; what depends on names alone is
    remembered."""
    guarded = tuple(it for text in scope.guarded for it in _origins(text))
    namespaces = frozenset(scope.namespaces)

    @functools.lru_cache(maxsize=4096)
    def granted(origin: str, type_: str | None, namespace: str) -> tuple[Any, ...] | None:
        if origin == ACCESS_LOG or origin.startswith(f"{ACCESS_LOG}/"):
            return ((),) if scope.access_log else None
        if any(_fits(it, origin) for it in guarded) and namespace not in namespaces:
            return None
        found = tuple(
            grant.labels
            for grant in scope.grants
            if (not grant.sources or any(_fits(it, origin) for it in grant.origins))
            and (not grant.types or (type_ is not None and _any(grant.types, type_)))
            and (not grant.namespaces or (namespace != "" and _any(grant.namespaces, namespace)))
        )
        return found or None

    def check(
        origin: str, type_: str | None, namespace: str, labels: Callable[[], Mapping[str, str]]
    ) -> bool:
        wanted = granted(origin, type_, namespace)
        if wanted is None:
            return False
        if () in wanted:
            return True
        there = labels()
        return any(all(there.get(name) == value for name, value in it) for it in wanted)

    return check


def _within(part: str, text: str, patterns: Iterable[str]) -> bool:
    """Whether patterns cover all that another one does, as far as that can be told."""
    if text in patterns:
        return True
    if part == "sources":
        # The name of a source stands for all its origins.
        return any(text.startswith(f"{it}/") for it in patterns if len(_origins(it)) > 1)
    return _expression(text) is None and _any(patterns, text)


def _may_be(text: str, names: Iterable[str]) -> bool:
    """Whether a source of these names, or of some cluster of one, may fit a pattern."""
    first = text.partition("/")[0]
    return first in names or "*" in first or first.endswith(">")


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(_fits(it, name) for it in patterns)
