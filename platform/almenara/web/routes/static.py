"""Static files."""

from typing import Final

from litestar import MediaType, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from almenara.web.authorization import PUBLIC
from almenara.web.services import Services

IMMUTABLE: Final = {"cache-control": "public, max-age=31536000, immutable"}


@get(
    "/static/{name:path}", name="static", opt=PUBLIC, include_in_schema=False, sync_to_thread=False
)
def static(services: NamedDependency[Services], name: FromPath[str]) -> Response[bytes]:
    """Return a file whose name contains the hash of its content."""
    asset = services.assets.find(name)
    if asset is None:
        return Response(b"", status_code=404, media_type=MediaType.TEXT)
    return Response(asset.content, media_type=asset.media_type, headers=IMMUTABLE)
