"""The page of receivers: their health, and a test of each."""

from typing import Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException

from almenara.errors import NotFound
from almenara.hookspecs import DeliveryError
from almenara.security.identity import Role
from almenara.web.authorization import ADMIN_OF_ALL_SOURCES, ALL_SOURCES
from almenara.web.layout import PageRequest
from almenara.web.routes.account import require_context
from almenara.web.routes.alerts import render_alert_page
from almenara.web.services import Services
from almenara.web.state import get_request_info


async def render_receivers(
    request: PageRequest, services: Services, *, tested: str = "", problem: str = ""
) -> Response[str]:
    """Render the receivers, with the result of a test."""
    return await render_alert_page(
        request, services, "receivers_page.html", "receivers",
        title="Receivers", tab="/alerts/receivers", tested=tested, problem=problem,
        can_test=require_context(request).identity.role >= Role.ADMIN,
    )  # fmt: skip


@get("/alerts/receivers", name="receivers", opt=ALL_SOURCES, include_in_schema=False)
async def receivers(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Render the receivers of notifications."""
    return await render_receivers(request, services)


@post("/alerts/receivers/test", name="test receiver", opt=ADMIN_OF_ALL_SOURCES,
      include_in_schema=False, status_code=200)  # fmt: skip
async def test_receiver(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Send a test notification to a receiver, and show whether it was accepted."""
    name = str((await request.form()).get("receiver", ""))
    try:
        await services.notifications.send_test(name)
    except NotFound:
        raise NotFoundException(
            "There is no such receiver; it may have been removed from the configuration."
        ) from None
    except DeliveryError as error:
        problem = f"{name} did not accept the test: {error}"
        return await render_receivers(request, services, problem=problem)
    services.access.audit.record(
        "receiver_tested",
        user=require_context(request).identity.name,
        address=get_request_info(request).address,
        receiver=name,
    )
    return await render_receivers(request, services, tested=name)


RECEIVERS: Final = [receivers, test_receiver]
