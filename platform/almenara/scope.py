"""What an identity may see: one value that narrows history, resources and channels.

`compile_scope` turns a scope into tests that are both predicates for signals in memory and SQL for
the log, so that live pages and history agree.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final, Literal, Self

import msgspec

from almenara.patterns import patterns_overlap
from almenara.signals import Event, Resource, Signal
from almenara.visibility import (
    AllOf,
    AnyOf,
    HasLabel,
    NameMatches,
    NamespaceIsIn,
    NamespaceMatches,
    Not,
    SignalNames,
    Test,
    Visibility,
    compiled,
    matches,
    matches_any,
)

EVERY_ORIGIN: Final = ">"
ACCESS_LOG: Final = "almenara/access"
"""The origin of events about sign-ins and refused requests."""
NAMESPACE: Final = "namespace"
"""The attribute of an event that names the namespace it is about."""
ALERT_KIND: Final = "almenara.alert"
ALERTING: Final = "almenara.alerting"
"""The origin of silences, of rules, and of alerts about signals of several sources."""
SEVERAL_NAMESPACES: Final = "*"
"""The namespace of an alert about several; no namespace can have this name."""
OWN_LABELS: Final = "own_labels"
"""The part of an alert's state with the labels of what it is about."""
INHIBITED_BY: Final = "inhibited_by"
"""The part of an alert's state with the key of the alert that inhibits it, which may be hidden."""
LABELS: Final = "labels"
"""The attribute of an event, `a=b,c=d`, and the part of a resource's state, with its labels."""

Share = Literal["whole", "part", "none"]
Labels = tuple[tuple[str, str], ...]


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Signals that may be seen: those that match every part that is not empty.

    A signal without such a part does not match: a grant with types shows events only, and one with
    namespaces nothing outside a namespace.
    """

    sources: tuple[str, ...] = ()
    """Names of sources, `nats`, or patterns of origins, `nats/PLANNING_*`."""
    types: tuple[str, ...] = ()
    """Patterns of event types."""
    namespaces: tuple[str, ...] = ()
    """Names or patterns of namespaces."""
    labels: Labels = ()
    """Labels that the subject of a signal must all have."""

    @property
    def origins(self) -> tuple[str, ...]:
        """The patterns of origins that `sources` stands for."""
        return tuple(origin for text in self.sources for origin in _origins(text))

    def intersect(self, other: Self) -> Self | None:
        """Return what both show; None where that is nothing or can't be decided from patterns."""
        parts: dict[str, tuple[Any, ...]] = {}
        for name in ("sources", "types", "namespaces"):
            own, narrower = getattr(self, name), getattr(other, name)
            if own and not all(_is_within(name, text, own) for text in narrower):
                return None
            parts[name] = narrower or own
        labels = tuple(sorted({*self.labels, *other.labels}))
        return msgspec.structs.replace(self, labels=labels, **parts)


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What an identity may see: everything that any of the grants shows."""

    grants: tuple[Grant, ...] = (Grant(),)
    access_log: bool = True
    """Whether events about sign-ins are visible."""
    guarded: tuple[str, ...] = ()
    """Sources whose signals are visible in `namespaces` only, whatever the grants show."""
    namespaces: tuple[str, ...] = ()
    """Namespaces of those sources; the empty name stands for what belongs to the cluster."""
    rights: tuple[tuple[str, str], ...] = ()
    """Further rights there, such as `get pods/log`, each with its namespace."""

    @property
    def is_full(self) -> bool:
        """Whether nothing is hidden."""
        return self is FULL_SCOPE or (self.access_log and self.sees_all_sources)

    @property
    def is_operator(self) -> bool:
        """Whether it is the scope of at least an operator, who sees the sign-ins as well."""
        return self.access_log

    @property
    def sees_all_sources(self) -> bool:
        """Whether nothing that sources publish is hidden."""
        return not self.guarded and Grant() in self.grants

    @property
    def key(self) -> str:
        """A digest that differs between scopes; empty for the full scope."""
        return _key(self)

    def delegate(self, requested: Grant) -> list[Grant]:
        """Return the grants of a token that is to see what `requested` shows and nothing beyond
        this scope; empty where that is nothing.

        Rights in a cluster belong to one user: grants that depend on them are not delegated.
        """
        parts = [grant.intersect(requested) for grant in self.grants]
        return [part for part in parts if part is not None and not self._guards_any_of(part)]

    def _guards_any_of(self, grant: Grant) -> bool:
        """Whether a grant shows anything of a source that is guarded."""
        guarded = [origin for text in self.guarded for origin in _origins(text)]
        return _overlap(guarded, grant.origins or (EVERY_ORIGIN,))

    def permits(self, signal: Signal) -> bool:
        """Whether a signal may be seen."""
        if self.is_full:
            return True
        names = SignalNames(
            signal.origin,
            signal.type if isinstance(signal, Event) else None,
            namespace_of(signal),
        )
        return compile_scope(self).permits(names, functools.partial(labels_of, signal))

    def needed_namespaces(self) -> Set[str] | None:
        """Return the namespaces that signals of sources must be in to be visible; None where others
        may be visible as well."""
        if self.access_log or not all(grant.namespaces for grant in self.grants):
            return None
        names = {name for grant in self.grants for name in grant.namespaces}
        return None if any(compiled(name) is not None for name in names) else names

    def permits_namespaced(self, origin: str, namespace: str) -> bool:
        """Whether a thing without type and labels may be seen, such as a log of a namespace."""
        names = SignalNames(origin, None, namespace)
        return self.is_full or compile_scope(self).permits(names, dict)

    def has_cluster_right(self, right: str, origin: str, namespace: str) -> bool:
        """Whether a right that is needed besides visibility is granted in a namespace."""
        guarded = [pattern for text in self.guarded for pattern in _origins(text)]
        return not matches_any(guarded, origin) or (right, namespace) in self.rights

    def source_share(self, name: str) -> Share:
        """How much of a source is visible."""
        if self.is_full:
            return "whole"
        share: Share = "none"
        is_guarded = self._guards_any_of(Grant(sources=(name,)))
        for grant in self.grants:
            is_covered = (
                not grant.sources
                or _is_within("sources", name, grant.sources)
                or matches_any(grant.origins, f"{name}/-")
            )
            if is_covered and not (grant.types or grant.namespaces or grant.labels):
                return "part" if is_guarded else "whole"
            if is_covered or _overlap(grant.origins, _origins(name)):
                share = "part"
        return share

    def covers(self, other: Self) -> bool:
        """Whether everything that the other shows is visible here too, as far as can be decided."""
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
    """Return the namespace that a signal is about; empty for none."""
    if isinstance(signal, Event):
        return signal.attributes.get(NAMESPACE, "")
    if isinstance(signal, Resource):
        if signal.kind == ALERT_KIND:
            # Its key has the name of the rule there.
            return str(signal.state.get(NAMESPACE, ""))
        if not signal.namespace and signal.kind.endswith(".namespace"):
            return signal.name
    return signal.namespace


def labels_of(signal: Signal) -> Mapping[str, str]:
    """Return the labels of what a signal is about."""
    if isinstance(signal, Event):
        return parse_labels(signal.attributes.get(LABELS, ""))
    if isinstance(signal, Resource):
        # The labels of an alert have those of its rule as well, which grant nothing.
        name = OWN_LABELS if signal.kind == ALERT_KIND else LABELS
        if isinstance(labels := signal.state.get(name), Mapping):
            return {str(name): str(value) for name, value in labels.items()}
    return {}


def parse_labels(text: str) -> dict[str, str]:
    """Return the labels in the attribute of an event."""
    pairs = (pair.partition("=") for pair in text.split(","))
    return {name: value for name, _, value in pairs if name}


def write_labels(labels: Mapping[str, str]) -> str:
    """Return labels as the attribute of an event has them.

    A label with a comma is left out, as is a name with `=`: it could pose as another one.
    """
    return ",".join(
        f"{name}={value}"
        for name, value in sorted(labels.items())
        if "," not in name + value and "=" not in name
    )


def build_scope(
    grants: Iterable[Grant], *, access_log: bool, guarded: Iterable[str] = (),
    namespaces: Iterable[str] = (),
) -> Scope:  # fmt: skip
    """Return the scope of these grants, sorted so that equal scopes have equal keys."""
    ordered = tuple(sorted(set(grants), key=msgspec.json.encode))
    return Scope(
        grants=(Grant(),) if Grant() in ordered else ordered,
        access_log=access_log,
        guarded=tuple(sorted(set(guarded))),
        namespaces=tuple(sorted(set(namespaces))),
    )


@functools.lru_cache(maxsize=1024)
def compile_scope(scope: Scope) -> Visibility:
    """Return the tests that a scope consists of; equal scopes share their compiled form."""
    is_access_log = NameMatches("origin", _origins(ACCESS_LOG))
    needed: list[Test] = [Not(is_access_log), AnyOf(tuple(map(_compile_grant, scope.grants)))]
    if scope.guarded:
        # What alerting publishes with its own origin, or that of several clusters, may be about a
        # source that is guarded.
        guarded = (ALERTING, *(name for text in scope.guarded for name in _guarded_names(text)))
        is_free = Not(NameMatches("origin", guarded))
        needed.append(AnyOf((is_free, NamespaceIsIn(scope.namespaces))))
    visible = AllOf(tuple(needed))
    return Visibility(AnyOf((is_access_log, visible)) if scope.access_log else visible)


def _compile_grant(grant: Grant) -> Test:
    tests: list[Test] = []
    if grant.sources:
        tests.append(NameMatches("origin", grant.origins))
    if grant.types:
        tests.append(NameMatches("type", grant.types))
    if grant.namespaces:
        tests.append(NamespaceMatches(grant.namespaces))
    return AllOf((*tests, *(HasLabel(name, value) for name, value in grant.labels)))


def _origins(text: str) -> tuple[str, ...]:
    """The patterns of origins that the name of a source, or a pattern, stands for.

    Either stands for itself and for everything below it, so that `nats` and `nat*` both include the
    streams of the source `nats`.
    """
    return (text,) if text.endswith(">") else (text, f"{text}/>")


def _guarded_names(text: str) -> tuple[str, ...]:
    """The origins of a guarded source, and the names above it, which alerts about it may have."""
    parts = text.split("/")
    above = ("/".join(parts[:count]) for count in range(1, len(parts)))
    return (*above, *_origins(text))


def _overlap(some: Iterable[str], others: Sequence[str]) -> bool:
    return any(patterns_overlap(one, other) for one in some for other in others)


@functools.lru_cache(maxsize=1024)
def _key(scope: Scope) -> str:
    if scope.is_full:
        return ""
    return hashlib.blake2b(msgspec.json.encode(scope), digest_size=12).hexdigest()


def _is_within(part: str, text: str, patterns: Iterable[str]) -> bool:
    """Whether patterns cover everything that another one matches.

    False where that can't be decided: of two different patterns with wildcards.
    """
    if text in patterns:
        return True
    if part != "sources":
        return compiled(text) is None and matches_any(patterns, text)
    if compiled(text) is not None:
        # Everything below a plain name is covered by it, whatever a pattern selects there.
        return any(compiled(each) is None and text.startswith(f"{each}/") for each in patterns)
    # A name stands for everything below it, which is covered once the name or one above matches.
    parts = text.split("/")
    names = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(matches(pattern, name) for pattern in patterns for name in names)
