"""What the chart writes for the application is what the application takes."""

import os
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from support.application import Almenara
from support.authority import Authority
from support.chart import engine
from support.chart.engine import ALMENARA, Tree, render, value_sets, workload
from support.servers import free_port, wait_until

SETS = value_sets()
PLUGIN = """
import almenara


@almenara.hookimpl
def almenara_startup(settings, context):
    pass
"""
INSTALLED = {"plugin-install"}
"""Sets whose plugins come from an index that is not there."""


def placed(values: Tree, folder: Path) -> Tree:
    """The rendered configuration, with the volumes of the pod as folders of ours."""
    manifests = render(values)
    text = yaml.safe_dump(engine.configuration(manifests))
    text = text.replace("/etc/almenara", str(folder)).replace("/data", str(folder / "data"))
    for name, said in values.get("secrets", {}).items():
        place = folder / "secrets" / name
        place.mkdir(parents=True)
        for key, value in said.get(
            "data",
            dict.fromkeys(("password", "client-secret", "token", "kubeconfig", "secret"), "x" * 40),
        ).items():
            (place / key).write_text(value)
        if name == "tls":
            Authority(place).issue("tls", server=True)
    plugins = folder / "plugins"
    plugins.mkdir()
    for name, source in values.get("plugins", {}).get("files", {}).items():
        (plugins / name).write_text(source)
    if "existingConfigMap" in values.get("plugins", {}):
        (plugins / "ours.py").write_text(PLUGIN)
    return yaml.safe_load(text)


CHECK = """
import os, sys
from almenara.cli.main import build_cli, main
from almenara.plugins import load_plugins

# Imports what plugins import, once for all.
build_cli(load_plugins())
for file in sys.argv[1:]:
    if (child := os.fork()) == 0:
        with open(f"{file}.output", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.argv = ["almenara", "--config", file, "config", "check"]
        sys.exit(main())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Runs the command for each file in a process of its own, with everything imported before."""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """What `almenara config check` ends with and says, by set of values."""
    files: dict[str, Path] = {}
    for name in sorted(SETS.keys() - INSTALLED):
        folder = tmp_path_factory.mktemp(name)
        files[name] = folder / "almenara.yaml"
        files[name].write_text(yaml.safe_dump(placed(engine.read(SETS[name]), folder)))
    done = subprocess.run(
        [ALMENARA.with_name("python"), "-c", CHECK, *files.values()],
        env={**{it: v for it, v in os.environ.items() if "ALMENARA" not in it}, "COLUMNS": "200"},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    codes = map(int, done.stdout.split())
    return {
        name: (code, Path(f"{file}.output").read_text())
        for (name, file), code in zip(files.items(), codes, strict=True)
    }


@pytest.mark.parametrize("name", sorted(SETS.keys() - INSTALLED))
def test_application_accepts_rendered_configuration(
    name: str, checked: dict[str, tuple[int, str]]
) -> None:
    code, output = checked[name]
    assert code == 0, output
    assert "The configuration is valid." in output


def test_application_refuses_wrong_configuration(tmp_path: Path) -> None:
    config = placed({}, tmp_path)
    config["plugins"]["natz"] = {}
    done = Almenara(tmp_path / "product", config=config).command("config", "check")
    assert done.returncode != 0
    assert "natz" in done.stderr


@pytest.fixture(
    scope="module", params=["defaults", "plugin-files", "dashboards", "ingress-traefik", "large"]
)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Almenara, Tree]]:
    tmp_path = tmp_path_factory.mktemp("running")
    values = engine.read(SETS[request.param])
    config = placed(values, tmp_path)
    config["server"]["port"] = free_port()
    # Quick to end, as what the drain lasts is not what is looked at here.
    config["server"]["drain_period"] = 0.2
    with Almenara(tmp_path / "product", config=config) as product:
        yield product, workload(render(values))


def test_server_responds_to_every_probe(running: tuple[Almenara, Tree]) -> None:
    product, result = running
    server = result["spec"]["template"]["spec"]["containers"][0]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = server[name]
        # As the kubelet asks: by address, and patient for as long as the probe says.
        request = urllib.request.Request(
            f"{product.url}{probe['httpGet']['path']}", headers={"User-Agent": "kube-probe/1.37"}
        )
        with urllib.request.urlopen(request, timeout=probe["timeoutSeconds"]) as response:
            assert response.status == 200


def test_server_refuses_unknown_host(running: tuple[Almenara, Tree]) -> None:
    product, _ = running
    assert product.status("/readyz", Host="elsewhere.example.org") == 400
    assert product.status("/readyz", Host="rel-almenara.watch.svc.cluster.local") == 200
    assert product.status("/readyz", Host="rel-almenara") == 200


def test_server_with_certificate_is_probed_over_https(tmp_path: Path) -> None:
    values = engine.read(SETS["own-certificate"])
    config = placed(values, tmp_path)
    config["server"].update(port=free_port(), drain_period=0.2)
    product = Almenara(tmp_path / "product", config=config)
    product.launch()
    # The kubelet asks by address and looks at no name.
    context = ssl._create_unverified_context()
    server = workload(render(values))["spec"]["template"]["spec"]["containers"][0]
    try:
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = server[name]["httpGet"]
            url = f"{probe['scheme'].lower()}://127.0.0.1:{product.port}{probe['path']}"
            assert url.startswith("https:")

            def answered(url: str = url) -> bool:
                try:
                    with urllib.request.urlopen(url, timeout=3, context=context) as response:
                        return bool(response.status == 200)
                except OSError:
                    return False

            wait_until(answered, name, 60)
    finally:
        product.stop()


def test_server_stays_ready_without_nats(tmp_path: Path) -> None:
    config = placed({"config": {"plugins": {"nats": {"servers": [f"nats://127.0.0.1:{free_port()}"]}}}},
                    tmp_path)  # fmt: skip
    config["server"].update(port=free_port(), drain_period=0.2)
    config["auth"] = {"public_metrics": True}
    with Almenara(tmp_path / "product", config=config) as product:
        wait_until(
            lambda: 'almenara_source_up{source="nats"} 0.0' in product.text("/metrics"),
            "the source that is away",
        )
        assert product.status("/healthz") == 200
        assert product.status("/readyz") == 200


def test_server_is_not_ready_during_shutdown(tmp_path: Path) -> None:
    config = placed({}, tmp_path)
    config["server"].update(port=free_port(), drain_period=3.0)
    with Almenara(tmp_path / "product", config=config) as product:
        assert product.process is not None
        os.kill(product.process.pid, signal.SIGTERM)
        wait_until(lambda: product.status("/readyz") == 503, "readiness that fails")
        assert product.status("/healthz") == 200
        assert product.stop() == 0


def test_notes_show_url_and_checks() -> None:
    notes = engine.files(engine.read(SETS["ingress-nginx"]))["almenara/templates/NOTES.txt"]
    assert "https://almenara.example.org/" in notes
    assert "almenara doctor" in notes
    assert "helm --namespace watch test rel" in notes
    without = engine.files({"persistence": {"enabled": False}})["almenara/templates/NOTES.txt"]
    assert "are\nlost with the pod" in without
    assert "All pods of the cluster can connect to the web port" in notes
    assert "Only kubectl port-forward can connect to the web port" in without
    narrow = engine.files(engine.read(SETS["network-policy-narrow"]))
    assert "the web port" not in narrow["almenara/templates/NOTES.txt"]
