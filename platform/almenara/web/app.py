"""The application: routes, their dependencies, and the guard in front."""

from typing import Final

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, Reference, SecurityScheme
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import ASGIApp

from almenara.security.sessions import SECURE_COOKIE
from almenara.web.authorization import VIEWER, permit
from almenara.web.middleware.authentication import Admission
from almenara.web.middleware.hosts import Guard
from almenara.web.problems import handle
from almenara.web.routes import PAGES
from almenara.web.routes.api import API
from almenara.web.routes.live import live
from almenara.web.routes.probes import PROBES
from almenara.web.routes.sign_in import SIGNING
from almenara.web.services import Services

DESCRIPTION: Final = "/api/openapi.json"
SCHEMES: Final[dict[str, SecurityScheme | Reference]] = {
    "token": SecurityScheme(
        type="http", scheme="bearer", description="The access token or an API token."
    ),
    "session": SecurityScheme(
        type="apiKey", security_scheme_in="cookie", name=SECURE_COOKIE,
        description="What a browser has after signing in.",
    ),
}  # fmt: skip


def create_app(services: Services) -> ASGIApp:
    """The whole web floor as one ASGI application."""
    return Guard(
        Admission(routed(services), services.authenticator),
        services.settings.server,
        lambda: services.hub.clients,
    )


class MsgspecLitestar(Litestar):
    """Litestar for handlers that speak msgspec alone.

    Litestar imports pydantic wherever a library has brought it, for handlers that use it: 6 MiB.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def routed(services: Services) -> Litestar:
    """The routes, each behind the one check of who may use it."""
    return MsgspecLitestar(
        route_handlers=[*PAGES, *API, *PROBES, *SIGNING, live],
        guards=[permit],
        request_max_body_size=services.settings.server.max_body_bytes,
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        exception_handlers={Exception: handle},
        openapi_config=OpenAPIConfig(
            title="Almenara",
            version=services.version,
            description="Events, resources and sources of a fleet, now and back then.",
            # The router answers all that is below its path, in HTML where it knows nothing.
            openapi_router=Router(
                path=DESCRIPTION, route_handlers=[], opt=VIEWER, include_in_schema=False
            ),
            components=Components(security_schemes=SCHEMES),
            security=[{name: []} for name in SCHEMES],
            # The other renderers load scripts from elsewhere, which our policy forbids.
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
            use_handler_docstrings=True,
        ),
        state=State({"services": services}),
        logging_config=None,
        debug=False,
    )
