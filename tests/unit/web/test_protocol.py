import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from almenara.web.protocol import USED_ATTRIBUTES, missing_attributes

pytestmark = pytest.mark.anyio


async def test_protocol_supports_the_installed_uvicorn() -> None:
    assert missing_attributes() == [], (
        "uvicorn changed: live pages go through ASGI now, at three times the cost; bring"
        " almenara/web/protocol.py up to date"
    )


async def test_protocol_names_what_another_uvicorn_lacks() -> None:
    class Renamed(WebSocketsSansIOProtocol):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            del self.queue, self.conn

    assert {"conn", "queue"} <= set(USED_ATTRIBUTES)
    assert missing_attributes(Renamed) == [
        "conn", "queue", "conn.available_extensions", "conn.data_to_send", "conn.parser",
    ]  # fmt: skip

    class Otherwise:
        """Takes other arguments."""

    assert "Otherwise(" in missing_attributes(Otherwise)[0]
