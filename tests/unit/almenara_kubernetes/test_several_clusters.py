"""Several clusters with objects of the same names stay apart."""

import html
import re
from collections.abc import Sequence

import pytest

from almenara.signals import Resource, Sample, Signal
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.kinds import PODS
from almenara_kubernetes.links import owner_url, subject_url
from support.kubernetes_objects import make_object
from support.kubernetes_panels import plain, pod, render

pytestmark = pytest.mark.anyio

NODE_PAGE = "/dashboards/kubernetes.node"


def describe_cluster(name: str, pods: int) -> Sequence[Signal]:
    """A cluster with the node `worker-1` of 8 cores, and pods of 2 cores on it."""
    state = {"cpu": 8.0, "memory": 2.0**34, "pods": 110.0}
    return [
        Resource(kind="kubernetes.node", namespace=name, name="worker-1", status="Ready",
                 state=state),
        *(pod(f"{name}-{number}", namespace=f"{name}/shop", node="worker-1", cpu_request=2.0)
          for number in range(pods)),
        Sample(kind="kubernetes.node", namespace=name, name="worker-1", metric="cpu", value=1.0),
        *(Sample(kind="kubernetes.pod", namespace=f"{name}/shop", name=f"{name}-{number}",
                 metric="cpu", value=1.0) for number in range(pods)),
    ]  # fmt: skip


CLUSTERS = [*describe_cluster("eu", 3), *describe_cluster("us", 2)]


def links(text: str) -> list[str]:
    return [html.unescape(link) for link in re.findall(r'href="([^"]*)"', text)]


async def test_node_map_has_a_tile_for_the_node_of_each_cluster() -> None:
    text = await render("nodes", CLUSTERS)

    assert "2 nodes, 5 pods" in text
    assert [link for link in links(text) if link.startswith(NODE_PAGE)] == [
        f"{NODE_PAGE}?namespace=eu&name=worker-1", f"{NODE_PAGE}?namespace=us&name=worker-1",
    ]  # fmt: skip
    assert re.findall(r"CPU requests (\S+)", text) == ["75", "50"]


async def test_map_of_pods_by_node_has_a_tile_for_the_node_of_each_cluster() -> None:
    text = await render("map", [*CLUSTERS, pod("pending", namespace="eu/shop", node="")],
                        group="node")  # fmt: skip

    nodes = [link for link in links(text) if "kubernetes.node" in link or "node=" in link]
    assert nodes == [
        f"{NODE_PAGE}?namespace=eu&name=worker-1", f"{NODE_PAGE}?namespace=us&name=worker-1",
        "/dashboards/kubernetes.pods?node=none",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cluster", "figures"),
    [
        ("eu", ("3 of 110 pods", "requests 75 % of 8 cores")),
        ("us", ("2 of 110 pods", "requests 50 % of 8 cores")),
    ],
)
async def test_page_of_a_node_is_about_one_cluster(cluster: str, figures: Sequence[str]) -> None:
    other = {"eu": "us", "us": "eu"}[cluster]
    query = {"namespace": cluster, "name": "worker-1"}

    node = plain(await render("node", CLUSTERS, **query))

    assert [figure in node for figure in figures] == [True, True]
    for panel in ("node", "node_pods", "node_cpu", "node_pods_cpu_pods"):
        text = await render(panel, CLUSTERS, **query)
        assert f"{cluster}/" in text
        assert f"{other}/" not in text


async def test_node_without_a_cluster_is_the_only_one_of_its_name() -> None:
    text = await render("node", describe_cluster("eu", 3), name="worker-1")
    ambiguous = await render("node", CLUSTERS, name="worker-1")

    assert "3 of 110 pods" in plain(text)
    assert "does not exist" in ambiguous


@pytest.mark.parametrize(
    ("node", "names"),
    [
        ("eu/worker-1", ["eu-0", "eu-1", "eu-2"]),
        ("us/worker-1", ["us-0", "us-1"]),
        ("worker-1", ["eu-0", "eu-1", "eu-2", "us-0", "us-1"]),
        ("asia/worker-1", []),
    ],
)
async def test_pods_are_filtered_by_the_node_of_a_cluster(node: str, names: list[str]) -> None:
    text = await render("pods", CLUSTERS, node=node)

    assert re.findall(r'<th scope="row"><a [^>]*>([^<]*)<', text) == names


async def test_links_to_a_node_name_its_cluster() -> None:
    page = await render("pod", CLUSTERS, namespace="us/shop", name="us-0")
    expected = f"{NODE_PAGE}?namespace=us&name=worker-1"

    assert expected in links(page)
    assert owner_url("us/kube-system", "Node/worker-1") == expected
    assert subject_url("node/us/worker-1") == expected
    # A cluster without a name.
    assert owner_url("kube-system", "Node/worker-1") == f"{NODE_PAGE}?name=worker-1"
    assert subject_url("node/worker-1") == f"{NODE_PAGE}?name=worker-1"


@pytest.mark.parametrize("cluster", ["eu", ""])
def test_pods_name_the_cluster_of_their_node(cluster: str) -> None:
    (resource, *_) = ClusterDiffer(cluster).update(PODS, make_object(PODS))

    assert isinstance(resource, Resource)
    assert resource.state.get("cluster", "") == cluster


async def test_missing_rules_are_those_of_one_cluster() -> None:
    refused = [
        Resource(kind="kubernetes.access", namespace=cluster, name=kind, status="forbidden",
                 state={"cluster": cluster, "reason": "forbidden",
                        "rule": f"# in the rules of a ClusterRole\n- resources: [{kind}s]\n"})
        for cluster, kind in (("eu", "node"), ("us", "node"), ("us", "pod"))
    ]  # fmt: skip

    text = plain(await render("access", refused))

    assert "ClusterRole of the cluster eu: - resources: [nodes] Missing" in text
    assert "ClusterRole of the cluster us: - resources: [nodes] - resources: [pods]" in text
