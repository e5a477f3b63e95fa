"""The application: routes, their dependencies, and the guard in front."""

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp

from almenara.web.admission import Admission
from almenara.web.api import API
from almenara.web.guard import Guard
from almenara.web.live import live
from almenara.web.pages import PAGES
from almenara.web.permission import VIEWER, permit
from almenara.web.probes import PROBES
from almenara.web.problems import handle
from almenara.web.services import Services
from almenara.web.signing import SIGNING


def create_app(services: Services) -> ASGIApp:
    """The whole web floor as one ASGI application."""
    return Guard(
        Admission(routed(services), services.access),
        services.settings.server,
        lambda: services.channels.clients,
    )


def routed(services: Services) -> Litestar:
    """The routes, each behind the one check of who may use it."""
    return Litestar(
        route_handlers=[*PAGES, *API, *PROBES, *SIGNING, live],
        guards=[permit],
        request_max_body_size=services.settings.server.largest_body,
        dependencies={"services": Provide(lambda: services, sync_to_thread=False)},
        exception_handlers={Exception: handle},
        openapi_config=OpenAPIConfig(
            title="Almenara",
            version=services.version,
            description="Events, resources and sources of a fleet, now and back then.",
            openapi_router=Router(path="/api", route_handlers=[], opt=VIEWER),
            # The other renderers load scripts from elsewhere, which our policy forbids.
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            use_handler_docstrings=True,
        ),
        state=State({"services": services}),
        logging_config=None,
        debug=False,
    )
