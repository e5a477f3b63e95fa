"""The server's TLS context, and reloading it when certificate files change."""

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from almenara.config import ConfigError, TlsSettings
from almenara.errors import describe_error

log = structlog.get_logger(__name__)

INTERVAL: Final = 2.0
"""Seconds between two checks of the files."""


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return the context of the configured files. Raises `ConfigError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    cert, key = settings.cert, settings.key
    for name, path in (("cert", cert), ("key", key), ("client_ca", settings.client_ca)):
        if path is not None:
            _check_readable(name, path)
    _check_certificates("cert", cert)

    def refuse_password() -> str:
        # Without this OpenSSL would prompt on the terminal, and wait.
        raise ConfigError(
            f"server.tls.key: {key} is encrypted, and the password cannot be entered here; write"
            " the key without one, for example with `openssl pkey`"
        )

    try:
        context.load_cert_chain(cert, key, password=refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"server.tls.key: {key} is not the key of the certificate in {cert}"
            ) from None
        raise ConfigError(
            f"server.tls: cannot use {cert} and {key} ({_reason(error)}): the key must be a"
            " private key in PEM, and both must meet today's minimum strength"
        ) from None
    if settings.client_ca is not None:
        _check_certificates("client_ca", settings.client_ca)
        context.load_verify_locations(settings.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_readable(name: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"server.tls.{name}: cannot read {path}: {error.strerror or error}"
        ) from None


def _check_certificates(name: str, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(
            f"server.tls.{name}: {path} contains no certificate in PEM ({_reason(error)})"
        ) from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _fingerprint(settings: TlsSettings) -> bytes:
    """Return a digest of the files' content; empty where one cannot be read.

    Modification times are not enough: Kubernetes swaps a symbolic link to a folder, and copies may
    keep times.
    """
    digest = hashlib.sha256()
    try:
        for path in (settings.cert, settings.key, settings.client_ca):
            if path is not None:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError:
        return b""
    return digest.digest()


async def follow_certificate(
    settings: TlsSettings, use_context: Callable[[ssl.SSLContext], None]
) -> None:
    """Pass a new context to `use_context` whenever the files change, until cancelled.

    Invalid files change nothing and are logged once.
    """
    current = await asyncio.to_thread(_fingerprint, settings)
    last_problem = ""
    while True:
        await asyncio.sleep(INTERVAL)
        try:
            fingerprint = await asyncio.to_thread(_fingerprint, settings)
            if fingerprint == current:
                last_problem = ""
                continue
            use_context(await asyncio.to_thread(tls_context, settings))
        except (OSError, ConfigError) as error:
            # Half of a new pair may have been written; the other half follows in a moment.
            if (problem := describe_error(error)) != last_problem:
                log.warning("cannot reload the certificate; the old one stays in use",
                            reason=problem)  # fmt: skip
            last_problem = problem
            continue
        current, last_problem = fingerprint, ""
        log.info("the certificate was reloaded", file=str(settings.cert))
