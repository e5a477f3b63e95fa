"""The pages of Kubernetes in a real browser, on a simulated cluster that goes on changing."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from support.application import Almenara
from support.servers import wait_until

KUBERNETES = "/dashboards/kubernetes"
PHONE = {"width": 390, "height": 844}
FAILING = f"{KUBERNETES}.workload?namespace=context&name=Deployment/context-indexer"
SERVING = f"{KUBERNETES}.workload?namespace=inference&name=Deployment/model-gateway"
HIDDEN = """
all => all.filter(it => {
  const {left, right, top, height} = it.getBoundingClientRect();
  const seen = document.elementFromPoint((left + right) / 2, top + height / 2);
  return left < 0 || right > innerWidth || !(seen && (it.contains(seen) || seen.contains(it)));
}).map(it => it.outerHTML)
"""
"""What lies outside the window, or behind something."""
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture
def problems(page: Page) -> Iterator[list[str]]:
    """What the browser complains of while a test runs: nothing."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda each: problems.append(each.text) if each.type == "error" else None)
    yield problems
    assert problems == []


def live(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#live")).to_have_attribute("data-state", "live")


def arrived(page: Page, address: str) -> None:
    """Wait until the page of an address, a pattern, is there and live."""
    expect(page).to_have_url(re.compile(address))
    expect(page.locator("#live")).to_have_attribute("data-state", "live")


def pods_shown(page: Page) -> int:
    return int(page.locator(".k-count .big").inner_text().replace(",", ""))


def a_pod(page: Page, almenara: Almenara, workload: str) -> None:
    """Go to the page of a pod, by the table of its workload."""
    live(page, almenara.url + workload)
    page.locator("#panel-kubernetes-workload_pods tbody th a").first.click()
    expect(page.locator("#live")).to_have_attribute("data-state", "live")


@pytest.mark.usefixtures("problems")
def test_pod_map_groups_pods_by_choice(cluster: Almenara, page: Page) -> None:
    live(page, cluster.url + KUBERNETES)
    expect(page.locator(".k-simulated")).to_contain_text("Simulated data")
    for group, tile in (
        ("Workload", "council/StatefulSet"), ("Service", "council/orchestrator"),
        ("Node", "worker-01"), ("App", "neo4j"), ("Part of", "inference"), ("Namespace", "ray"),
    ):  # fmt: skip
        page.locator(".k-groupings").get_by_role("link", name=group, exact=True).click()
        chosen = page.locator(".k-groupings a[aria-current]")
        expect(chosen).to_have_text(group)
        names = page.locator(".k-tile .k-name a")
        if group == "Workload":
            tile = "context/StatefulSet/neo4j"
        expect(names.filter(has_text=tile).first).to_be_visible()
        counts = page.locator(".k-tile .k-name .figure").all_inner_texts()
        assert sum(map(int, counts)) >= pods_shown(page) - 2, group
    # Trouble comes first, and says what it is.
    expect(page.locator(".k-tile").first).to_have_class(re.compile("k-tile-(bad|wait)"))
    expect(page.locator(".k-tile").first.locator(".k-trouble")).not_to_have_count(0)


@pytest.mark.usefixtures("problems")
def test_filters_are_in_the_address_and_apply_to_every_panel(cluster: Almenara, page: Page) -> None:
    live(page, cluster.url + KUBERNETES)
    everything = pods_shown(page)
    page.get_by_label("Namespace").fill("council")
    page.get_by_role("button", name="Filter").click()
    arrived(page, r"\?namespace=council$")
    assert 0 < pods_shown(page) < everything
    namespaces = page.locator("#panel-kubernetes-workloads tbody td:nth-child(3)")
    assert set(namespaces.all_inner_texts()) == {"council"}
    expect(page.locator(".k-tile")).to_have_count(1)
    # The tabs keep the namespace, and a status leads to the pods that have it.
    page.locator(".k-tabs").get_by_role("link", name="Pods").click()
    arrived(page, r"kubernetes\.pods\?namespace=council$")
    expect(page.locator(".k-tabs a[aria-current='page']")).to_have_text("Pods")
    page.locator(".strip .chip").filter(has_text="Running").click()
    arrived(page, r"namespace=council&status=Running")
    status = page.locator("#panel-kubernetes-pods tbody td:first-child")
    expect(status.first).to_have_text("Running")
    assert set(status.all_inner_texts()) == {"Running"}
    page.get_by_role("link", name="Restarts").click()
    expect(page.locator("th[aria-sort='descending']")).to_contain_text("Restarts")
    live(page, f"{cluster.url}{KUBERNETES}.pods?text=neo4j%20context")
    names = page.locator("#panel-kubernetes-pods tbody th").all_inner_texts()
    assert sorted(names) == ["neo4j-0", "neo4j-1", "neo4j-2"]
    live(page, f"{cluster.url}{KUBERNETES}.pods?label=app%3Dvalkey")
    assert page.locator("#panel-kubernetes-pods tbody tr").count() == 3


@pytest.mark.usefixtures("problems")
def test_pages_follow_the_cluster_without_a_reload(cluster: Almenara, page: Page) -> None:
    live(page, f"{cluster.url}{KUBERNETES}?namespace=context")
    page.evaluate("window.sameDocument = true")
    table = page.locator("#panel-kubernetes-workloads")

    def read_workloads() -> str:
        return re.sub(r"\d+[smhd]", "", table.inner_text())

    before = read_workloads()
    wait_until(lambda: read_workloads() != before, "a change of a workload", 30)
    assert page.evaluate("window.sameDocument")


@pytest.mark.usefixtures("problems")
def test_workload_page_links_to_pods_and_logs(cluster: Almenara, page: Page) -> None:
    live(page, f"{cluster.url}{KUBERNETES}?text=model-gateway")
    page.locator("#panel-kubernetes-workloads tbody th a").first.click()
    expect(page.locator("h1")).to_have_text("Workload inference / Deployment/model-gateway")
    expect(page.locator("#panel-kubernetes-workload_pods tbody tr")).to_have_count(3)
    page.locator("#panel-kubernetes-workload_pods tbody th a").first.click()
    expect(page.locator("#panel-kubernetes-pod .k-chain a").first).to_have_text(
        "Deployment/model-gateway"
    )
    expect(page.locator("#panel-kubernetes-containers tbody tr")).to_have_count(2)
    # The lines of the charts go from left to right only.
    page.wait_for_selector(".series polyline", state="attached")
    lines = page.eval_on_selector_all(
        ".series polyline", "all => all.map(it => it.getAttribute('points'))"
    )
    assert lines
    for line in lines:
        across = [float(point.split(",")[0]) for point in line.split()]
        assert across == sorted(across)
    page.get_by_role("link", name="current logs of proxy", exact=True).click()
    arrived(page, "container=proxy")
    expect(page.get_by_label("Container", exact=True)).to_have_value("proxy")
    page.locator(".k-chain a").first.click()
    expect(page.locator("h1")).to_contain_text("Deployment/model-gateway")


@pytest.mark.usefixtures("problems")
def test_pod_log_follows_searches_and_selects_containers(cluster: Almenara, page: Page) -> None:
    a_pod(page, cluster, FAILING)
    lines = page.locator("#panel-kubernetes-logs-lines li")
    expect(lines.first).to_be_visible()
    before = lines.count()
    expect(lines).not_to_have_count(before)
    page.get_by_label("Search logs").fill("heartbeat")
    page.get_by_role("button", name="Filter").click()
    arrived(page, "text=heartbeat")
    expect(page.locator(".log-state")).to_contain_text("lines match “heartbeat”")
    assert all("heartbeat" in each for each in lines.all_inner_texts())
    page.get_by_label("Previous container").select_option("yes")
    page.get_by_role("button", name="Filter").click()
    arrived(page, "previous=yes")
    expect(page.locator(".log-state")).to_contain_text("The log has ended")
    frozen = lines.count()
    page.wait_for_timeout(300)
    assert lines.count() == frozen


@pytest.mark.usefixtures("problems")
def test_yaml_page_redacts_secrets(cluster: Almenara, page: Page) -> None:
    a_pod(page, cluster, SERVING)
    page.get_by_role("link", name="YAML").click()
    expect(page.locator("h1")).to_contain_text("YAML inference / Pod/model-gateway")
    text = page.locator("#panel-kubernetes-manifest-lines").inner_text()
    assert "kind: Pod" in text
    assert "image: example/model-gateway:2.4.1" in text
    assert "value: (masked)" in text
    assert "secretKeyRef" in text
    page.get_by_label("Filter lines").fill("image:")
    page.get_by_role("button", name="Filter").click()
    lines = page.locator("#panel-kubernetes-manifest-lines li").all_inner_texts()
    assert lines
    assert all("image:" in each for each in lines)
    page.goto(f"{cluster.url}{KUBERNETES}.yaml?namespace=inference&name=Secret/nats")
    expect(page.locator(".log-state")).to_contain_text("choose one of Pod, Deployment")


@pytest.mark.usefixtures("problems")
def test_node_map_links_to_pods(cluster: Almenara, page: Page) -> None:
    live(page, f"{cluster.url}{KUBERNETES}.nodes")
    tiles = page.locator(".k-nodes .k-tile")
    nodes = int(page.locator(".k-groupings").inner_text().split()[0])
    assert tiles.count() >= nodes > 5
    cells = page.locator(".k-nodes .k-cells a")
    assert cells.count() == pods_shown(page)
    gpu = tiles.filter(has_text="gpu-1").first
    expect(gpu).to_contain_text("GPU")
    gpu.locator(".k-cells a").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#panel-kubernetes-pod")).to_contain_text("gpu-1")
    page.get_by_role("link", name="gpu-1").click()
    expect(page.locator("h1")).to_contain_text("gpu-1")
    expect(page.locator("#panel-kubernetes-node")).to_contain_text("nvidia.com/gpu")


@pytest.mark.usefixtures("problems")
def test_events_page_filters_and_links_to_subjects(cluster: Almenara, page: Page) -> None:
    live(page, f"{cluster.url}{KUBERNETES}.events")
    rows = page.locator("#panel-kubernetes-events .k-events li")
    expect(rows.filter(has_text="BackOff").first).to_be_visible(timeout=30_000)
    page.get_by_label("Severity").select_option("ERROR")
    page.get_by_role("button", name="Filter").click()
    expect(rows.first).to_be_visible()
    assert set(rows.evaluate_all("all => all.map(it => it.dataset.severity)")) == {"ERROR"}
    subject = rows.filter(has_text="pod/").first.locator(".k-subject").inner_text()
    name = subject.rpartition("/")[2]
    # Another event may be the first by now.
    rows.locator(".k-subject", has_text=subject).first.click()
    expect(page.locator("h1")).to_contain_text(name)
    expect(page.locator("#panel-kubernetes-timeline .k-events li").first).to_be_visible()


def test_pages_fit_a_phone_and_work_without_scripts(cluster: Almenara, page: Page) -> None:
    assert page.context.browser is not None
    context = page.context.browser.new_context(java_script_enabled=False, viewport=PHONE)  # type: ignore[arg-type]
    plain = context.new_page()
    addresses = [
        *(KUBERNETES + each for each in ("", ".pods", ".nodes", ".events", ".cluster")), FAILING,
        f"{KUBERNETES}.node?name=worker-01", f"{KUBERNETES}.pod?namespace=context&name=neo4j-0",
        f"{KUBERNETES}.yaml?namespace=context&name=Pod/neo4j-0",
        f"{KUBERNETES}.pod?namespace=context&name=nothing", f"{KUBERNETES}.pods?text=nothing",
    ]  # fmt: skip
    for address in addresses:
        response = plain.goto(cluster.url + address)
        assert response is not None
        assert response.status == 200, address
        assert plain.locator(".panel").first.inner_text(), address
        assert plain.evaluate(WIDER) <= 0, address
        fields = plain.locator(".page-head > .panel-filter :is(input, select, button):visible")
        assert fields.evaluate_all(HIDDEN) == [], address
    context.close()


@pytest.mark.parametrize("name", ["workloads", "pods"])
def test_tables_of_a_phone_do_not_scroll_sideways(cluster: Almenara, page: Page, name: str) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    page.goto(f"{cluster.url}/panels/kubernetes.{name}")
    table = page.locator(".table-wrap")
    first = table.locator("tbody tr").first
    first.wait_for()
    assert table.evaluate("wrap => wrap.scrollWidth - wrap.clientWidth") <= 0
    # Each cell says what it is, by the title of its column.
    titles = table.locator("thead th").all_inner_texts()
    labels = first.evaluate(
        "row => [...row.cells].map(cell => getComputedStyle(cell, '::before').content)"
    )
    names = [label.strip('"') for label in labels]
    assert names[2:] == [title.strip(" \u2191\u2193") for title in titles[2:]]
