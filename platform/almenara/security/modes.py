"""How people sign in, as far as the configuration says, and what each way needs."""

import functools
import ipaddress
from typing import Final, Literal

from almenara.config import ConfigError, Settings

SHORTEST_TOKEN: Final = 20
LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "::1", "[::1]")

NOBODY_SIGNS_IN: Final = frozenset(("none", "insecure-none"))

Mode = Literal["token", "oidc", "proxy", "kubernetes", "none", "insecure-none"]


@functools.lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    if host.lower() in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def mode_of(settings: Settings) -> Mode:
    """How people sign in.

    Raises `ConfigError` where everybody could look without having been asked for by name, and
    where what a mode needs is missing.
    """
    auth, server = settings.auth, settings.server
    named = [it for it in server.allowed_hosts if not is_loopback(it)]
    private = is_loopback(server.host) and not named
    mode: Mode = ("none" if private else "token") if auth.mode == "auto" else auth.mode
    if mode == "none" and not private:
        reached = (
            f"server.allowed_hosts names {named[0]}, which a proxy makes it known by"
            if is_loopback(server.host)
            else f"server.host is {server.host}, which other machines can reach"
        )
        raise ConfigError(
            f"auth.mode: {reached}, and with the mode `none` everybody who does would see"
            " everything. Choose `token`, `oidc`, `proxy` or `kubernetes`; or, where that is what"
            " you want, ask for it by its full name: `insecure-none`"
        )
    if mode == "oidc" and auth.oidc is None:
        raise ConfigError("auth.oidc: the mode `oidc` needs `issuer` and `client_id` here")
    if mode == "proxy":
        certified = server.tls is not None and server.tls.client_ca is not None
        if not server.trusted_proxies:
            raise ConfigError(
                "server.trusted_proxies: the mode `proxy` believes nobody until the addresses of"
                " the proxy are here"
            )
        if auth.proxy.secret is None and not certified:
            raise ConfigError(
                "auth.proxy.secret: the mode `proxy` needs a secret that the proxy sends, or"
                " server.tls.client_ca, so that nobody beside the proxy can speak for it"
            )
    if mode in ("oidc", "proxy") and not auth.roles:
        raise ConfigError(
            f"auth.roles: nobody has a role, so with the mode `{mode}` nobody could see anything."
            " To let everybody look who is signed in: `[{role: viewer, groups: ['*']}]`"
        )
    if mode == "kubernetes" and not auth.roles and auth.authorization != "kubernetes":
        raise ConfigError(
            "auth.roles: nobody has a role, so nobody could see anything. Name some here, or let"
            " the cluster decide with `auth.authorization: kubernetes`"
        )
    if auth.authorization == "kubernetes" and mode not in ("kubernetes", "oidc", "proxy"):
        raise ConfigError(
            f"auth.authorization: the cluster knows nobody of the mode `{mode}`; `kubernetes` goes"
            " with the modes `kubernetes`, `oidc` and `proxy`"
        )
    if auth.token is not None and len(auth.token.reveal()) < SHORTEST_TOKEN:
        raise ConfigError(
            f"auth.token: it is shorter than {SHORTEST_TOKEN} characters and could be guessed; make"
            " one with `openssl rand -base64 32`"
        )
    return mode
