"""Permissions of roles, one by one."""

from collections.abc import Iterable

from support.chart.engine import Tree

Permission = tuple[str, str, str, str]
"""Namespace (empty for the whole cluster), API group, resource and verb."""


def permissions(roles: Iterable[Tree]) -> set[Permission]:
    """Return the single permissions of roles."""
    return {
        (role["metadata"].get("namespace", ""), group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
