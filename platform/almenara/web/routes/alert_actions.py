"""What people do with alerts, from their pages: acknowledge and silence."""

import asyncio
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

import msgspec
from litestar import Response, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.response import Redirect

from almenara.alerting import ALERT, SILENCE
from almenara.alerting.commands import (
    make_acknowledge,
    make_assign,
    make_silence,
    make_unacknowledge,
    make_unsilence,
    parse_plain_matcher,
)
from almenara.alerting.model import ACTIVE
from almenara.alerting.overlays import MAX_SILENCES
from almenara.alerting.service import Alerting
from almenara.sdk.calendar import DAYS, Calendar
from almenara.security.errors import Unauthenticated
from almenara.signals import Event, Resource, now
from almenara.state.resources import Resources
from almenara.units import HOUR
from almenara.web.authorization import OPERATOR, OPERATOR_OF_ALL_SOURCES, scoped_view
from almenara.web.layout import PageRequest
from almenara.web.problems import NotFiringError, NotInEffectError
from almenara.web.routes.alerts import DURATIONS, EMPTY_FORM, preview_silence, render_silences
from almenara.web.services import Services
from almenara.web.state import get_auth_context, get_request_info

EFFECT_TIMEOUT: Final = 10.0
"""Seconds that a response waits for its effect, so that the page it leads to shows it."""
EFFECT_INTERVAL: Final = 0.02


def user_name(request: PageRequest) -> str:
    """Return the name of the user of a request. Raises `Unauthenticated`."""
    context = get_auth_context(request)
    if context is None:
        raise Unauthenticated("Sign in first.")
    return context.identity.name


def require_alerting(services: Services) -> Alerting:
    """Return the evaluation of alerts. Raises `NotFoundException` where it is not enabled."""
    if services.alerting is None:
        raise NotFoundException("Alerting is off; set alerting.enabled in the configuration.")
    return services.alerting


def check_silence_limit(resources: Resources) -> None:
    """Raise `ValueError` where there are as many silences as there can be."""
    count = sum(not silence.deleted for silence in resources.of_kind(SILENCE))
    if count >= MAX_SILENCES:
        raise ValueError(
            f"there are {count:,} silences, and there can be {MAX_SILENCES:,}; end some that are"
            ' not needed, or cover several alerts by one with an expression such as name=~"web-.*"'
        )


def find_alert(request: PageRequest, services: Services, key: str) -> Resource:
    """Return an alert that the user can see. Raises `NotFoundException`."""
    rule, _, name = key.partition("/")
    alert = scoped_view(services, request).resources.get(ALERT, rule, name)
    if alert is None or alert.deleted:
        raise NotFoundException("There is no such alert; it may have been resolved.")
    return alert


def find_firing_alert(request: PageRequest, services: Services, key: str) -> Resource:
    """Return an alert that the user can see and that fires, whatever overlays it. Raises
    `NotFoundException` and `NotFiringError`."""
    alert = find_alert(request, services, key)
    if alert.status not in ACTIVE:
        raise NotFiringError(detail=f"The alert does not fire; it is {alert.status}.")
    return alert


async def perform(
    request: PageRequest,
    services: Services,
    command: Event,
    action: str,
    is_done: Callable[[], bool],
) -> None:
    """Publish a command, record it in the access log, and wait until its effect is visible.

    Raises `NotInEffectError` where it is not visible in time.
    """
    alerting = require_alerting(services)
    await alerting.command(command)
    services.access.audit.record(
        action,
        user=user_name(request),
        address=get_request_info(request).address,
        target=command.subject,
    )
    for _ in range(round(EFFECT_TIMEOUT / EFFECT_INTERVAL)):
        if is_done():
            return
        await asyncio.sleep(EFFECT_INTERVAL)
    reason = alerting.problem or "the page Sources shows whether the source alerts works"
    raise NotInEffectError(
        detail=f"This was stored, and is not in effect after {EFFECT_TIMEOUT:g} s: {reason}. Check"
        " whether it is in effect before you repeat it."
    )


async def acknowledge_alert(
    request: PageRequest, services: Services, key: str, comment: str = ""
) -> None:
    """Acknowledge an alert on behalf of the user. Raises as `find_firing_alert` and `perform`."""
    require_alerting(services)
    find_firing_alert(request, services, key)
    command = make_acknowledge(key, user_name(request), comment)
    await perform(
        request, services, command, "alert_acknowledged",
        lambda: bool(find_firing_alert(request, services, key).state.get("by")),
    )  # fmt: skip


async def unacknowledge_alert(request: PageRequest, services: Services, key: str) -> None:
    """Take an acknowledgement back. Raises as `find_alert` and `perform`."""
    require_alerting(services)
    find_alert(request, services, key)
    command = make_unacknowledge(key, user_name(request))
    await perform(
        request, services, command, "alert_unacknowledged",
        lambda: not find_alert(request, services, key).state.get("by"),
    )  # fmt: skip


async def assign_alert(request: PageRequest, services: Services, key: str, to: str) -> None:
    """Assign an alert to a person, or with an empty name to no one. Raises as `find_firing_alert`
    and `perform`."""
    require_alerting(services)
    find_firing_alert(request, services, key)
    command = make_assign(key, to, user_name(request))
    assignee = command.data["to"]
    await perform(
        request, services, command, "alert_assigned",
        lambda: find_firing_alert(request, services, key).state.get("assignee", "") == assignee,
    )  # fmt: skip


async def create_silence(
    request: PageRequest, services: Services, matchers: list[str], comment: str, ends: int,
    starts: int | None = None, calendar: Calendar | None = None,
) -> str:  # fmt: skip
    """Create a silence on behalf of the user, and return its id. Raises `ValueError`, and as
    `perform`."""
    require_alerting(services)
    author, resources = user_name(request), services.hub.view.resources
    command = make_silence(matchers, author, comment, ends, starts, calendar)
    check_silence_limit(resources)
    await perform(
        request, services, command, "silence_created",
        lambda: resources.get(SILENCE, "", command.subject) is not None,
    )  # fmt: skip
    return command.subject


async def end_silence(request: PageRequest, services: Services, identity: str) -> None:
    """End a silence. Raises `NotFoundException`, and as `perform`."""
    require_alerting(services)
    resources = services.hub.view.resources

    def has_ended() -> bool:
        silence = resources.get(SILENCE, "", identity)
        return silence is None or silence.deleted

    if has_ended():
        raise NotFoundException("There is no such silence; it may have ended already.")
    command = make_unsilence(identity, user_name(request))
    await perform(request, services, command, "silence_ended", has_ended)


def read_calendar(form: dict[str, str]) -> Calendar | None:
    """Return the window of a form, None for all times. Raises `ValueError`."""
    start, end = form["from"].strip(), form["to"].strip()
    if not start and not end:
        return None
    if not (start and end):
        raise ValueError("A window needs both times: when it starts and when it ends.")
    days = [day for day in DAYS if form.get(f"day-{day}")]
    fields = {"start": start, "end": end, "days": days, "zone": form["zone"].strip() or "UTC"}
    return msgspec.convert(fields, Calendar)


def read_hours(text: str) -> int:
    """Return the duration that a form has. Raises `ValueError`."""
    if text not in dict(DURATIONS):
        raise ValueError("Choose a duration.")
    return int(text)


async def read_form(request: PageRequest) -> dict[str, str]:
    """Return the fields of a form as text."""
    return {name: str(value) for name, value in (await request.form()).items()}


@post("/alerts/acknowledge", name="acknowledge alert", opt=OPERATOR, include_in_schema=False,
      status_code=303)  # fmt: skip
async def acknowledge(request: PageRequest, services: NamedDependency[Services]) -> Redirect:
    """Acknowledge an alert until it resolves."""
    form = await read_form(request)
    key = form.get("alert", "")
    await acknowledge_alert(request, services, key, form.get("comment", ""))
    # The list opens at the other alerts of the rule, so that the next can be acknowledged.
    others = f"/alerts#rule-{quote(key.partition('/')[0])}"
    return Redirect(others if "comment" not in form else f"/alerts/rules/{key}", status_code=303)


@post("/alerts/unacknowledge", name="unacknowledge alert", opt=OPERATOR, include_in_schema=False,
      status_code=303)  # fmt: skip
async def unacknowledge(request: PageRequest, services: NamedDependency[Services]) -> Redirect:
    """Take an acknowledgement back."""
    key = (await read_form(request)).get("alert", "")
    await unacknowledge_alert(request, services, key)
    return Redirect(f"/alerts/rules/{key}", status_code=303)


@post("/alerts/assign", name="assign alert", opt=OPERATOR, include_in_schema=False,
      status_code=303)  # fmt: skip
async def assign(request: PageRequest, services: NamedDependency[Services]) -> Redirect:
    """Assign an alert to a person, or to the user."""
    form = await read_form(request)
    key, to = form.get("alert", ""), form.get("to", "").strip()
    is_taken = form.get("action") == "take"
    await assign_alert(request, services, key, user_name(request) if is_taken else to)
    return Redirect(f"/alerts/rules/{key}", status_code=303)


@post("/alerts/silences", name="create silence", opt=OPERATOR_OF_ALL_SOURCES,
      include_in_schema=False, status_code=200)  # fmt: skip
async def submit_silence(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Create a silence, or show what it would cover."""
    require_alerting(services)
    form = {**EMPTY_FORM, **await read_form(request)}
    # Not `splitlines`: values may have other separators of lines.
    texts = [line.strip() for line in form["matchers"].split("\n") if line.strip()]
    try:
        hours = read_hours(form["hours"])
        if form.get("action") == "preview":
            matchers = [parse_plain_matcher(text) for text in texts]
            preview = preview_silence(scoped_view(services, request), matchers) if matchers else []
            return await render_silences(request, services, form, preview=preview)
        ends, calendar = now() + hours * HOUR, read_calendar(form)
        await create_silence(request, services, texts, form["comment"], ends, calendar=calendar)
    except ValueError as error:
        return await render_silences(request, services, form, problem=str(error))
    return Redirect("/alerts/silences", status_code=303)


@post("/alerts/silences/end", name="end silence", opt=OPERATOR_OF_ALL_SOURCES,
      include_in_schema=False, status_code=303)  # fmt: skip
async def submit_silence_end(request: PageRequest, services: NamedDependency[Services]) -> Redirect:
    """End a silence."""
    await end_silence(request, services, (await read_form(request)).get("silence", ""))
    return Redirect("/alerts/silences", status_code=303)


ALERT_ACTIONS: Final = [acknowledge, unacknowledge, assign, submit_silence, submit_silence_end]
