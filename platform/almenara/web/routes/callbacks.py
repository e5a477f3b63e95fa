"""What users choose in messages of a receiver: acknowledge and silence."""

from typing import Final

import structlog
from litestar import Response, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from almenara.alerting import ALERT
from almenara.alerting.commands import make_acknowledge, make_silence
from almenara.alerting.matchers import match_alert
from almenara.alerting.notifications.alert_events import read_change
from almenara.alerting.notifications.receivers import Receiver
from almenara.errors import describe_error
from almenara.hookspecs import AlertAction, InteractiveNotifier
from almenara.signals import Event, now
from almenara.units import SECOND
from almenara.web.authorization import SERVER_TO_SERVER
from almenara.web.layout import PageRequest
from almenara.web.routes.alert_actions import check_silence_limit, require_alerting
from almenara.web.services import Services
from almenara.web.state import get_request_info

log = structlog.get_logger(__name__)

MAX_ACTIONS: Final = 50
MAX_SECONDS: Final = 86_400.0


@post("/alerts/callbacks/{name:str}", opt=SERVER_TO_SERVER, include_in_schema=False,
      status_code=200)  # fmt: skip
async def accept_callback(
    request: PageRequest, services: NamedDependency[Services], name: FromPath[str]
) -> Response[str]:
    """Do what users of a receiver have chosen, as far as the receiver may read the alerts."""
    alerting = require_alerting(services)
    receiver = services.notifications.receivers.get(name)
    if receiver is None or not isinstance(receiver.notifier, InteractiveNotifier):
        raise NotFoundException("There is no receiver of that name with buttons.")
    info = get_request_info(request)
    headers = {key: ", ".join(values) for key, values in info.headers.items()}
    try:
        actions = receiver.notifier.read_callback(headers, await request.body())
    except ValueError as error:
        reason = describe_error(error)
        services.access.audit.record_refusal(
            "callback_refused", user=f"receiver {name}", address=info.address, reason=reason
        )
        return Response("The request was refused.\n", status_code=401, media_type="text/plain")
    for action in actions[:MAX_ACTIONS]:
        try:
            command = make_command(services, receiver, action)
        except ValueError as error:
            # Slack displays that the request has failed.
            return Response(f"{error}\n", status_code=409, media_type="text/plain")
        if command is not None:
            await alerting.command(command)
            services.access.audit.record(
                f"alert_{action.action}d", user=f"{action.by} ({name})", address=info.address,
                target=action.alert,
            )  # fmt: skip
    return Response("", media_type="text/plain")


def make_command(services: Services, receiver: Receiver, action: AlertAction) -> Event | None:
    """Return the command of an action; None where the alert is over or the receiver may not read
    it. Raises `ValueError` where there are too many silences."""
    rule, _, fingerprint = action.alert.partition("/")
    alert = services.hub.view.resources.get(ALERT, rule, fingerprint)
    change = None if alert is None or alert.deleted else read_change(alert, 0)
    if alert is None or change is None or not receiver.may_read(change):
        log.info("a callback names an alert that is over", receiver=receiver.name)
        return None
    by = f"{action.by} ({receiver.name})"
    if action.action == "acknowledge":
        return make_acknowledge(action.alert, by)
    check_silence_limit(services.hub.view.resources)
    ends = now() + int(min(max(action.seconds, 60.0), MAX_SECONDS) * SECOND)
    matchers = list(map(str, match_alert(alert)))
    return make_silence(matchers, by, f"from a message of {receiver.name}", ends)


CALLBACKS: Final = [accept_callback]
