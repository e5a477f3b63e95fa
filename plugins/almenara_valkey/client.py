"""Connections to servers: one each, raw replies, errors that name the cause."""

import asyncio
from types import TracebackType
from typing import Any, Final, Self

from valkey.asyncio import Valkey

from almenara.sdk import finish_within, honor_cancellation
from almenara.sdk.servers import Address
from almenara_valkey.errors import CommandError, translate_error
from almenara_valkey.replies import BoundedParser
from almenara_valkey.settings import DeploymentSettings

CLOSE_TIMEOUT: Final = 1.0
CLIENT_NAME: Final = "almenara"
"""The name of our connections in `CLIENT LIST` and in the slow log."""


class Connection:
    """A connection to one server, opened when it is first used and again after an error."""

    def __init__(
        self, address: Address, settings: DeploymentSettings, *, is_sentinel: bool = False
    ) -> None:
        self.address, self._settings, self._is_sentinel = address, settings, is_sentinel
        # The library is typed in part.
        self._client: Any = None

    async def call(self, *command: str | int) -> Any:
        """Return the raw reply to a command. Raises `ServerError`."""
        name, timeout = str(command[0]), self._settings.timeout
        try:
            if self._client is None:
                self._client = await asyncio.to_thread(self._open)
            # The limits of the library are for each read; a slow server sends bit by bit.
            async with asyncio.timeout(timeout * 2):
                return await honor_cancellation(self._client.execute_command(*command))
        except Exception as error:
            secrets = self._settings.password, self._settings.sentinel_password
            problem = translate_error(error, name, timeout, secrets)
            if not isinstance(problem, CommandError):
                await self.close()
            raise problem from None
        except asyncio.CancelledError:
            # The reply that is still to come belongs to no later command.
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection; a frozen server does not delay it."""
        client, self._client = self._client, None
        if client is not None:
            try:
                await finish_within(CLOSE_TIMEOUT, client.aclose(close_connection_pool=True))
            except (OSError, TimeoutError, RuntimeError):
                return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _open(self) -> Any:
        # In a thread, because it reads the files of secrets and certificates.
        settings = self._settings
        user, password = settings.user, settings.password
        if self._is_sentinel:
            user, password = settings.sentinel_user, settings.sentinel_password
        tls: dict[str, Any] = {}
        if settings.uses_tls:
            files = settings.tls
            verifies = files is None or files.verify
            tls = {
                "ssl": True,
                "ssl_cert_reqs": "required" if verifies else "none",
                "ssl_check_hostname": verifies and (files is None or files.verify_hostname),
                "ssl_ca_certs": str(files.ca) if files and files.ca else None,
                "ssl_certfile": str(files.certificate) if files and files.certificate else None,
                "ssl_keyfile": str(files.key) if files and files.key else None,
            }
        client = Valkey(
            host=self.address.host,
            port=self.address.port,
            username=user,
            password=password.reveal() if password else None,
            socket_timeout=settings.timeout,
            socket_connect_timeout=settings.timeout,
            decode_responses=True,
            encoding_errors="backslashreplace",
            client_name=CLIENT_NAME,
            # Without these it sends CLIENT SETINFO, which needs a right of its own.
            lib_name=None,
            lib_version=None,
            max_connections=1,
            **tls,
        )
        client.connection_pool.connection_kwargs["parser_class"] = BoundedParser
        # Replies as the protocol has them: the library's own parsers raise for unusual ones.
        client.response_callbacks.clear()
        return client
