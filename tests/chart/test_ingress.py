"""From a browser through a real ingress controller to the application, as the chart sets them up.

Traefik reads the Ingress, the Service and the certificate from a real API server. The address of
the pod is one that this machine alone has.
"""

import base64
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from playwright.sync_api import Page, expect, sync_playwright
from websockets.exceptions import InvalidHandshake, InvalidStatus

from support.api_server import ApiServer
from support.application import Almenara
from support.authority import Authority, private_pem
from support.chart.cluster import Cluster, define_gateway_api
from support.chart.engine import ALMENARA, CHART, Tree
from support.chart.live import Live, opened
from support.raw_nats import RawClient
from support.servers import NatsServer, accepts, free_port, wait_until

HOST = "almenara.example.org"
ROUTED = "gateway.example.org"
"""The host of the HTTPRoute; HOST is the Ingress's."""
POD = "198.51.100.7"
TOKEN = "a-token-that-only-this-test-knows"
IDLE = 2
"""Seconds after which this Traefik ends connections that are silent."""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip"), reason="an address of a pod needs root and ip"
)


class Traefik:
    """Traefik with its providers for Ingress and for the Gateway API, on the API server."""

    def __init__(self, folder: Path, server: ApiServer, token: str) -> None:
        self.folder = folder
        self.plain, self.secure = free_port(), free_port()
        limits = "--entryPoints.websecure.transport.respondingTimeouts"
        provider, gateway = "--providers.kubernetesIngress", "--providers.kubernetesGateway"
        self.arguments = [
            f"--entryPoints.web.address=127.0.0.1:{self.plain}",
            f"--entryPoints.websecure.address=127.0.0.1:{self.secure}",
            f"{limits}.idleTimeout={IDLE}s", f"{limits}.readTimeout={IDLE}s",
            f"{provider}=true", f"{provider}.endpoint={server.url}", f"{provider}.token={token}",
            f"{provider}.certAuthFilePath={server.ca}",
            f"{gateway}=true", f"{gateway}.endpoint={server.url}", f"{gateway}.token={token}",
            f"{gateway}.certAuthFilePath={server.ca}",
            "--global.checkNewVersion=false", "--global.sendAnonymousUsage=false",
            "--log.level=INFO",
        ]  # fmt: skip

    @property
    def log(self) -> str:
        return (self.folder / "traefik.log").read_text("utf-8", "replace")

    def __enter__(self) -> "Traefik":
        program = Path(sys.executable).parent / "traefik"
        with (self.folder / "traefik.log").open("ab") as log:
            self.process = subprocess.Popen([program, *self.arguments], stdout=log, stderr=log)
        wait_until(lambda: accepts(self.secure), "traefik", 60)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)


class Fleet:
    """All of it: the release in the API server, the application, Traefik, and what publishes."""

    def __init__(
        self, traefik: Traefik, product: Almenara, publisher: RawClient, authority: Authority
    ) -> None:
        self.traefik, self.product, self.publisher = traefik, product, publisher
        self.authority, self.published = authority, 0
        self.cluster: Cluster

    def publish(self) -> int:
        self.published += 1
        text = json.dumps({"event_type": "NUMBERED", "text": f"number-{self.published}-here"})
        self.publisher.publish("fleet.numbers", text.encode())
        return self.published

    def live(self, origin: str | None, host: str = HOST) -> AbstractContextManager[Live]:
        """The WebSocket, through Traefik."""
        context = ssl.create_default_context(cafile=str(self.authority.path))
        return opened(
            f"wss://{host}:{self.traefik.secure}/live?panel=events", ssl=context, origin=origin,
            host="127.0.0.1", additional_headers={"Authorization": f"Bearer {TOKEN}"},
        )  # fmt: skip


@pytest.fixture(scope="module")
def pod_address() -> Iterator[str]:
    subprocess.run(["ip", "address", "replace", f"{POD}/32", "dev", "lo"], check=True)
    yield POD
    subprocess.run(["ip", "address", "delete", f"{POD}/32", "dev", "lo"], check=True)


@pytest.fixture(scope="module")
def fleet(
    programs: Path,
    api_server: ApiServer,
    pod_address: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("ingress")
    cluster = Cluster(programs, api_server, api_server.namespace("ingress"))
    port = free_port()
    with NatsServer(folder / "nats") as nats:
        publisher = RawClient(nats.port)
        publisher.make_stream("FLEET", "fleet.>")
        trusted = [f"{pod_address}/32"]
        values: Tree = {
            "ingress": {"enabled": True, "className": "traefik", "host": HOST},
            "gateway": {
                "enabled": True, "hostnames": [ROUTED],
                "parentRefs": [{"name": "public", "sectionName": "https"}],
            },
            "secrets": {"access": {"data": {"token": TOKEN}}},
            "config": {
                "server": {"port": port, "drain_period": 0.5, "trusted_proxies": trusted},
                "auth": {"mode": "token", "token": {"file": "/etc/almenara/secrets/access/token"}},
                "plugins": {"nats": {"servers": [nats.url]}},
            },
        }  # fmt: skip
        define_gateway_api(programs, api_server)
        cluster.helm.install(CHART, "rel", values)
        certificates = folder / "certificates"
        certificates.mkdir()
        authority = HostAuthority(certificates)
        played(cluster, authority, pod_address, port)
        text = cluster.get("v1", "ConfigMap", "rel-almenara")["data"]["almenara.yaml"]
        config = yaml.safe_load(text.replace("/etc/almenara/secrets/access", str(folder)))
        (folder / "token").write_text(TOKEN)
        # The chart listens on every address of the pod; here the pod has only this one.
        config["server"]["host"] = pod_address
        config["storage"]["dir"] = str(folder / "data")
        token = api_server.service_account(cluster.namespace, "traefik")
        read = ["get", "list", "watch"]
        api_server.allow(
            f"{cluster.namespace}/traefik",
            [
                {"apiGroups": [""], "verbs": read,
                 "resources": ["services", "secrets", "nodes", "namespaces", "configmaps"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
                {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses", "ingressclasses"],
                 "verbs": read},
                {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses/status"],
                 "verbs": ["update"]},
                {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["*"],
                 "verbs": [*read, "update", "patch"]},
            ],
            name="traefik",
        )  # fmt: skip
        with (
            Almenara(folder / "product", config=config) as product,
            Traefik(folder, api_server, token) as traefik,
        ):
            gateway(cluster, traefik.secure)
            result = Fleet(traefik, product, publisher, authority)
            wait_until(lambda: routed(result), "the route of the ingress", 60)
            result.cluster = cluster
            yield result
        publisher.close()
        cluster.helm.uninstall("rel")


class HostAuthority(Authority):
    """An authority that issues a certificate for the host of the ingress."""

    def for_host(self) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
        builder = self._builder(name, key).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(each) for each in (HOST, ROUTED)]),
            critical=False,
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        self.pin = base64.b64encode(
            hashlib.sha256(
                key.public_key().public_bytes(
                    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            ).digest()
        ).decode()
        return certificate.public_bytes(serialization.Encoding.PEM), private_pem(key)


def played(cluster: Cluster, authority: HostAuthority, address: str, port: int) -> None:
    """What others make in a cluster: the certificate, the class, the endpoints."""
    certificate, key = authority.for_host()
    cluster.server.create(
        {
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "rel-almenara-tls", "namespace": cluster.namespace},
            "data": {"tls.crt": base64.b64encode(certificate).decode(),
                     "tls.key": base64.b64encode(key).decode()},
        }
    )  # fmt: skip
    traefik = {
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "traefik"},
        "spec": {"controller": "traefik.io/ingress-controller"},
    }  # fmt: skip
    cluster.server.send("POST", "/apis/networking.k8s.io/v1/ingressclasses", traefik)
    cluster.server.create(
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "rel-almenara", "namespace": cluster.namespace,
                         "labels": {"kubernetes.io/service-name": "rel-almenara"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        }
    )  # fmt: skip


def gateway(cluster: Cluster, port: int) -> None:
    """What an operator of gateways makes, for the route of the release to hang on."""
    api = "gateway.networking.k8s.io/v1"
    cluster.server.create(
        {
            "apiVersion": api, "kind": "GatewayClass", "metadata": {"name": "traefik"},
            "spec": {"controllerName": "traefik.io/gateway-controller"},
        }
    )  # fmt: skip
    secret = {"name": "rel-almenara-tls"}
    cluster.server.create(
        {
            "apiVersion": api, "kind": "Gateway",
            "metadata": {"name": "public", "namespace": cluster.namespace},
            "spec": {
                "gatewayClassName": "traefik",
                "listeners": [{"name": "https", "protocol": "HTTPS", "port": port,
                               "tls": {"mode": "Terminate", "certificateRefs": [secret]}}],
            },
        }
    )  # fmt: skip


def routed(fleet: Fleet, host: str = HOST) -> bool:
    assert fleet.traefik.process.poll() is None, fleet.traefik.log
    try:
        with fleet.live(f"https://{host}:{fleet.traefik.secure}", host):
            return True
    except (OSError, InvalidHandshake):
        return False


@pytest.fixture(scope="module")
def browser_page(fleet: Fleet) -> Iterator[Page]:
    assert isinstance(fleet.authority, HostAuthority)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("ALMENARA_CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox",
                  f"--host-resolver-rules=MAP {HOST}:443 127.0.0.1:{fleet.traefik.secure}",
                  f"--ignore-certificate-errors-spki-list={fleet.authority.pin}"],
        )  # fmt: skip
        page = browser.new_page()
        page.set_default_timeout(20_000)
        yield page
        browser.close()


def test_ingress_serves_browser_without_missing_events(fleet: Fleet, browser_page: Page) -> None:
    page = browser_page
    sockets: list[str] = []
    page.on("websocket", lambda each: sockets.append(each.url))
    page.goto(f"https://{HOST}/events")
    assert "/sign-in" in page.url
    page.fill("input[name=token]", TOKEN)
    page.keyboard.press("Enter")
    page.wait_for_url(f"https://{HOST}/events")
    (cookie,) = [each for each in page.context.cookies() if each["name"].startswith("__Host-")][:1]
    assert cookie["secure"]
    assert cookie["httpOnly"]
    first = fleet.publish()
    expect(page.get_by_text(f"number-{first}-here")).to_be_visible()
    assert sockets[0].startswith(f"wss://{HOST}/live")

    # Silent for longer than Traefik bears with an idle connection: the same WebSocket goes on.
    time.sleep(3 * IDLE + 1)
    later = fleet.publish()
    expect(page.get_by_text(f"number-{later}-here")).to_be_visible()
    assert len(sockets) == 1

    # An update of the release while events go on: the pod drains and ends, another takes its place.
    over = threading.Event()

    def publish() -> None:
        while not over.wait(0.3):
            fleet.publish()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        assert fleet.product.stop() == 0
        ended = fleet.publish()
        fleet.product.start()
        wait_until(lambda: fleet.published > ended + 5, "events after the update")
    finally:
        over.set()
        thread.join()
    assert ended > later + 1
    for number in (first, *range(later, fleet.published + 1)):
        expect(page.get_by_text(f"number-{number}-here")).to_have_count(1, timeout=60_000)
    assert len(sockets) > 1


def test_http_route_routes_like_ingress(fleet: Fleet) -> None:
    wait_until(lambda: routed(fleet, ROUTED), "the route of the gateway", 60)

    def accepted() -> bool:
        route = fleet.cluster.get("gateway.networking.k8s.io/v1", "HTTPRoute", "rel-almenara")
        holds = {
            each["type"]
            for parent in route.get("status", {}).get("parents", [])
            for each in parent["conditions"]
            if each["status"] == "True"
        }
        return {"Accepted", "ResolvedRefs"} <= holds

    wait_until(accepted, "the route accepted by its gateway")
    with fleet.live(f"https://{ROUTED}:{fleet.traefik.secure}", ROUTED) as live:
        end = time.monotonic() + 3 * IDLE
        while time.monotonic() < end:
            live.recv()
        live.ping()
    with pytest.raises(InvalidStatus) as refusal, fleet.live("https://evil.example", ROUTED):
        pass
    assert refusal.value.response.status_code == 403


def test_doctor_passes_through_ingress(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost {HOST}\n")
    (tmp_path / "token").write_text(TOKEN)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc",
         f'mount --bind {tmp_path / "hosts"} /etc/hosts; exec "$@"', "sh",
         ALMENARA, "doctor", "--url", f"https://{HOST}:{fleet.traefik.secure}",
         "--token-file", tmp_path / "token"],
        env={**os.environ, "SSL_CERT_FILE": str(fleet.authority.path), "COLUMNS": "200"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pages of other sites are refused" in " ".join(done.stdout.split())


def test_websocket_outlives_idle_timeouts_of_ingress(fleet: Fleet) -> None:
    with fleet.live(f"https://{HOST}:{fleet.traefik.secure}") as live:
        end = time.monotonic() + 5 * IDLE + 2
        frames = 0
        while time.monotonic() < end:
            live.recv()
            frames += 1
        assert frames >= 2
        live.ping()


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        f"https://{HOST}.evil.example",
        f"https://evil-{HOST}",
        f"https://{HOST}:444",
        f"http://{HOST}",
        "http://{host}:{port}",
        f"https://{POD}",
        "null",
        "",
        None,
    ],
)
def test_ingress_refuses_forged_origin(fleet: Fleet, origin: str | None) -> None:
    forged = origin and origin.format(host=HOST, port=fleet.traefik.secure)
    with pytest.raises(InvalidStatus) as refusal, fleet.live(forged):
        pass
    assert refusal.value.response.status_code == 403


def test_ingress_requires_sign_in(fleet: Fleet) -> None:
    context = ssl.create_default_context(cafile=str(fleet.authority.path))
    for path, expected in (("/events", {303, 302, 401}), ("/metrics", {401, 403}),
                           ("/api/events", {401}), ("/readyz", {200})):  # fmt: skip
        connection = http.client.HTTPSConnection("127.0.0.1", fleet.traefik.secure, timeout=10)
        connection.sock = context.wrap_socket(
            socket.create_connection(("127.0.0.1", fleet.traefik.secure)),
            server_hostname=HOST,
        )
        connection.request("GET", path, headers={"Host": HOST, "X-Forwarded-User": "admin"})
        assert connection.getresponse().status in expected, path
        connection.close()


def test_ingress_does_not_route_plain_http(fleet: Fleet) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.traefik.plain, timeout=10)
    connection.request("GET", "/readyz", headers={"Host": HOST})
    assert connection.getresponse().status == 404
    connection.close()
