"""The auth-provider `oidc` of a kubeconfig: its id token, refreshed at an issuer over TLS."""

import base64
import contextlib
import ipaddress
import json
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from almenara_kube.credentials import CredentialLoader
from almenara_kube.errors import UnreachableError
from almenara_kube.settings import KubeContext

pytestmark = pytest.mark.anyio

REFRESH = "refresh-s3cr3t"


def id_token(seconds: float) -> str:
    """A token that expires in so many seconds."""

    def part(tree: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(tree).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part({'exp': time.time() + seconds, 'n': seconds})}.sig"


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    start = datetime.now(UTC) - timedelta(hours=1)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "issuer.crt", folder / "issuer.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


class Issuer:
    """An OpenID Connect provider that refreshes tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answer: Any = {"id_token": id_token(600), "refresh_token": "next-refresh"}
        self.status = 200
        self.forms: list[dict[str, str]] = []

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[str]:
        certificate, key = write_certificate(self.folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_post("/token", self._token)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        self.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self.url
        finally:
            await runner.cleanup()

    async def _discovery(self, _: web.Request) -> web.Response:
        return web.json_response({"issuer": self.url, "token_endpoint": f"{self.url}/token"})

    async def _token(self, request: web.Request) -> web.Response:
        self.forms.append({name: str(value) for name, value in (await request.post()).items()})
        return web.json_response(self.answer, status=self.status)


def kubeconfig(folder: Path, **config: str) -> KubeContext:
    path = folder / "config"
    user = {"auth-provider": {"name": "oidc", "config": config}}
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://api:6443"}}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return KubeContext(path)


def expired(url: str, **more: str) -> dict[str, str]:
    return {
        "idp-issuer-url": url, "idp-certificate-authority": "issuer.crt", "client-id": "kubectl",
        "id-token": id_token(-60), "refresh-token": REFRESH, **more,
    }  # fmt: skip


async def test_valid_token_is_used_without_the_issuer(tmp_path: Path) -> None:
    token = id_token(600)

    credentials = await CredentialLoader(kubeconfig(tmp_path, **{"id-token": token})).load()

    assert credentials.authorization == f"Bearer {token}"
    assert credentials.expires is not None


async def test_expired_token_is_refreshed_without_a_client_secret(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    async with issuer.run() as url:
        loader = CredentialLoader(kubeconfig(tmp_path, **expired(url)))
        first = await loader.load()
        again = await loader.load()

    assert first.authorization == f"Bearer {issuer.answer['id_token']}" == again.authorization
    assert issuer.forms == [
        {"grant_type": "refresh_token", "client_id": "kubectl", "refresh_token": REFRESH}
    ]


async def test_refresh_uses_the_client_secret_and_the_newest_refresh_token(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    issuer.answer = {"id_token": id_token(5), "refresh_token": "next-refresh"}
    async with issuer.run() as url:
        loader = CredentialLoader(kubeconfig(tmp_path, **expired(url, **{"client-secret": "x"})))
        await loader.load()
        await loader.load()

    assert [form["refresh_token"] for form in issuer.forms] == [REFRESH, "next-refresh"]
    assert {form["client_secret"] for form in issuer.forms} == {"x"}


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (400, {"error": "invalid_grant", "error_description": f"{REFRESH} is revoked"}),
        (200, {"id_token": f"not a token {REFRESH}"}),
        (200, [REFRESH]),
        (200, {}),
    ],
)
async def test_failed_refresh_quotes_no_token(tmp_path: Path, status: int, answer: Any) -> None:
    issuer = Issuer(tmp_path)
    issuer.status, issuer.answer = status, answer
    async with issuer.run() as url:
        with pytest.raises(UnreachableError, match="OIDC issuer") as caught:
            await CredentialLoader(kubeconfig(tmp_path, **expired(url))).load()

    assert REFRESH not in str(caught.value)


@pytest.mark.parametrize("missing", ["idp-issuer-url", "client-id", "refresh-token"])
async def test_expired_token_names_what_is_missing_to_refresh_it(
    tmp_path: Path, missing: str
) -> None:
    config = {**expired("https://127.0.0.1:1"), missing: ""}

    with pytest.raises(UnreachableError, match=f"without {missing}") as caught:
        await CredentialLoader(kubeconfig(tmp_path, **config)).load()

    assert REFRESH not in str(caught.value)
