"""A credentials file of NATS in the right form, for servers that require none."""

import base64
import binascii

USER_SEED_PREFIX = bytes([(18 << 3) | (20 << 3 >> 5), (20 << 3 & 31) << 3])
"""The prefixes of a seed and of a user, five bits each: `SU` in base32."""
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJuYW1lIjoidyJ9.c2lnbmF0dXJl"


def encode_seed(key: bytes) -> str:
    """Encode the seed of a user key as nkeys does, with a checksum at the end."""
    raw = USER_SEED_PREFIX + key
    checksum = binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(raw + checksum).decode().rstrip("=")


SEED = encode_seed(bytes(range(32)))
JWT_BLOCK = f"-----BEGIN NATS USER JWT-----\n{JWT}\n------END NATS USER JWT------\n\n"
SEED_BLOCK = (
    "************************* IMPORTANT *************************\n"
    f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
)
