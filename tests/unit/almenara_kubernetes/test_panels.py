"""The panels of Kubernetes: pods as cells, tables, one pod, one workload, and what was refused."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from almenara.sdk import now
from almenara.signals import Event, Resource, Sample, Severity, Signal
from almenara_demo.kubernetes_cluster import measure_nodes, measure_pods
from almenara_demo.kubernetes_world import World
from almenara_kube.kinds import WatchedKind
from almenara_kube.objects import KubernetesObject
from almenara_kubernetes.charts import TONES, draw_cells
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.kinds import KINDS, NODE_METRICS, POD_METRICS
from almenara_kubernetes.panels import pages, panels
from almenara_kubernetes.settings import ClusterSettings, CustomResource, KubernetesSettings
from support.kubernetes_panels import plain, pod, render

EVERY = (
    "glance", "head", "access", "map", "workloads", "pods", "nodes", "events", "pod", "containers",
    "timeline", "workload", "pod_cpu", "pod_memory", "node_cpu", "node_memory", "workload_cpu",
    "workload_memory_pods", "workload_restarts", "namespace_cpu", "nodes_memory", "pending_pods",
    "workload_pods", "workload_timeline", "node", "node_pods", "node_timeline",
)  # fmt: skip
EVIL = "<script>alert(1)</script><img src=x>"


@pytest.fixture(scope="module")
def fleet() -> Sequence[Signal]:
    """What the simulated cluster tells at its start, with something wrong in it."""
    world = World(100, now)
    item = world.workloads["council/council-dev"]
    broken = world.pods_of(item)[0]
    world.ends(broken, "Error", 1)
    world.waits(broken, "CrashLoopBackOff", "back-off 40s")
    world.happens("Pod", broken, "BackOff", "restarting", bad=True, count=4, name="again")
    world.count(item)
    differ = ClusterDiffer()
    signals: list[Signal] = []
    for kind in KINDS:
        trees = world.objects.get(kind.api_kind, {}).values()
        signals += differ.replace_all(kind, "", [decode(kind, tree) for tree in trees])
    for time in (now() - 9_000_000, now()):
        for kind, measure in ((POD_METRICS, measure_pods), (NODE_METRICS, measure_nodes)):
            signals += differ.usage(kind, [decode(kind, tree) for tree in measure(world, time)])
    return signals


def decode(kind: WatchedKind, tree: Any) -> KubernetesObject:
    return kind.decode(msgspec.json.encode(tree))


@pytest.mark.anyio
async def test_map_draws_every_pod_and_failing_groups_first(
    fleet: Sequence[Signal],
) -> None:
    text = await render("map", fleet)

    assert text.count("<path class=") - len(TONES) >= sum(
        isinstance(one, Resource) and one.kind == "kubernetes.pod" for one in fleet
    )
    assert text.index(">council<") < text.index(">cert-manager<")
    assert "CrashLoopBackOff" in text


@pytest.mark.anyio
async def test_glance_counts_failing_and_pending_pods_with_links() -> None:
    node = {"cordoned": False}
    text = await render("glance", [
        pod("a"), pod("b"), pod("c", status="CrashLoopBackOff", severity=Severity.ERROR),
        pod("d", status="Pending", severity=Severity.WARN, namespace="other"),
        Resource(kind="kubernetes.node", name="n", status="Ready", state=node),
        Resource(kind="kubernetes.node", name="m", status="NotReady", severity=Severity.ERROR,
                 state=node),
    ])  # fmt: skip
    figures = re.findall(
        r'href="([^"]+)"(?: class="(\w+)")?><span class="figure big">(\d+)</span>'
        r'<span class="label">([^<]+)<', text
    )  # fmt: skip
    pods = "/dashboards/kubernetes.pods"
    assert figures == [
        (f"{pods}?status=failing", "bad", "1", "failing pod"),
        (f"{pods}?status=pending", "warn", "1", "pending pod"),
        (pods, "", "4", "pods"),
        ("/dashboards/kubernetes.nodes", "bad", "1", "unhealthy node (of 2)"),
    ]
    for status, name in (("failing", "c"), ("pending", "d")):
        assert f">{name}<" in await render(
            "pods", [pod("a"), pod("c", status="CrashLoopBackOff", severity=Severity.ERROR),
                     pod("d", status="Pending", severity=Severity.WARN)], status=status
        )  # fmt: skip
    # Where nodes cannot be seen nothing is said of them.
    assert "node" not in (await render("glance", [pod()])).partition("<ul")[2]


@pytest.mark.anyio
@pytest.mark.parametrize("group", ["workload", "service", "node", "app", "nothing"])
async def test_map_groups_pods_by_anything(fleet: Sequence[Signal], group: str) -> None:
    assert "k-tile" in await render("map", fleet, group=group)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"namespace": "context"}, "neo4j-0"), ({"workload": "StatefulSet/nats"}, "nats-1"),
        ({"service": "valkey"}, "valkey-2"), ({"status": "crashloopbackoff"}, "council-dev-"),
        ({"status": "failing"}, "council-dev-"), ({"label": "app=neo4j"}, "neo4j-1"),
        ({"text": "neo4j context"}, "neo4j-2"), ({"node": "gpu-1"}, "vllm-"),
    ],
)  # fmt: skip
async def test_pod_table_applies_filters(
    fleet: Sequence[Signal], query: dict[str, str], found: str
) -> None:
    text = await render("pods", fleet, **query)

    assert found in text
    assert "coredns" not in text


@pytest.mark.anyio
async def test_workload_has_its_pods_and_a_pod_its_owners(
    fleet: Sequence[Signal],
) -> None:
    name = next(
        one.name for one in fleet if isinstance(one, Resource) and one.status == "CrashLoopBackOff"
    )

    workload = await render("workload", fleet, namespace="council", name="Deployment/council-dev")
    detail = await render("pod", fleet, namespace="council", name=name)
    story = await render("workload_timeline", fleet, namespace="council",
                        name="Deployment/council-dev")  # fmt: skip

    assert name in workload
    assert "5/6 available" in workload
    assert "Deployment/council-dev" in detail
    containers = await render("containers", fleet, namespace="council", name=name)
    assert "back-off 40s" in containers
    assert "container=council" in containers
    assert "4 over" in story or "first" in story


@pytest.mark.anyio
async def test_usage_is_drawn_beside_request_and_limit(fleet: Sequence[Signal]) -> None:
    for panel in ("pod_cpu", "pod_memory"):
        text = await render(panel, fleet, namespace="context", name="neo4j-0")
        assert text.count("<polyline") == 1
        assert text.count('class="level"') == 2
    for panel in ("workload_cpu", "workload_memory"):
        text = await render(panel, fleet, namespace="context", name="StatefulSet/neo4j")
        assert text.count("<polyline") == 1
        assert text.count('class="level"') == 2


@pytest.mark.anyio
async def test_usage_of_a_namespace_needs_the_namespace(fleet: Sequence[Signal]) -> None:
    assert "Choose a namespace" in await render("namespace_cpu", fleet)
    assert "<polyline" in await render("namespace_cpu", fleet, namespace="context")


@pytest.mark.anyio
async def test_head_marks_simulated_data_and_names_missing_rules() -> None:
    label = Resource(kind="kubernetes.cluster", name="s", status="simulated",
                     severity=Severity.WARN, state={"simulated": True})  # fmt: skip
    refused = Resource(kind="kubernetes.access", name="node", status="forbidden",
                       state={"reason": "may not list nodes", "rule": "verbs: [list]"})  # fmt: skip

    text = await render("head", [label, refused])

    assert "Simulated data." in text
    assert "verbs: [list]" in text

    several = [
        Resource(kind="kubernetes.access", namespace=space, name="pod", status="forbidden",
                 state={"reason": f"may not list pods in {space}",
                        "rule": f"# in the rules of a Role in {space}\n- verbs: [list]\n"})
        for space in ("a", "b", "c")
    ]  # fmt: skip
    head = await render("head", several)
    whole = await render("access", several)
    assert "3 kinds cannot be watched" in head
    assert "kubernetes.access" in head
    assert whole.count("- verbs: [list]") == 3
    assert "in the rules of a Role in b" in whole


@pytest.mark.anyio
@pytest.mark.parametrize("panel", EVERY)
async def test_panels_escape_hostile_text_and_need_no_field(panel: str) -> None:
    evil = {
        "workload": f"Deployment/{EVIL}", "node": EVIL, "image": EVIL, "version": EVIL,
        "message": EVIL, "reason": EVIL, "owners": [f"Deployment/{EVIL}"], "labels": {EVIL: EVIL},
        "conditions": [{"type": EVIL, "status": EVIL, "message": EVIL}],
        "containers": [{"name": EVIL, "state": EVIL, "image": EVIL, "message": EVIL}],
        "last": {"reason": EVIL, "container": EVIL},
    }  # fmt: skip
    event = Event(
        id="1", source="kubernetes", type="kubernetes.event.X", subject=f"pod/{EVIL}/{EVIL}",
        correlation=f"deployment/{EVIL}/{EVIL}", time=now(),
        data={"reason": EVIL, "message": EVIL, "count": 3, "first": 1, "last": 2},
    )  # fmt: skip
    signals: list[Signal] = [
        pod(EVIL, namespace=EVIL, status=EVIL, severity=Severity.ERROR, **evil),
        Resource(kind="kubernetes.pod", namespace=EVIL, name="bare", status="Malformed"),
        Resource(kind="kubernetes.node", name=EVIL, status=EVIL, state={**evil, "taints": [EVIL]}),
        Resource(kind="kubernetes.deployment", namespace=EVIL, name=EVIL, status=EVIL, state=evil),
        Sample(kind="kubernetes.pod", namespace=EVIL, name=EVIL, metric="cpu", value=1.0),
        event,
    ]

    about = {"workload": f"Deployment/{EVIL}"}.get(panel.partition("_")[0], EVIL)
    for query in ({"namespace": EVIL, "name": about}, {"namespace": EVIL}, {}):
        text = await render(panel, signals, **query)
        assert "<script>alert" not in text
        assert "<img src=x" not in text


def test_draw_cells_leaves_out_the_best() -> None:
    pods = [pod(str(number)) for number in range(50)]
    pods.append(pod("bad", status="Error", severity=Severity.ERROR))

    picture = draw_cells(pods, room=10, each=True)

    assert picture.left_out == 41
    assert picture.cells[0][0].name == "bad"


def figures(text: str) -> tuple[str, str]:
    """The numbers of pods and of cores on the page of a node."""
    plain = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    pods = re.search(r"\d+ of \d+ pods", plain)
    cores = re.search(r"requests \S+ % of \S+ cores", plain)
    assert pods is not None, plain
    assert cores is not None, plain
    return pods[0], cores[0]


@pytest.mark.anyio
async def test_sums_leave_out_pods_that_have_succeeded_or_failed_and_only_those() -> None:
    request = {"cpu_request": 2.0, "memory_request": 2.0**30}
    node = Resource(kind="kubernetes.node", name="n", status="Ready",
                    state={"cpu": 8.0, "memory": 2.0**34, "pods": 110})  # fmt: skip
    evicted = [
        pod(f"evicted-{number}", status="Evicted", severity=Severity.ERROR, phase="Failed",
            **request)
        for number in range(10)
    ]  # fmt: skip
    completed = pod("done", status="Completed", severity=Severity.DEBUG, phase="Succeeded",
                    **request)  # fmt: skip
    leaving = pod("leaving", status="Terminating", severity=Severity.DEBUG, phase="Running",
                  **request)  # fmt: skip

    without = await render("node", [node, *evicted, completed], name="n")
    with_one = await render("node", [node, *evicted, completed, leaving], name="n")

    assert figures(without) == ("0 of 110 pods", "requests 0.0 % of 8 cores")
    assert figures(with_one) == ("1 of 110 pods", "requests 25 % of 8 cores")
    table = await render("workloads", [*evicted, leaving])
    assert re.search(r"1 GiB|1\.0 GiB", table)
    assert "22" not in re.sub(r"<[^>]*>", " ", table)


@pytest.mark.anyio
async def test_requests_of_a_node_are_unknown_where_pods_are_not_watched() -> None:
    state = {"cpu": 8.0, "memory": 2.0**34, "pods": 110, "devices": {"nvidia.com/gpu": 4.0}}
    node = Resource(kind="kubernetes.node", name="n", status="Ready", state=state)
    elsewhere = pod("a", namespace="other/shop")

    for signals in ([node], [node, elsewhere]):
        page = plain(await render("node", signals, name="n")).replace("\u2013", "none")
        assert "none of 110 pods" in page
        assert "requests none of 8 cores" in page
        assert "4 nvidia.com/gpu, requests none" in page
        tile = plain(await render("nodes", signals)).replace("\u2013", "none")
        assert "CPU none Mem none GPU none/4" in tile
    idle = plain(await render("nodes", [node, pod("a", node="m")]))
    assert "CPU 0.0 % Mem 0.0 % GPU 0/4" in idle


@pytest.mark.anyio
async def test_unready_pods_are_counted_as_not_ready() -> None:
    pods = [pod("a"), pod("b", severity=Severity.WARN, ready=0)]

    head = await render("head", pods)
    table = await render("pods", pods, status="NotReady")

    assert "status=NotReady" in head
    assert ">b<" in table
    assert ">a<" not in table


def test_custom_kinds_of_two_groups_may_share_a_plural() -> None:
    custom = [
        CustomResource(group=group, version="v1", plural="clusters", kind="Cluster")
        for group in ("a.example.org", "b.example.org")
    ]
    settings = KubernetesSettings(clusters=[ClusterSettings()], custom=custom)

    names = [panel.name for panel in panels(settings)]
    titles = [panel.title for panel in panels(settings) if panel.name.startswith("custom_")]

    assert len(names) == len(set(names))
    assert titles == ["Cluster (a.example.org)", "Cluster (b.example.org)"]
    (page,) = (page for page in pages(settings) if page.name == "cluster")
    assert {name for name in names if name.startswith("custom_")} <= set(map(str, page.panels))
    with pytest.raises(ValueError, match="twice"):
        KubernetesSettings(custom=[custom[0], custom[0]])


def unreachable(name: str, status: str = "unreachable") -> Resource:
    return Resource(
        kind="kubernetes.cluster", name=name, status=status, severity=Severity.ERROR,
        state={"since": now() - 120_000_000, "reason": "it has not answered within 4 s"},
    )  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize("panel", ["glance", "map", "pods", "workloads", "nodes"])
async def test_state_of_an_unreachable_cluster_is_marked_as_the_last_known(panel: str) -> None:
    node = Resource(kind="kubernetes.node", name="n", status="Ready", state={"cpu": 1})
    reachable = Resource(kind="kubernetes.cluster", name="cluster", status="ok")

    fresh = await render(panel, [pod(), node, reachable])
    stale = await render(panel, [pod(), node, unreachable("cluster")])

    assert "k-stale" not in fresh
    assert "k-stale" in stale
    # Its source does not run.
    assert "k-stale" in await render(panel, [pod(), node, unreachable("cluster", "unknown")])


@pytest.mark.anyio
async def test_only_the_unreachable_one_of_several_clusters_is_marked() -> None:
    pods = [pod("a", namespace="east/shop"), pod("b", namespace="west/shop")]
    clusters = [unreachable("east"), Resource(kind="kubernetes.cluster", name="west", status="ok")]

    table = await render("pods", [*pods, *clusters])
    of_east = await render("pod", [*pods, *clusters], namespace="east/shop", name="a")
    of_west = await render("pod", [*pods, *clusters], namespace="west/shop", name="b")

    assert table.count("k-stale") == 1
    assert "last known state" in of_east
    assert "last known state" not in of_west
    assert "k-stale" not in await render("glance", [*pods, *clusters])
