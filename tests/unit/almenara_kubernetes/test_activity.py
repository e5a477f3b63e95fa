"""Events of a namespace, and the activity of a node, in one cluster or several."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from almenara.signals import Event, Severity, now
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.kinds import EVENTS, NODES
from almenara_kubernetes.views.activity import EVENTS_READ, PAGES_READ
from support.kubernetes_objects import events, make_object
from support.kubernetes_panels import plain, render

pytestmark = pytest.mark.anyio


def node(ready: str, since: str) -> Any:
    condition = {
        "type": "Ready",
        "status": ready,
        "lastTransitionTime": since,
        "message": "kubelet",
    }
    return make_object(
        NODES, "worker-1", meta={"namespace": ""}, status={"conditions": [condition]}
    )


@pytest.mark.parametrize("cluster", ["eu", ""])
async def test_activity_of_a_node_has_its_transitions(cluster: str) -> None:
    differ = ClusterDiffer(cluster)
    signals = [
        *differ.update(NODES, node("True", "2026-01-01T00:00:00Z")),
        *differ.update(NODES, node("False", "2026-01-02T00:00:00Z")),
    ]
    assert "kubernetes.node.not_ready" in events(signals)

    text = await render("node_timeline", signals, namespace=cluster, name="worker-1")

    assert "not ready" in plain(text)
    assert "No activity" not in text


def backoff(name: str, namespace: str, uid: str) -> Any:
    return make_object(
        EVENTS, uid, type="Warning", reason="BackOff", note=f"restarting {name}",
        regarding={"kind": "Pod", "name": name, "namespace": namespace, "apiVersion": "v1"},
        meta={"namespace": namespace, "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("namespace", "expected"),
    [
        ("eu/shop", ["eu web"]),
        ("us/shop", ["us web"]),
        ("eu", ["eu worker"]),
        ("shop", ["web"]),
        ("eu/*", []),
        ("eu/shop-2", []),
    ],
)
async def test_events_are_filtered_by_cluster_and_namespace(
    namespace: str, expected: list[str]
) -> None:
    of_node = make_object(
        EVENTS, "of-node", reason="Rebooted", note="restarting eu worker",
        regarding={"kind": "Node", "name": "worker-1", "apiVersion": "v1"},
        meta={"namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
    )  # fmt: skip
    signals = [
        *ClusterDiffer("eu").update(EVENTS, backoff("eu web", "shop", "1")),
        *ClusterDiffer("us").update(EVENTS, backoff("us web", "shop", "2")),
        *ClusterDiffer().update(EVENTS, backoff("web", "shop", "3")),
        *ClusterDiffer("eu").update(EVENTS, of_node),
    ]

    text = await render("events", signals, namespace=namespace)

    assert re.findall(r"restarting ([a-z ]+)", text) == expected


def make_events(number: int, namespace: str, name: str) -> Sequence[Event]:
    """Events of as many series about pods of a namespace."""
    return [
        Event(
            id=f"{namespace}/{name}-{each}", source="kubernetes", type="kubernetes.event.BackOff",
            subject=f"pod/{namespace}/{name}-{each}", severity=Severity.WARN, time=now(),
            attributes={"namespace": namespace},
            data={"reason": "BackOff", "message": f"restarting {name}", "namespace": namespace,
                  "name": f"{name}-{each}", "series": f"{namespace}/{name}-{each}"},
        )
        for each in range(number)
    ]  # fmt: skip


async def test_events_of_a_quiet_namespace_are_found_behind_those_of_busy_ones() -> None:
    signals = [
        *make_events(3, "quiet", "web"),
        *make_events(2 * EVENTS_READ, "busy", "api"),
        # These mention the word, and are of another namespace.
        *make_events(2 * EVENTS_READ, "busy", "quiet"),
    ]

    text = await render("events", signals, namespace="quiet")

    assert sorted(re.findall(r">(pod/[^<]*)<", text)) == [
        "pod/quiet/web-0", "pod/quiet/web-1", "pod/quiet/web-2",
    ]  # fmt: skip
    assert "were searched" not in text


async def test_page_of_events_says_what_was_searched() -> None:
    searched = PAGES_READ * EVENTS_READ
    signals = [
        *make_events(1, "quiet", "old"),
        *make_events(searched - 1, "busy", "quiet"),
        *make_events(1, "quiet", "new"),
    ]

    text = await render("events", signals, namespace="quiet")
    of_nothing = await render("events", signals, namespace="nothing")

    assert re.findall(r">(pod/[^<]*)<", text) == ["pod/quiet/new-0"]
    assert f"Only the newest {searched:,} events that mention the namespace" in plain(text)
    assert "No activity" in of_nothing
    assert "were searched" not in of_nothing


async def test_search_of_a_namespace_ends_when_the_page_is_full() -> None:
    text = await render("events", make_events(EVENTS_READ + 1, "shop", "web"), namespace="shop")

    assert text.count("<li") == 60
    assert "440 older ones are not displayed" in plain(text)


async def test_events_of_a_namespace_match_the_searched_text_too() -> None:
    signals = [*make_events(2, "shop", "web"), *make_events(2, "shop", "api")]

    text = await render("events", signals, namespace="shop", text="api restarting")

    assert sorted(re.findall(r">(pod/[^<]*)<", text)) == ["pod/shop/api-0", "pod/shop/api-1"]
