"""Who is there, and what they may do and see."""

from almenara.security.identity import Identity, Person, Role

__all__ = ["Identity", "Person", "Role"]
