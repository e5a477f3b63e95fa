"""Static files."""

from typing import Any, Final

from litestar import MediaType, Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from almenara.web.authorization import PUBLIC
from almenara.web.services import Services
from almenara.web.state import get_auth_context

IMMUTABLE: Final = {"cache-control": "public, max-age=31536000, immutable"}
PRIVATE: Final = {"cache-control": "private, max-age=31536000, immutable"}


@get(
    "/static/{name:path}", name="static", opt=PUBLIC, include_in_schema=False, sync_to_thread=False
)
def static(
    request: Request[Any, Any, Any], services: NamedDependency[Services], name: FromPath[str]
) -> Response[bytes]:
    """Return a file whose name contains the hash of its content.

    Files of plugins need sign-in; without it they look like files that do not exist.
    """
    asset = services.assets.find(name)
    if asset is None or not (asset.is_public or get_auth_context(request) is not None):
        return Response(b"", status_code=404, media_type=MediaType.TEXT)
    headers = IMMUTABLE if asset.is_public else PRIVATE
    return Response(asset.content, media_type=asset.media_type, headers=headers)
