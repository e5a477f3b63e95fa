"""What a graph of 10,000 nodes and 20,000 relationships costs that changes 100 times a second.

A real Neo4j server, of which a part is drawn: `make bench-graph`. BENCH_NODES, BENCH_RATE and
BENCH_SECONDS change how much is measured. Prints the processor time of Almenara and of the main
thread of a browser. `--short` measures little. It fails where the page is not live, reports an
error, does not say that it shows a part, or a search does not cover all nodes.
"""

import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from kubernetes_pages import measure_page

from support.application import Almenara
from support.neo4j import PROGRAM, WHY_NOT, Neo4jServer
from support.servers import wait_until

SHORT = "--short" in sys.argv
NODES = int(os.environ.get("BENCH_NODES", "2000" if SHORT else "10000"))
RATE = int(os.environ.get("BENCH_RATE", "100"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "4" if SHORT else "20"))
BATCH = 10
"""Changes of one transaction."""
GRAPH = "/dashboards/neo4j.graph"
LABELS = ("Story", "Decision", "Subtask", "Role")


def fill(server: Neo4jServer) -> None:
    for label in LABELS:
        server.call(f"CREATE INDEX FOR (n:{label}) ON (n.id)")
        server.call(f"CREATE INDEX FOR (n:{label}) ON (n.updated)")
        server.call(
            f"UNWIND range(1, $count) AS n CREATE (:{label} {{id: '{label}-' + n, updated: n,"
            " title: 'Number ' + n + ' of these', priority: n % 5})",
            count=NODES // len(LABELS),
        )
    for start, end in zip(LABELS, (*LABELS[1:], LABELS[0]), strict=True):
        server.call(
            f"MATCH (a:{start}), (b:{end} {{id: '{end}-' + (toInteger(rand() * $count) + 1)}})"
            " CREATE (a)-[:LEADS_TO]->(b)"
            f" WITH a MATCH (c:{end} {{id: '{end}-' + (toInteger(rand() * $count) + 1)}})"
            " CREATE (a)-[:USES]->(c)",
            count=NODES // len(LABELS),
        )


class Writer(threading.Thread):
    """Changes the graph at a rate: nodes that exist, new ones, and deletions of these."""

    def __init__(self, server: Neo4jServer) -> None:
        super().__init__(daemon=True)
        self.server, self.changes = server, 0
        self.is_stopped = threading.Event()
        self.started_at = time.monotonic()

    def run(self) -> None:
        created = 0
        with self.server.driver() as driver, driver.session() as session:
            while not self.is_stopped.is_set():
                ids = [random.randrange(1, NODES // len(LABELS)) for _ in range(BATCH - 2)]
                session.run(
                    "UNWIND $ids AS id MATCH (n:Story {id: 'Story-' + id})"
                    " SET n.updated = timestamp(), n.priority = n.priority + 1",
                    ids=ids,
                ).consume()
                created += 1
                session.run(
                    "MATCH (s:Story {id: 'Story-' + $near}) CREATE (s)-[:LEADS_TO]->"
                    "(:Decision {id: 'new-' + $number, updated: timestamp(), title: 'New'})",
                    near=ids[0], number=created,
                ).consume()  # fmt: skip
                session.run(
                    "MATCH (d:Decision {id: 'new-' + $number}) DETACH DELETE d",
                    number=created - 100,
                ).consume()
                self.changes += BATCH
                pause = self.started_at + self.changes / RATE - time.monotonic()
                self.is_stopped.wait(max(pause, 0))


def processor_seconds(process: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(server: Neo4jServer, folder: Path) -> None:
    deployment = {
        "name": "lab", "urls": [server.url],
        "graphs": [{"name": "fleet", "changed_property": "updated"}],
    }  # fmt: skip
    config = {"plugins": {"neo4j": {"deployments": [deployment]}, "disabled": ["nats"]}}
    with Almenara(folder / "almenara", config=config) as almenara, sync_playwright() as playwright:
        wait_until(lambda: "Shows a part" in almenara.text(GRAPH), "the graph", 90)
        last = f"Role-{NODES // len(LABELS) // 2}"
        assert last in almenara.text(f"{GRAPH}?text={last}"), f"{last} is not found"
        writer = Writer(server)
        writer.start()
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("ALMENARA_CHROMIUM"), args=["--no-sandbox"]
        )
        assert almenara.process is not None
        before, started = processor_seconds(almenara.process.pid), time.monotonic()
        cost = measure_page(browser, almenara.url + GRAPH, SECONDS)
        seconds = time.monotonic() - started
        used = processor_seconds(almenara.process.pid) - before
        changes = writer.changes / (time.monotonic() - writer.started_at)
        writer.is_stopped.set()
        writer.join()
        browser.close()
    print("| changes/s | server, ms/s | painted, ms | main thread, ms/s | elements | KiB/s |")
    print("|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {changes:.0f} | {used / seconds * 1000:.0f} | {cost['painted']:.0f} |"
        f" {cost['busy']:.0f} | {cost['nodes']:,.0f} | {cost['bytes']:.0f} |"
    )


def main() -> None:
    if PROGRAM is None:
        print(f"SKIPPED: {WHY_NOT}")
        return
    with tempfile.TemporaryDirectory() as folder, Neo4jServer(Path(folder) / "neo4j") as server:
        fill(server)
        measure(server, Path(folder))


if __name__ == "__main__":
    main()
