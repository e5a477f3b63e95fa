"""TLS to API servers: what is trusted, and that keys are never written to a file."""

import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from almenara_kube.tls import TlsConfig, make_tls_context


def make_certificate() -> tuple[bytes, bytes]:
    """A certificate that signs itself, without any identifier of its key, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    start = datetime.now(UTC) - timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def test_make_tls_context_verifies_as_go_does() -> None:
    context = make_tls_context(TlsConfig())

    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_make_tls_context_trusts_a_bundle_with_comments_in_any_encoding() -> None:
    certificate, _ = make_certificate()
    bundle = b"# Zertifikat \xfc\xe4\n" + certificate

    context = make_tls_context(TlsConfig(ca=bundle))

    assert len(context.get_ca_certs()) + context.cert_store_stats()["x509"] >= 1


def test_make_tls_context_uses_a_client_certificate_without_writing_it_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_certificate()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    make_tls_context(TlsConfig(certificate=certificate, key=key))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "config",
    [
        TlsConfig(ca=b"nonsense"),
        TlsConfig(certificate=b"nonsense", key=b"nonsense"),
        TlsConfig(certificate=make_certificate()[0], key=make_certificate()[1]),
    ],
)
def test_make_tls_context_raises_oserror_for_what_cannot_be_used(config: TlsConfig) -> None:
    with pytest.raises(OSError, match=r"."):
        make_tls_context(config)


def test_make_tls_context_verifies_nothing_only_where_that_is_configured() -> None:
    assert make_tls_context(TlsConfig(verify=False)).verify_mode is ssl.CERT_NONE
