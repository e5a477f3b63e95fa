"""Who somebody is, in which role, and what they see in it."""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

import msgspec

from almenara.config import AuthSettings, GrantSettings, RoleSettings
from almenara.scope import FULL_SCOPE, Grant, Scope, build_scope

EVERYBODY: Final = "*"


class Role(IntEnum):
    """What somebody may do; each may what those before it may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """Who somebody is, as whoever signed them in knows them."""

    name: str
    """What they are called, for people."""
    subject: str
    """What tells them apart: how they signed in, and their name or number there."""
    groups: tuple[str, ...] = ()
    token: str = ""
    """The API token they came with, by its id; empty where they came in another way."""
    shared: bool = False
    """Whether others go by the same subject, as all do who have the access token."""
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """What else a cluster says of them. Some tokens are worth less than who has them, and it is
    here that an authorizer reads so."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A person, what they may do, and what they see."""

    person: Person
    role: Role
    scope: Scope

    @property
    def name(self) -> str:
        return self.person.name

    def lost(self, now: "Identity | None") -> bool:
        """Whether less is allowed now than by this."""
        return now is None or now.role < self.role or not now.scope.covers(self.scope)


NOBODY_IN_PARTICULAR: Final = Person(name="everybody", subject="none", shared=True)


def grant_of(settings: GrantSettings) -> Grant:
    """The grant that a part of the configuration describes."""
    return Grant(
        sources=tuple(settings.sources),
        types=tuple(settings.types),
        namespaces=tuple(settings.namespaces),
        labels=tuple(sorted(settings.labels.items())),
    )


def in_role(role: Role, grants: Iterable[Grant]) -> Scope:
    """What somebody in a role sees of what these grants show: the access log is for operators."""
    return build_scope(grants, access_log=role >= Role.OPERATOR)


def identity_of(person: Person, settings: AuthSettings) -> Identity | None:
    """The role and the scope that the configuration gives somebody; None where it gives none."""
    theirs = [it for it in settings.roles if _is_for(it, person)]
    if not theirs:
        # The rights that somebody has in the cluster decide what they see of it.
        if settings.authorization == "kubernetes" and not settings.roles:
            sources = tuple(settings.kubernetes.sources)
            return Identity(
                person=person,
                role=Role.VIEWER,
                scope=in_role(Role.VIEWER, [Grant(sources=sources)]),
            )
        return None
    role = max(Role[it.role.upper()] for it in theirs)
    grants = [grant for it in theirs for grant in _grants(it.grants)]
    return Identity(person=person, role=role, scope=in_role(role, grants))


def _grants(grants: Sequence[GrantSettings]) -> list[Grant]:
    return [grant_of(it) for it in grants] or [Grant()]


def _is_for(settings: RoleSettings, person: Person) -> bool:
    return (
        person.name in settings.users
        or EVERYBODY in settings.groups
        or not set(settings.groups).isdisjoint(person.groups)
    )


def everybody(role: Role) -> Identity:
    """Who is there where nobody signs in."""
    scope = FULL_SCOPE if role >= Role.OPERATOR else in_role(role, [Grant()])
    return Identity(person=NOBODY_IN_PARTICULAR, role=role, scope=scope)
