import base64
import os
from pathlib import Path

import nkeys
import pytest

from almenara_nats.client import create_options
from almenara_nats.credentials import read_credentials, read_seed
from almenara_nats.errors import NatsUnavailableError
from almenara_nats.settings import NatsSettings
from support.nats_credentials import JWT, JWT_BLOCK, SEED, SEED_BLOCK


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_credentials_are_read_with_any_line_ends(tmp_path: Path, end: str, mark: bytes) -> None:
    path = tmp_path / "watch.creds"
    path.write_bytes(mark + (JWT_BLOCK + SEED_BLOCK).replace("\n", end).encode())
    credentials = read_credentials(path)
    assert (credentials.jwt, credentials.seed) == (JWT, SEED)
    signature = base64.b64decode(credentials.sign("nonce"))
    nkeys.from_seed(bytearray(SEED.encode())).verify(b"nonce", signature)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (SEED_BLOCK, "has no block NATS USER JWT"),
        (JWT_BLOCK, "has no block USER NKEY SEED"),
        ("hello", "has no block NATS USER JWT and no block USER NKEY SEED"),
        (JWT_BLOCK + SEED_BLOCK.replace(SEED, SEED[:-4] + "AAAA"), "has no valid seed"),
        (JWT_BLOCK.replace(JWT, "not-a-jwt") + SEED_BLOCK, "is not a JWT"),
    ],
)
def test_wrong_credentials_are_named_at_once(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "watch.creds"
    path.write_text(content)
    with pytest.raises(NatsUnavailableError, match=reason) as caught:
        create_options(NatsSettings(credentials=path))
    assert str(path) in str(caught.value)
    assert SEED[:-4] not in str(caught.value)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NatsUnavailableError, match="there is no file"):
        read_credentials(tmp_path / "missing")
    with pytest.raises(NatsUnavailableError, match="cannot be read"):
        read_seed(tmp_path)
    (tmp_path / "binary").write_bytes(os.urandom(64) + b"\xff")
    with pytest.raises(NatsUnavailableError, match="it is not text"):
        read_seed(tmp_path / "binary")


@pytest.mark.parametrize("content", [SEED, f"{SEED}\r\n", SEED_BLOCK])
def test_seed_is_read_alone_or_in_its_block(tmp_path: Path, content: str) -> None:
    (tmp_path / "seed").write_text(content)
    assert read_seed(tmp_path / "seed") == SEED
