"""An operator of NATS with accounts and users, as `nsc` makes them.

JSON Web Tokens of the operator mode, signed with nkeys:
https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/jwt
"""

import base64
import json
import os
import time
from pathlib import Path
from typing import Any, Final

import nkeys

UNLIMITED: Final = dict.fromkeys(
    ("subs", "data", "payload", "imports", "exports", "conn", "leaf",
     "mem_storage", "disk_storage", "streams", "consumer"),
    -1,
)  # fmt: skip


class Key:
    """A key pair, and what it is named in tokens."""

    def __init__(self, prefix: int) -> None:
        self.seed = nkeys.encode_seed(os.urandom(32), prefix)
        self.pair = nkeys.from_seed(bytearray(self.seed))
        self.name = self.pair.public_key.decode()

    def sign(self, subject: "Key", name: str, claims: dict[str, Any]) -> str:
        """A token about a key."""
        body = {
            "jti": os.urandom(16).hex(), "iat": int(time.time()), "iss": self.name,
            "sub": subject.name, "name": name, "nats": {**claims, "version": 2},
        }  # fmt: skip
        head = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_encode(json.dumps(part).encode()) for part in (head, body))
        return f"{text}.{_encode(self.pair.sign(text.encode()))}"


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Account:
    """An account of an operator; `key` signs its users."""

    def __init__(self, operator: Key, name: str, *, has_jetstream: bool = True) -> None:
        self.key = Key(nkeys.PREFIX_BYTE_ACCOUNT)
        limits = {**UNLIMITED, "wildcards": True}
        if not has_jetstream:
            limits |= {"mem_storage": 0, "disk_storage": 0}
        self.token = operator.sign(self.key, name, {"type": "account", "limits": limits})

    def write_credentials(self, path: Path, **permissions: Any) -> Path:
        """Write the credentials file of a new user; return its path."""
        user = Key(nkeys.PREFIX_BYTE_USER)
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1, **permissions}
        path.write_text(
            "-----BEGIN NATS USER JWT-----\n"
            f"{self.key.sign(user, 'reader', claims)}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n"
            "------END USER NKEY SEED------\n"
        )
        return path


def configure_operator(path: Path, *accounts: str) -> dict[str, Account]:
    """Add an operator with accounts to the configuration of a server; return the accounts by
    name."""
    operator = Key(nkeys.PREFIX_BYTE_OPERATOR)
    # JetStream needs a system account in this mode.
    system = Account(operator, "SYS", has_jetstream=False)
    made = {name: Account(operator, name) for name in accounts}
    preload = "\n".join(
        f"  {account.key.name}: {account.token}" for account in (system, *made.values())
    )
    token = operator.sign(operator, "tests", {"type": "operator"})
    path.write_text(
        path.read_text("utf-8") + f"operator: {token}\nsystem_account: {system.key.name}\n"
        f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n",
        "utf-8",
    )
    return made
