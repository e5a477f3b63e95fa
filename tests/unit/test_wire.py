import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from almenara.web.protocol import RELIED_ON, lacking

pytestmark = pytest.mark.anyio


async def test_this_uvicorn_has_all_that_frames_are_written_past() -> None:
    assert lacking() == [], (
        "uvicorn changed: live pages go through ASGI now, at three times the cost; bring"
        " almenara/web/wire.py up to date"
    )


async def test_a_uvicorn_that_is_another_is_told_by_what_it_lacks() -> None:
    class Renamed(WebSocketsSansIOProtocol):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            del self.queue, self.conn

    assert {"conn", "queue"} <= set(RELIED_ON)
    assert lacking(Renamed) == [
        "conn", "queue", "conn.available_extensions", "conn.data_to_send", "conn.parser",
    ]  # fmt: skip

    class Otherwise:
        """Takes other arguments."""

    assert "Otherwise(" in lacking(Otherwise)[0]
