"""The application: routes and their dependencies, and the middleware around them."""

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
from almenara.web.authorization import VIEWER, authorize
from almenara.web.middleware.authentication import AuthenticationMiddleware
from almenara.web.middleware.disconnects import DisconnectMiddleware
from almenara.web.middleware.headers import SecurityHeadersMiddleware
from almenara.web.middleware.hosts import HostMiddleware
from almenara.web.middleware.limits import RequestLimitsMiddleware
from almenara.web.middleware.origins import OriginMiddleware
from almenara.web.middleware.websockets import WebSocketLimitMiddleware
from almenara.web.problems import handle
from almenara.web.routes import PAGES
from almenara.web.routes.account import ACCOUNT
from almenara.web.routes.alert_actions import ALERT_ACTIONS
from almenara.web.routes.api import API
from almenara.web.routes.callbacks import CALLBACKS
from almenara.web.routes.dashboard_editor import DASHBOARD_EDITOR
from almenara.web.routes.intake import INTAKES
from almenara.web.routes.live import live
from almenara.web.routes.oidc import OIDC
from almenara.web.routes.probes import PROBES
from almenara.web.routes.receivers import RECEIVERS
from almenara.web.routes.saved_filters import SAVED_FILTERS
from almenara.web.routes.sign_in import SIGN_IN
from almenara.web.routes.tokens import TOKENS
from almenara.web.services import Services

OPENAPI_PATH: Final = "/api/openapi.json"
SCHEMES: Final[dict[str, SecurityScheme | Reference]] = {
    "token": SecurityScheme(
        type="http", scheme="bearer", description="The access token or an API token."
    ),
    "session": SecurityScheme(
        type="apiKey", security_scheme_in="cookie", name=SECURE_COOKIE,
        description="The session cookie of a signed-in browser.",
    ),
}  # fmt: skip


def create_app(services: Services) -> ASGIApp:
    """Return the whole web application. The last middleware here sees a request first."""
    server, hub = services.settings.server, services.hub
    app: ASGIApp = create_router(services)
    app = DisconnectMiddleware(app)
    app = AuthenticationMiddleware(app, services.access)
    app = WebSocketLimitMiddleware(app, server.max_websockets, lambda: hub.clients)
    app = OriginMiddleware(app, server)
    app = HostMiddleware(app, server)
    app = RequestLimitsMiddleware(app, server, services.settings.max_intake_bytes)
    return SecurityHeadersMiddleware(app)


class MsgspecLitestar(Litestar):
    """Litestar for handlers that use msgspec only.

    Litestar imports pydantic whenever it is installed, in case a handler uses it: 6 MiB.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def create_router(services: Services) -> Litestar:
    """Return the routes, each guarded by its authorization rule."""
    return MsgspecLitestar(
        route_handlers=[
            *PAGES,
            *API,
            *PROBES,
            *SIGN_IN,
            *OIDC,
            *ACCOUNT,
            *TOKENS,
            *INTAKES,
            *ALERT_ACTIONS,
            *CALLBACKS,
            *RECEIVERS,
            *DASHBOARD_EDITOR,
            *SAVED_FILTERS,
            live,
        ],
        guards=[authorize],
        request_max_body_size=services.settings.server.max_body_bytes,
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        exception_handlers={Exception: handle},
        openapi_config=OpenAPIConfig(
            title="Almenara",
            version=services.version,
            description="Events, resources and sources of a fleet, now and in the past.",
            # A router of its own: it answers everything below its path, unknown paths in HTML.
            openapi_router=Router(
                path=OPENAPI_PATH, route_handlers=[], opt=VIEWER, include_in_schema=False
            ),
            components=Components(security_schemes=SCHEMES),
            security=[{name: []} for name in SCHEMES],
            # The other renderers load scripts from other origins, which the policy forbids.
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
            use_handler_docstrings=True,
        ),
        state=State({"services": services}),
        logging_config=None,
        debug=False,
    )
