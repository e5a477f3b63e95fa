"""The auth-provider `oidc` of a kubeconfig: an id token, refreshed when it expires.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#option-1-oidc-authenticator
"""

import asyncio
import base64
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from almenara.sdk import blocking, describe_error
from almenara_kube.errors import UnreachableError
from almenara_kube.kubeconfig import AuthProvider
from almenara_kube.objects import DECODE_ERRORS
from almenara_kube.tls import TlsConfig, make_tls_context

TIMEOUT: Final = 15.0
EARLY: Final = 10.0
"""Seconds before its end at which an id token counts as expired, as in client-go."""
LONGEST_ANSWER: Final = 1024**2


class IdToken(msgspec.Struct, frozen=True):
    """A token for the API server."""

    text: str
    expires: float
    """Seconds since the epoch."""
    refresh_token: str
    """The token that the next one is requested with."""


class _Claims(msgspec.Struct):
    exp: float


class _Discovery(msgspec.Struct):
    token_endpoint: str


class _Answer(msgspec.Struct):
    id_token: str = ""
    refresh_token: str = ""


def read_id_token(provider: AuthProvider) -> IdToken | None:
    """The token in the kubeconfig; None where it has none that can be read."""
    text = provider.config.get("id-token", "")
    expires = _expiry(text)
    if expires is None:
        return None
    return IdToken(text, expires, provider.config.get("refresh-token", ""))


async def refresh_id_token(provider: AuthProvider, folder: Path, refresh_token: str) -> IdToken:
    """Request a new id token from the issuer. Raises `UnreachableError`, without any secret."""
    config = provider.config
    issuer, client = config.get("idp-issuer-url", ""), config.get("client-id", "")
    for key, value in (
        ("idp-issuer-url", issuer), ("client-id", client), ("refresh-token", refresh_token),
    ):  # fmt: skip
        if not value:
            raise UnreachableError(
                f"the id token of the auth-provider oidc has expired, and without {key} it cannot"
                " be refreshed; sign in again with the tool that wrote the kubeconfig"
            )
    if not issuer.startswith("https://"):
        raise UnreachableError("the idp-issuer-url of the auth-provider oidc is not https://")
    context = await blocking(lambda: make_tls_context(TlsConfig(ca=_issuer_ca(config, folder))))
    form = {"grant_type": "refresh_token", "client_id": client, "refresh_token": refresh_token}
    if config.get("client-secret"):
        form["client_secret"] = config["client-secret"]
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        ):
            address = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
            async with session.get(address, allow_redirects=False) as response:
                discovery = msgspec.json.decode(await _read(response), type=_Discovery)
            _check_endpoint(discovery.token_endpoint)
            async with session.post(
                discovery.token_endpoint, data=form, allow_redirects=False
            ) as response:
                status = response.status
                answer = msgspec.json.decode(await _read(response), type=_Answer)
    except UnreachableError:
        raise
    except TimeoutError:
        raise UnreachableError(f"the OIDC issuer did not answer within {TIMEOUT:g} s") from None
    except DECODE_ERRORS:
        # What it sent may hold tokens.
        raise UnreachableError("the OIDC issuer sent an answer that cannot be read") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise UnreachableError(f"the OIDC issuer: {describe_error(error)}") from None
    expires = _expiry(answer.id_token)
    if status != 200 or expires is None:
        raise UnreachableError(
            f"the OIDC issuer answered {status} and sent no new id token; sign in again with the"
            " tool that wrote the kubeconfig"
        )
    return IdToken(answer.id_token, expires, answer.refresh_token or refresh_token)


def _check_endpoint(url: str) -> None:
    if not url.startswith("https://"):
        raise UnreachableError("the token endpoint of the OIDC issuer is not https://")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    return await response.content.read(LONGEST_ANSWER)


def _issuer_ca(config: dict[str, str], folder: Path) -> bytes | None:
    if data := config.get("idp-certificate-authority-data"):
        try:
            return base64.b64decode(data, validate=True)
        except ValueError:
            raise UnreachableError("idp-certificate-authority-data is not base64") from None
    if path := config.get("idp-certificate-authority"):
        try:
            return (folder / path).read_bytes()
        except OSError as error:
            raise UnreachableError(
                f"idp-certificate-authority cannot be read: {error.strerror}"
            ) from None
    return None


def _expiry(token: str) -> float | None:
    """When a JSON Web Token expires; None where it is not one. Its signature is the API server's
    to check."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(claims, type=_Claims).exp
    except (*DECODE_ERRORS, ValueError):
        return None
