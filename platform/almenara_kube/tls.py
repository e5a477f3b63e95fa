"""TLS contexts for API servers, verified as client-go verifies them.

Certificates and keys are passed in memory and never written to a file.
"""

import contextlib
import os
import re
import ssl
import threading
from collections.abc import Iterator
from typing import Final

import msgspec

CERTIFICATES: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The part of credentials that a TLS context is made of; PEM."""

    ca: bytes | None = None
    """The authorities to trust; None for those of the system."""
    certificate: bytes | None = None
    key: bytes | None = None
    verify: bool = True


def make_tls_context(config: TlsConfig) -> ssl.SSLContext:
    """Make the TLS context; blocks. Raises `OSError`, of which `ssl.SSLError` is one."""
    context = ssl.create_default_context(cadata=_trusted(config.ca))
    # Python 3.13 demands of certificates what RFC 5280 asks of authorities, such as an Authority
    # Key Identifier. Go does not, and the authorities of managed clusters do not set it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # Go trusts every certificate of the bundle as it is, intermediate ones too.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if config.certificate:
        _load_client_certificate(context, config.certificate, config.key or config.certificate)
    if not config.verify:
        # The kubeconfig has insecure-skip-tls-verify.
        context.check_hostname = False  # nosemgrep: certificate-not-checked
        context.verify_mode = ssl.CERT_NONE  # nosemgrep: certificate-not-checked
    return context


def _trusted(ca: bytes | None) -> str | None:
    if ca is None:
        return None
    # Bundles hold comments in any encoding; OpenSSL's Python binding takes ASCII only.
    blocks = CERTIFICATES.findall(ca)
    if not blocks:
        raise OSError("the certificate authority holds no PEM certificate")
    return b"\n".join(blocks).decode("ascii", "replace")


def _load_client_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    def refuse_password() -> str:
        raise OSError("the client key is encrypted; Kubernetes clients need it in clear")

    with _readable_path(certificate) as certificate_path, _readable_path(key) as key_path:
        context.load_cert_chain(certificate_path, key_path, password=refuse_password)


@contextlib.contextmanager
def _readable_path(content: bytes) -> Iterator[str]:
    """A path from which `content` can be read once: a pipe, since OpenSSL reads files alone."""
    reader, writer = os.pipe()

    def write() -> None:
        # It breaks off where OpenSSL stops reading at the first mistake.
        with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "wb") as stream:
            stream.write(content)

    thread = threading.Thread(target=write, name="client certificate", daemon=True)
    thread.start()
    try:
        yield f"/dev/fd/{reader}"
    finally:
        os.close(reader)
        thread.join()
