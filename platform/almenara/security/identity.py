"""Users, roles, and the scope that the configuration assigns to them."""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

import msgspec

from almenara.config import AuthSettings, GrantSettings, RoleSettings
from almenara.scope import FULL_SCOPE, Grant, Scope, build_scope

ALL_USERS: Final = "*"
"""The group of `auth.roles` that every signed-in user belongs to."""


class Role(IntEnum):
    """What an identity may do; each role includes those before it."""

    INTAKE = 0
    """Pushes signals to one intake. It reads nothing, and no user has it: only API tokens do."""
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


USER_ROLES: Final = (Role.VIEWER, Role.OPERATOR, Role.ADMIN)
"""The roles that users can have."""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user or token as the system that authenticated it reports it.

    Part of the sessions in `access.db`, whose files of earlier versions stay readable: new fields
    have defaults, and renamed ones keep their stored name.
    """

    name: str
    """The display name."""
    subject: str
    """The unique key: the method of signing in and the name or id there, `oidc:4711`."""
    groups: tuple[str, ...] = ()
    token_id: str = msgspec.field(default="", name="token")
    """The id of the API token that authenticated it; empty for every other method."""
    is_shared: bool = msgspec.field(default=False, name="shared")
    """Whether several people use the same subject, as with the access token."""
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """`extra` of a TokenReview. Authorizers restrict scoped tokens by it, so it is passed on in
    each SubjectAccessReview."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """A user with a role and a scope."""

    user: User
    role: Role
    scope: Scope
    intake: str = ""
    """The intake that the role `INTAKE` may push to."""

    @property
    def name(self) -> str:
        return self.user.name

    def has_lost_access(self, current: "Identity | None") -> bool:
        """Return whether `current` permits less than this identity did."""
        return current is None or current.role < self.role or not current.scope.covers(self.scope)


ANONYMOUS: Final = User(name="anonymous", subject="none", is_shared=True)


def read_grant(settings: GrantSettings) -> Grant:
    """Return the grant that a part of the configuration describes."""
    return Grant(
        sources=tuple(settings.sources),
        types=tuple(settings.types),
        namespaces=tuple(settings.namespaces),
        labels=tuple(sorted(settings.labels.items())),
    )


def scope_for_role(role: Role, grants: Iterable[Grant]) -> Scope:
    """Return the scope of these grants; operators and admins see the access log as well."""
    return build_scope(grants, access_log=role >= Role.OPERATOR)


def resolve_identity(user: User, settings: AuthSettings) -> Identity | None:
    """Return the role and scope that the configuration assigns to a user; None if it has none."""
    matching = [entry for entry in settings.roles if _matches(entry, user)]
    if not matching:
        # Without roles, the user's rights in the cluster decide what is visible.
        if settings.authorization == "kubernetes" and not settings.roles:
            sources = tuple(settings.kubernetes.sources)
            return Identity(
                user=user,
                role=Role.VIEWER,
                scope=scope_for_role(Role.VIEWER, [Grant(sources=sources)]),
            )
        return None
    role = max(Role[entry.role.upper()] for entry in matching)
    grants = [grant for entry in matching for grant in read_grants(entry.grants)]
    return Identity(user=user, role=role, scope=scope_for_role(role, grants))


def read_grants(grants: Sequence[GrantSettings]) -> list[Grant]:
    """Return the grants that parts of the configuration describe; without any, everything."""
    return [read_grant(settings) for settings in grants] or [Grant()]


def _matches(settings: RoleSettings, user: User) -> bool:
    return (
        user.name in settings.users
        or ALL_USERS in settings.groups
        or not set(settings.groups).isdisjoint(user.groups)
    )


def anonymous_identity(role: Role) -> Identity:
    """Return the identity of every request where sign-in is off."""
    scope = FULL_SCOPE if role >= Role.OPERATOR else scope_for_role(role, [Grant()])
    return Identity(user=ANONYMOUS, role=role, scope=scope)
