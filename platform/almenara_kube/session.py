"""Credentials in use, and the connections that were made with them."""

import asyncio
from collections.abc import Awaitable
from typing import Final, Protocol

import aiohttp

from almenara.sdk import blocking, monotonic
from almenara_kube.credentials import RENEWED_BEFORE, Credentials
from almenara_kube.errors import UnreachableError
from almenara_kube.socks import is_socks
from almenara_kube.tls import make_tls_context
from almenara_kube.transport import describe_tls_error, make_session

RENEWED_EVERY: Final = 60.0
"""Seconds after which credentials are loaded again: a token in a file is replaced in time."""
REFUSED_PAUSE: Final = 5.0
"""Seconds between loading credentials again that the API server refuses."""


class Load(Protocol):
    """Loads credentials: other ones than were refused, if there are any. Raises
    `UnreachableError`."""

    def __call__(self, refused: Credentials | None = None) -> Awaitable[Credentials]: ...


class AuthenticatedSession:
    """The connections to an API server, with credentials that are renewed in time.

    A change of certificates replaces the connections; a change of the token does not.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._current: tuple[Credentials, aiohttp.ClientSession] | None = None
        self._loaded_at = 0.0
        self._loading = asyncio.Lock()

    @property
    def server(self) -> str:
        """The server's address, without anything secret; empty until credentials are loaded."""
        return self._current[0].address if self._current is not None else ""

    @property
    def namespace(self) -> str:
        """The namespace of the credentials; empty where they have none or are not loaded."""
        return self._current[0].namespace if self._current is not None else ""

    async def close(self) -> None:
        """Close all connections."""
        current, self._current = self._current, None
        if current is not None:
            await current[1].close()

    async def authenticate(self) -> tuple[Credentials, aiohttp.ClientSession]:
        """The credentials and a session for them; loads them where they are outdated."""
        current = self._current
        if current is None or self._is_outdated(current[0]):
            if (
                current is not None
                and self._loading.locked()
                and not current[0].expires_within(0.0)
            ):
                # They are being renewed, which may take a program a while, and still do.
                return current
            async with self._loading:
                if self._current is current:
                    await self._reload()
        if self._current is None:
            raise UnreachableError("no credentials have been loaded")
        return self._current

    def _is_outdated(self, credentials: Credentials) -> bool:
        age = monotonic() - self._loaded_at
        if credentials.expires is not None:
            return credentials.expires_within(RENEWED_BEFORE) and age > REFUSED_PAUSE
        return not credentials.is_costly and age > RENEWED_EVERY

    async def _reload(self, refused: Credentials | None = None) -> None:
        before = self._current
        try:
            credentials = await self._load(refused)
            if before is not None and _share_connections(before[0], credentials):
                self._current = credentials, before[1]
                return
            context = await blocking(lambda: make_tls_context(credentials.tls))
        except UnreachableError:
            # A file that is being replaced is complete again in a moment; until then the
            # credentials in use may do.
            if before is not None:
                return
            raise
        except OSError as error:
            if before is not None:
                return
            raise UnreachableError(
                f"the certificates cannot be used: {describe_tls_error(error)}"
            ) from None
        finally:
            self._loaded_at = monotonic()
        self._current = credentials, make_session(context, credentials.proxy)
        if before is not None:
            # Its watches break off and continue from their positions on the new session.
            await before[1].close()

    async def replace_refused(self, used: Credentials) -> bool:
        """Load credentials again that were refused; return whether they differ now."""
        async with self._loading:
            current = self._current
            is_due = monotonic() - self._loaded_at > REFUSED_PAUSE
            if current is not None and current[0] is used and is_due:
                await self._reload(used)
        return self._current is not None and self._current[0] != used


def _share_connections(before: Credentials, after: Credentials) -> bool:
    return before.tls == after.tls and (
        before.proxy == after.proxy or not (is_socks(before.proxy) or is_socks(after.proxy))
    )
