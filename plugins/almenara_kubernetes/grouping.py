"""Pods by what people think of them as: by workload, service, node, namespace or label."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from almenara.hookspecs import DataView, ResourceQuery
from almenara.signals import Resource, Severity

ALL: Final = 200_000
"""Resources looked at: every one there is."""
PAGES: Final = "/dashboards/kubernetes"
GROUPINGS: Final[Mapping[str, str]] = {
    "namespace": "Namespace", "workload": "Workload", "service": "Service", "node": "Node",
    "app.kubernetes.io/name": "App", "app.kubernetes.io/part-of": "Part of",
}  # fmt: skip
"""What pods can be grouped by, by the value of the filter `group`: any label as well."""
NONE: Final = "none"
"""The group of pods that are in no other."""

Group = tuple[str, str]
"""Namespace, empty where it has none, and name."""


def page(to: str = "", /, **query: str) -> str:
    """The address of a page of ours."""
    known = {key: value for key, value in query.items() if value}
    return f"{PAGES}{f'.{to}' if to else ''}{f'?{urlencode(known)}' if known else ''}"


def every(look: DataView, kind: str, namespace: str = "") -> Sequence[Resource]:
    """All resources of a kind, of one namespace or of all."""
    return look.resources(ResourceQuery(kind=f"kubernetes.{kind}", namespace=namespace, limit=ALL))


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which pods are wanted; what is empty lets all through."""

    namespace: str = ""
    workload: str = ""
    """`Deployment/checkout`."""
    service: str = ""
    node: str = ""
    label: str = ""
    """`app.kubernetes.io/name=checkout`, or the name alone."""
    status: str = ""
    """As kubectl prints it, or a tone: `bad`, `wait`, `ok`, `done`."""
    text: str = ""

    @classmethod
    def of(cls, chosen: Mapping[str, str]) -> "Wanted":
        """What the filters of an address want."""
        return cls(**{name: chosen.get(name, "") for name in cls.__struct_fields__})

    def query(self) -> dict[str, str]:
        """The filters that want the same."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name))}


TONED: Final[Mapping[str, Sequence[Severity]]] = {
    "bad": (Severity.ERROR, Severity.FATAL), "wait": (Severity.WARN,), "ok": (Severity.INFO,),
    "done": (Severity.DEBUG,),
}  # fmt: skip


def pods(look: DataView, wanted: Wanted) -> list[Resource]:
    """The pods that are wanted, by namespace and name."""
    tests: list[Callable[[Resource], bool]] = []
    if wanted.namespace:
        tests.append(lambda it: it.namespace == wanted.namespace)
    if wanted.workload:
        tests.append(lambda it: it.state.get("workload") == wanted.workload)
    if wanted.node:
        unscheduled = "" if wanted.node == NONE else wanted.node
        tests.append(lambda it: it.state.get("node", "") == unscheduled)
    if wanted.status in TONED:
        severities = TONED[wanted.status]
        tests.append(lambda it: it.severity in severities)
    elif wanted.status:
        status = wanted.status.casefold()
        tests.append(lambda it: it.status.casefold() == status)
    if wanted.label:
        label, equals, value = wanted.label.partition("=")
        tests.append(
            lambda it: (
                (found := it.state.get("labels", {}).get(label)) is not None
                and (not equals or found == value)
            )
        )
    if wanted.service:
        behind = {
            (it.namespace, pod)
            for it in every(look, "service")
            if it.name == wanted.service
            for pod in it.state.get("pods", ())
        }
        tests.append(lambda it: (it.namespace, it.name) in behind)
    if wanted.text:
        words = wanted.text.casefold().split()
        tests.append(lambda it: all(word in _text(it) for word in words))
    found = every(look, "pod", wanted.namespace)
    return [it for it in found if all(test(it) for test in tests)] if tests else list(found)


def _text(it: Resource) -> str:
    state = it.state
    labels = " ".join(f"{name}={value}" for name, value in state.get("labels", {}).items())
    return (
        f"{it.namespace} {it.name} {it.status} {state.get('workload', '')}"
        f" {state.get('node', '')} {state.get('image', '')} {labels}"
    ).casefold()


def grouped(look: DataView, found: Iterable[Resource], by: str) -> dict[Group, list[Resource]]:
    """Pods by their group. One behind several services is in the group of each."""
    groups: dict[Group, list[Resource]] = defaultdict(list)
    if by == "service":
        services: dict[Group, list[str]] = defaultdict(list)
        for it in every(look, "service"):
            for pod in it.state.get("pods", ()):
                services[it.namespace, pod].append(it.name)
        for it in found:
            for name in services.get((it.namespace, it.name), [""]):
                groups[(it.namespace, name) if name else ("", NONE)].append(it)
        return groups
    for it in found:
        groups[_group(it, by)].append(it)
    return groups


def _group(it: Resource, by: str) -> Group:
    match by:
        case "namespace":
            return "", it.namespace
        case "node":
            return "", it.state.get("node", NONE)
        case "workload":
            return it.namespace, it.state.get("workload", f"Pod/{it.name}")
        case _:
            return "", it.state.get("labels", {}).get(by, NONE)


def natural(name: str) -> list[tuple[int, str]]:
    """What names are ordered by so that `node-2` comes before `node-10`."""
    return [(int(it), "") if it.isdecimal() else (-1, it) for it in re.split(r"(\d{1,18})", name)]


def address(by: str, group: Group) -> str:
    """Where a group is shown by itself."""
    namespace, name = group
    match by:
        case "namespace":
            return page(namespace=name)
        case "node":
            return page("node", name=name) if name != NONE else page("pods", node=NONE)
        case "workload":
            return page("workload", namespace=namespace, name=name)
        case "service":
            return page("pods", namespace=namespace, service=name)
        case _:
            return page("pods", label=f"{by}={name}")


def owner_address(namespace: str, owner: str) -> str:
    """Where an owner such as `Deployment/checkout` is shown."""
    kind, _, name = owner.partition("/")
    if kind == "Node":
        return page("node", name=name)
    return page("workload", namespace=namespace, name=f"{kind}/{name}")


def total(found: Iterable[Resource], name: str) -> float:
    """The sum of a number in the state of resources."""
    return sum(it.state.get(name, 0) or 0 for it in found)


def share(part: float | None, whole: Any) -> float | None:
    """A share, or None where either is unknown."""
    return part / whole if part is not None and isinstance(whole, int | float) and whole else None


class Told(dict[str, Any]):
    """A state in which what was not told is None, at any depth."""

    def __missing__(self, name: str) -> None:
        return None


def told(it: Resource) -> Resource:
    """A resource whose state a template can ask for anything."""
    return msgspec.structs.replace(it, state=_told(it.state))


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return Told((name, _told(one)) for name, one in value.items())
    if isinstance(value, list):
        return [_told(one) for one in value]
    return value
