"""The socket that the web server listens on."""

import socket
from contextlib import closing

import pytest

from almenara.config import ServerSettings
from almenara.web.server import PortTakenError, open_listener


@pytest.mark.parametrize("host", ["203.0.113.7", "absent.invalid"])
def test_address_of_another_machine_is_refused_with_the_setting(host: str) -> None:
    with pytest.raises(PortTakenError, match=r"Set server\.host to an address of this machine"):
        open_listener(ServerSettings(host=host, port=0))


def test_port_in_use_is_refused_with_a_remedy() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"{port}: .*Stop the process that uses the port"):
            open_listener(ServerSettings(host="127.0.0.1", port=port))
