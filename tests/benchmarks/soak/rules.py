"""What each surface of Almenara claims about each server, as a table of rules."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

ANY: Final = "any"
"""The part of a rule that concerns the server with the worst state."""
HEALTHY: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "nats.stream": ("nats", ("ok",)),
    "nats.consumer": ("nats", ("ok", "stalled")),
    "nats.server": ("nats", ("connected",)),
    "kubernetes.cluster": ("kubernetes", ("ok",)),
    "ray.cluster": ("ray", ("up",)),
    "ray.node": ("ray", ("alive",)),
    "ray.application": ("ray", ("RUNNING",)),
    "prometheus.target": ("prometheus", ("up",)),
    "process": ("prometheus", ("scraped",)),
    "http.check": ("http", ("up", "slow")),
}
"""By kind: the server behind it, and the statuses that only an answer of the server proves."""
SOURCES: Final = {"nats": "nats", "kubernetes": "kubernetes", "ray/sim": "ray"}
"""Sources that are degraded while their server fails, and the server of each."""


@dataclasses.dataclass
class View:
    """Everything that Almenara displays in one second."""

    resources: list[dict[str, Any]]
    sources: list[dict[str, Any]]
    health: dict[str, Any]
    panels: dict[tuple[str, str], str]
    """HTML by surface (`live` or `page`) and name of the panel."""


Finder = Callable[[View], str]
"""Returns the text that makes a claim; empty where the view makes none."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """Two claims of one surface: that a server is healthy, and that it is not."""

    server: str
    name: str
    claims_health: Finder
    claims_failure: Finder


def text_of(html: str) -> str:
    """The text of a fragment."""
    text = re.sub(r"<(script|style|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)).strip()


def live_resources(view: View, kind: str) -> Iterator[dict[str, Any]]:
    """The resources of a kind that exist."""
    return (
        resource
        for resource in view.resources
        if resource["kind"] == kind and not resource["deleted"]
    )


def describe(resource: dict[str, Any]) -> str:
    """A resource in brief."""
    name = f"{resource['namespace']}/{resource['name']}"
    return f"{resource['kind']} {name} is {resource['status']}: {resource['state'].get('reason')}"


def make_resource_rule(kind: str, server: str, healthy: tuple[str, ...]) -> Rule:
    """The rule of a kind in the JSON API."""

    def claims_health(view: View) -> str:
        return next(
            (describe(each) for each in live_resources(view, kind) if each["status"] in healthy), ""
        )

    def claims_failure(view: View) -> str:
        resources = list(live_resources(view, kind))
        failing = [each for each in resources if each["status"] not in healthy]
        return describe(failing[0]) if failing else "" if resources else f"no {kind}"

    return Rule(server, f"api {kind}", claims_health, claims_failure)


def make_source_rule(source: str, server: str) -> Rule:
    """The rule of a source in the JSON API."""

    def status(view: View) -> str:
        return next(each["status"] for each in view.sources if each["name"] == source)

    return Rule(
        server,
        f"api source {source}",
        lambda view: f"{source} is running" if status(view) == "running" else "",
        lambda view: f"{source} is {status(view)}" if status(view) != "running" else "",
    )


def make_panel_rule(surface: str, panel: str, server: str, healthy: str, failing: str) -> Rule:
    """The rule of a panel: a pattern that claims health, and one that claims failure. An empty
    pattern stands for the absence of the other."""

    def find(view: View, pattern: str, other: str) -> str:
        html = view.panels.get((surface, panel))
        if html is None:
            return ""
        if not pattern:
            return "" if re.search(other, html, re.DOTALL) else text_of(html)[:600]
        match = re.search(pattern, html, re.DOTALL)
        return f"{text_of(match[0])[:200]} in: {text_of(html)[:600]}" if match else ""

    return Rule(
        server,
        f"{surface} {panel}",
        lambda view: find(view, healthy, failing),
        lambda view: find(view, failing, healthy),
    )


def chip(source: str, status: str) -> str:
    """The pattern of a source's status in the strip of sources."""
    return rf'#source-{source}" class="chip" data-status="{status}"'


def row(source: str, status: str) -> str:
    """The pattern of a source's status in the table of sources."""
    return rf'id="source-{source}">(?:(?!</tr>).)*data-status="{status}"'


NOT_RUNNING: Final = "(?!running)[a-z]+"
STALE_ROW: Final = r'<li class="ray-job"(?:(?!</li>).)*data-stale'
RUNNING_ROW: Final = r'data-status="RUNNING"(?! data-stale)>'
PANELS: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("nats.streams", "nats", ">ok<", r">(?:unknown|offline|stale)<"),
    ("kubernetes.head", "kubernetes", "", r"unreachable|cannot be reached|last known state"),
    ("kubernetes.glance", "kubernetes", "", r"unreachable|cannot be reached|last known state"),
    ("ray.clusters", "ray", r">up<", r">(?:down|stale|partial)<"),
    ("ray.clusters", "ray", r"Jobs.{0,200}?\d+ running(?!.*Values from)", "Values from"),
    ("ray.overview", "ray", r">0</span><span class=\"label\">unhealthy clusters", ">[1-9]</span>"
     r'<span class="label">unhealthy cluster'),
    ("ray.overview", "ray", r'<span class="label">running jobs?<', "unknown"),
    ("ray.jobs", "ray", RUNNING_ROW, STALE_ROW),
    ("ray.applications", "ray", r">RUNNING<", r">unknown<"),
    ("ray.nodes", "ray", r">alive<", r">unknown<"),
    ("http.states", "http", r">(?:up|slow)<", r">down<"),
    ("http.checks", "http", r">(?:up|slow)<", r">down<"),
    ("prometheus.targets", "prometheus", r">up<", r">(?:down|partial)<"),
    *(
        (panel, server, pattern(source, "running"), pattern(source, NOT_RUNNING))
        for source, server in SOURCES.items()
        for panel, pattern in (("strip", chip), ("sources", row))
    ),
    ("numbers", ANY, r'>0</span><span class="label">sources with problems',
     r'>[1-9]</span><span class="label">sources? with problems'),
)  # fmt: skip
"""Panel, server, the pattern that claims health, the pattern that claims failure."""
RULES: Final[tuple[Rule, ...]] = (
    *(make_resource_rule(kind, *each) for kind, each in HEALTHY.items()),
    *(make_source_rule(source, server) for source, server in SOURCES.items()),
    Rule(
        ANY,
        "api health",
        lambda view: "status ok" if view.health["status"] == "ok" else "",
        lambda view: str(view.health["sources"]) if view.health["status"] != "ok" else "",
    ),
    *(make_panel_rule(surface, *each) for each in PANELS for surface in ("live", "page")),
)
