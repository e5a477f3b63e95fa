"""An Almenara that serves https, with certificates that can be replaced."""

import http.client
import os
import shutil
import socket
import ssl
import urllib.request
from pathlib import Path

from cryptography import x509

from support.application import Almenara
from support.authority import Authority

NO_NATS = "nats://127.0.0.1:1"


class Encrypted(Almenara):
    """An Almenara that serves https, from a folder that is swapped as Kubernetes swaps a secret."""

    def __init__(self, folder: Path, nats_url: str = NO_NATS, **settings: str) -> None:
        folder.mkdir(parents=True)
        self.authority = Authority(folder)
        self.secret = folder / "secret"
        self.versions = 0
        self.secret.mkdir()
        self.trust = ssl.create_default_context(cafile=str(self.authority.path))
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (self.secret / name).symlink_to(Path("..data") / name)
        settings = {
            "SERVER__HEADER_TIMEOUT": "1",
            "PANELS__SEND_TIMEOUT": "1",
            "SERVER__TLS__CERT": str(self.secret / "tls.crt"),
            "SERVER__TLS__KEY": str(self.secret / "tls.key"),
            **settings,
        }
        super().__init__(folder / "a", nats_url, **settings)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def put(self, cert: Path, key: Path, ca: Path | None = None) -> None:
        """New content of the secret, there all at once."""
        self.versions += 1
        version = self.secret / f"..{self.versions}"
        version.mkdir()
        for name, path in (("tls.crt", cert), ("tls.key", key), ("ca.crt", ca or cert)):
            # Times that tell nothing, as those of copies do.
            shutil.copy(path, version / name)
            os.utime(version / name, (0, 0))
        fresh = self.secret / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.replace(self.secret / "..data")

    def issue(self) -> int:
        """A new certificate and its key; its number."""
        paths = self.authority.issue(f"server{self.versions}", server=True)
        self.put(*paths)
        return x509.load_pem_x509_certificate(paths[0].read_bytes()).serial_number

    def connection(self, context: ssl.SSLContext | None = None) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=context or self.trust, timeout=10
        )

    def serial(self) -> int:
        """The number of the certificate that a new connection gets."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain,
            self.trust.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
        ):
            certificate = sock.getpeercert(binary_form=True)
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate).serial_number

    def status(self, path: str, **headers: str) -> int:
        connection = self.connection()
        try:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def text(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30, context=self.trust) as response:
            return str(response.read().decode())
