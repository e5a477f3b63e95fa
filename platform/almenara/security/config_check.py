"""Whether people can sign in as the configuration says: what it names is there and can be used."""

import importlib.util
import ssl
from pathlib import Path
from typing import Final

from almenara.config import ConfigError, KubernetesAccessSettings, OidcSettings, Settings
from almenara.security.modes import mode_of
from almenara.security.trusted_proxies import TrustedProxies

LIBRARIES: Final = {"oidc": ("authlib", "joserfc", "httpx"), "kubernetes-access": ("httpx",)}
"""What each extra brings that is imported where it is asked for."""


def check_access(settings: Settings) -> None:
    """Raise `ConfigError` for all that keeps people from signing in as the settings say."""
    auth = settings.auth
    mode = mode_of(settings)
    TrustedProxies(settings.server.trusted_proxies)
    if mode == "oidc" and auth.oidc is not None:
        _check_libraries("auth.mode", "oidc", "oidc")
        provider_context(auth.oidc)
    for setting, said in (("auth.mode", mode), ("auth.authorization", auth.authorization)):
        if said == "kubernetes":
            _check_libraries(setting, said, "kubernetes-access")
            cluster_context(auth.kubernetes, auth.kubernetes.ca)


def provider_context(settings: OidcSettings) -> ssl.SSLContext:
    """How the provider is asked. Raises `ConfigError`."""
    return _trusting("auth.oidc.ca", settings.ca)


def cluster_context(settings: KubernetesAccessSettings, ca: Path | None) -> ssl.SSLContext:
    """How the API server is asked, whose certificate `ca` signed. Raises `ConfigError`."""
    context = _trusting("auth.kubernetes.ca", ca)
    if settings.client_cert is not None:
        try:
            context.load_cert_chain(settings.client_cert, settings.client_key)
        except OSError as error:
            files = filter(None, (settings.client_cert, settings.client_key))
            raise ConfigError(
                f"auth.kubernetes.client_cert: {' and '.join(map(str, files))} cannot be used"
                f" ({_reason(error)}): a certificate and its private key in PEM are wanted"
            ) from None
    return context


def _trusting(setting: str, file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(file) if file is not None else None)
    except OSError as error:
        raise ConfigError(
            f"{setting}: {file} cannot be used ({_reason(error)}): it must hold certificates in PEM"
        ) from None


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return error.strerror or str(error)


def _check_libraries(setting: str, said: str, extra: str) -> None:
    if not all(map(importlib.util.find_spec, LIBRARIES[extra])):
        raise ConfigError(
            f"{setting}: `{said}` needs libraries that are not installed: pip install"
            f" 'almenara[{extra}]', or a container image with the extra {extra}"
        )
