"""TLS: what connections are encrypted with, and what becomes of it when its files change."""

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from almenara.config import ConfigError, TlsSettings

log = structlog.get_logger(__name__)

LOOK_EVERY: Final = 2.0
"""Seconds between looks at whether the files have changed."""


def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """How connections are encrypted. Raises `ConfigError` where the files are no good."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    cert, key = settings.cert, settings.key
    for name, path in (("cert", cert), ("key", key), ("client_ca", settings.client_ca)):
        if path is not None:
            _read(name, path)
    _check_certificates("cert", cert)

    def encrypted() -> str:
        # Without this OpenSSL would ask for the password on the terminal, and wait.
        raise ConfigError(
            f"server.tls.key: {key} is encrypted, and nobody is there to type its password; write"
            " it without one, as `openssl pkey` does"
        )

    try:
        context.load_cert_chain(cert, key, password=encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"server.tls.key: {key} is not the key of the certificate in {cert}"
            ) from None
        raise ConfigError(
            f"server.tls: {cert} and {key} cannot be used ({_reason(error)}): the key must be a"
            " private key in PEM, and neither may be of a kind that is too weak today"
        ) from None
    if settings.client_ca is not None:
        _check_certificates("client_ca", settings.client_ca)
        context.load_verify_locations(settings.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"server.tls.{name}: {path} cannot be read: {error.strerror or error}"
        ) from None


def _check_certificates(name: str, path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(
            f"server.tls.{name}: {path} holds no certificate in PEM ({_reason(error)})"
        ) from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _state(settings: TlsSettings) -> bytes:
    """What tells the files from what they were.

    Their content does: Kubernetes swaps a link to a folder, and others keep the times of files.
    Empty where one cannot be read.
    """
    found = hashlib.sha256()
    try:
        for path in (settings.cert, settings.key, settings.client_ca):
            if path is not None:
                found.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError:
        return b""
    return found.digest()


async def follow_certificate(
    settings: TlsSettings, encrypt: Callable[[ssl.SSLContext], None]
) -> None:
    """Read the files again when they change and hand what comes of them to `encrypt`, until
    cancelled. Files that are no good change nothing, and the log says so once."""
    used = await asyncio.to_thread(_state, settings)
    complaint = ""
    while True:
        await asyncio.sleep(LOOK_EVERY)
        try:
            state = await asyncio.to_thread(_state, settings)
            if state == used:
                complaint = ""
                continue
            encrypt(await asyncio.to_thread(tls_context, settings))
        except (OSError, ConfigError) as error:
            # Half of a new pair may be there; the other half comes in a moment.
            if (reason := str(error)) != complaint:
                log.warning("the certificate cannot be read again; the old one stays",
                            reason=reason)  # fmt: skip
            complaint = reason
            continue
        used, complaint = state, ""
        log.info("the certificate was read again", file=str(settings.cert))
