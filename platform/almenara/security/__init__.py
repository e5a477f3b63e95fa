"""Authentication and authorization: identities, roles, sessions, tokens, and the access log."""

from almenara.security.identity import Identity, Role, User

__all__ = ["Identity", "Role", "User"]
