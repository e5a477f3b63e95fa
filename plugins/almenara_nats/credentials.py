"""Reads and checks the files of a user's credentials before anything is connected."""

import base64
import binascii
import re
from pathlib import Path
from typing import Any, Final

import msgspec

from almenara_nats.errors import NatsUnavailableError

BLOCK: Final = re.compile(r"-{3,} *BEGIN ([A-Z ]+?) *-{3,}\s+(\S+)\s+-{3,} *END")
"""A block of a credentials file; line ends may be those of Windows."""
JWT_BLOCK: Final = "NATS USER JWT"
SEED_BLOCK: Final = "USER NKEY SEED"
EXPORT_HINT: Final = "export it again with `nsc generate creds`"


class UserCredentials(msgspec.Struct):
    """What a credentials file contains."""

    jwt: str
    seed: str

    def sign(self, nonce: str) -> bytes:
        """Return the signature of the server's nonce, as CONNECT has it."""
        pair = _load_key_pair(self.seed)
        try:
            return base64.b64encode(pair.sign(nonce.encode()))
        finally:
            pair.wipe()


def read_credentials(path: Path) -> UserCredentials:
    """Return the JWT and the seed of a credentials file. Raises `NatsUnavailableError`."""
    text = _read_text(path, "credentials")
    blocks = dict(BLOCK.findall(text))
    missing = [name for name in (JWT_BLOCK, SEED_BLOCK) if name not in blocks]
    if missing:
        raise NatsUnavailableError(
            f"the file {path} (credentials) has no block {' and no block '.join(missing)};"
            f" {EXPORT_HINT}"
        )
    if len(blocks[JWT_BLOCK].split(".")) != 3:
        raise NatsUnavailableError(
            f"the file {path} (credentials) has a {JWT_BLOCK} that is not a JWT; {EXPORT_HINT}"
        )
    _check_seed(blocks[SEED_BLOCK], path, "credentials")
    return UserCredentials(jwt=blocks[JWT_BLOCK], seed=blocks[SEED_BLOCK])


def read_seed(path: Path) -> str:
    """Return the seed of an nkey file. Raises `NatsUnavailableError`."""
    text = _read_text(path, "nkey")
    blocks = dict(BLOCK.findall(text))
    seed = blocks.get(SEED_BLOCK) or text.strip()
    _check_seed(seed, path, "nkey")
    return seed


def _read_text(path: Path, setting: str) -> str:
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise NatsUnavailableError(f"there is no file {path} ({setting}); create it") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise NatsUnavailableError(
            f"the file {path} ({setting}) cannot be read: {reason}"
        ) from None
    if not text.strip():
        raise NatsUnavailableError(f"the file {path} ({setting}) is empty; {EXPORT_HINT}")
    return text


def _load_key_pair(seed: str) -> Any:
    # Imported here, because it loads libsodium, which most connections do without.
    import nkeys  # type: ignore[import-untyped]

    return nkeys.from_seed(bytearray(seed.encode()))


def _check_seed(seed: str, path: Path, setting: str) -> None:
    # No error of a library is shown: it may contain the seed.
    try:
        _load_key_pair(seed).wipe()
        is_valid = has_valid_checksum(seed)
    except Exception:
        is_valid = False
    if not is_valid:
        raise NatsUnavailableError(
            f"the file {path} ({setting}) has no valid seed, which starts with SU; {EXPORT_HINT}"
        )


def has_valid_checksum(key: str) -> bool:
    """Whether an nkey ends in the CRC-16 of what precedes it, which the library does not check."""
    decoded = base64.b32decode(key + "=" * (-len(key) % 8))
    return binascii.crc_hqx(decoded[:-2], 0) == int.from_bytes(decoded[-2:], "little")
