"""The ways to sign in, and the settings that each of them needs."""

import functools
import ipaddress
from typing import Final, Literal

from almenara.config import ConfigError, Settings
from almenara.security.public_address import configured_address

SHORTEST_TOKEN: Final = 20
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1", "[::1]")

SIGN_IN_OFF: Final = frozenset(("none", "insecure-none"))
"""The modes in which every request has the same identity."""

Mode = Literal["token", "oidc", "proxy", "kubernetes", "none", "insecure-none"]


@functools.lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to an address."""
    if host.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def mode_of(settings: Settings) -> Mode:
    """Return how users sign in, with `auto` resolved.

    Raises `ConfigError` where everyone could connect without `insecure-none` being set, and where
    a setting that the mode needs is missing.
    """
    auth, server = settings.auth, settings.server
    configured = configured_address(server)
    hosts = [*server.allowed_hosts, *([] if configured is None else [configured.name])]
    public_hosts = [host for host in hosts if not is_loopback(host)]
    is_private = is_loopback(server.host) and not public_hosts
    mode: Mode = ("none" if is_private else "token") if auth.mode == "auto" else auth.mode
    if mode == "none" and not is_private:
        exposure = (
            f"server.allowed_hosts or server.url names {public_hosts[0]}, so a proxy exposes it"
            if is_loopback(server.host)
            else f"server.host is {server.host}, which other machines can reach"
        )
        raise ConfigError(
            f"auth.mode: {exposure}, and with the mode `none` everyone who can connect would see"
            " everything. Choose `token`, `oidc`, `proxy` or `kubernetes`. If public access is"
            " intended, set `insecure-none`"
        )
    if mode == "oidc" and auth.oidc is None:
        raise ConfigError("auth.oidc: the mode `oidc` needs `issuer` and `client_id` here")
    if mode == "proxy":
        has_client_ca = server.tls is not None and server.tls.client_ca is not None
        if not server.trusted_proxies:
            raise ConfigError(
                "server.trusted_proxies: the mode `proxy` accepts identity headers only from the"
                " addresses listed here; add those of the proxy"
            )
        if auth.proxy.secret is None and not has_client_ca:
            raise ConfigError(
                "auth.proxy.secret: the mode `proxy` needs a secret that the proxy sends, or"
                " server.tls.client_ca, so that no other client can send identity headers"
            )
    if mode in ("oidc", "proxy") and not auth.roles:
        raise ConfigError(
            f"auth.roles: no user has a role, so with the mode `{mode}` no one could see anything."
            " To give every signed-in user the role viewer: `[{role: viewer, groups: ['*']}]`"
        )
    if mode == "kubernetes" and not auth.roles and auth.authorization != "kubernetes":
        raise ConfigError(
            "auth.roles: no user has a role, so no one could see anything. Add roles here, or set"
            " `auth.authorization: kubernetes` to use the rights that users have in the cluster"
        )
    if auth.authorization == "kubernetes" and mode not in ("kubernetes", "oidc", "proxy"):
        raise ConfigError(
            f"auth.authorization: users of the mode `{mode}` are unknown to the cluster;"
            " `kubernetes` works with the modes `kubernetes`, `oidc` and `proxy`"
        )
    if auth.token is not None and len(auth.token.reveal()) < SHORTEST_TOKEN:
        raise ConfigError(
            f"auth.token: it is shorter than {SHORTEST_TOKEN} characters and could be guessed;"
            " generate one with `openssl rand -base64 32`"
        )
    return mode
