"""Checks at start that sign-in can work as configured: libraries, certificates and addresses."""

import importlib.util
import ssl
from pathlib import Path
from typing import Final

from almenara.config import (
    ConfigError,
    KubernetesAccessSettings,
    OidcSettings,
    Secret,
    Settings,
)
from almenara.security.modes import is_loopback, mode_of
from almenara.security.public_address import configured_address
from almenara.security.trusted_proxies import TrustedProxies

LIBRARIES: Final = {"oidc": ("authlib", "joserfc", "httpx"), "kubernetes-access": ("aiohttp",)}
"""The libraries that each extra installs, which are imported only where a mode needs them."""


MIN_BUS_SECRET: Final = 32


def check_access(settings: Settings) -> None:
    """Raise `ConfigError` for the first setting that would keep users from signing in."""
    auth = settings.auth
    mode = mode_of(settings)
    TrustedProxies(settings.server.trusted_proxies)
    configured_address(settings.server)
    _check_sign_out_url(auth.proxy.sign_out_url)
    _check_bus_secret(settings.bus.secret)
    if mode == "oidc" and auth.oidc is not None:
        _check_libraries("auth.mode", "oidc", "oidc")
        provider_context(auth.oidc)
    for setting, value in (("auth.mode", mode), ("auth.authorization", auth.authorization)):
        if value == "kubernetes":
            _check_libraries(setting, value, "kubernetes-access")
            _check_cluster_certificates(auth.kubernetes)


def _check_bus_secret(secret: Secret | None) -> None:
    """Raise `ConfigError` for a secret that could be guessed: it signs who may sign in."""
    if secret is not None and len(secret.reveal()) < MIN_BUS_SECRET:
        raise ConfigError(
            f"bus.secret: it has fewer than {MIN_BUS_SECRET} characters; create one with `openssl"
            " rand -hex 32`"
        )


def find_unlisted_proxy(settings: Settings) -> str | None:
    """Return the public host name of a server that seems to be behind a proxy that is not in
    `server.trusted_proxies`; None where there is nothing to suspect.

    Only plain HTTP: with `server.tls` clients usually connect directly.
    """
    server = settings.server
    if server.trusted_proxies or server.tls is not None:
        return None
    configured = configured_address(server)
    names = [*([] if configured is None else [configured.name]), *server.allowed_hosts]
    return next((name for name in names if not is_loopback(name)), None)


def _check_sign_out_url(url: str) -> None:
    """Raise `ConfigError` for what is neither a path nor a URL, such as a script."""
    is_path = url.startswith("/") and not url.startswith("//")
    if url and not is_path and not url.startswith(("https://", "http://")):
        raise ConfigError(
            f"auth.proxy.sign_out_url: {url!r} is neither a path nor a URL; write /oauth2/sign_out"
            " or https://proxy.example.com/sign-out"
        )


def provider_context(settings: OidcSettings) -> ssl.SSLContext:
    """Return the TLS context for the OpenID Connect provider. Raises `ConfigError`."""
    if settings.ca is None:
        # Imported here, because httpx is installed for OpenID Connect only.
        from almenara.sdk.http import trust_context

        return trust_context()
    return _client_context("auth.oidc.ca", settings.ca)


def _check_cluster_certificates(settings: KubernetesAccessSettings) -> None:
    """Raise `ConfigError` for certificates that no connection to the API server can use."""
    context = _client_context("auth.kubernetes.ca", settings.ca)
    if settings.client_cert is not None:
        try:
            context.load_cert_chain(settings.client_cert, settings.client_key)
        except OSError as error:
            files = filter(None, (settings.client_cert, settings.client_key))
            raise ConfigError(
                f"auth.kubernetes.client_cert: cannot use {' and '.join(map(str, files))}"
                f" ({_reason(error)}); expected a certificate and its private key in PEM"
            ) from None


def _client_context(setting: str, file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(file) if file is not None else None)
    except OSError as error:
        raise ConfigError(
            f"{setting}: cannot use {file} ({_reason(error)}); expected certificates in PEM"
        ) from None


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)


def _check_libraries(setting: str, value: str, extra: str) -> None:
    if not all(map(importlib.util.find_spec, LIBRARIES[extra])):
        raise ConfigError(
            f"{setting}: `{value}` needs libraries that are not installed: run pip install"
            f" 'almenara[{extra}]', or use a container image with the extra {extra}"
        )
