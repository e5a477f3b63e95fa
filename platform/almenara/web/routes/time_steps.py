"""Steps through time: to the next or previous failure, transition or event of a correlation."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.response import Redirect

from almenara.history import Filter
from almenara.panels.changes import find_transition
from almenara.panels.formats import encode_query
from almenara.panels.past import find_recorder
from almenara.panels.time_window import TimeWindow
from almenara.panels.view import View
from almenara.signals import Severity, now
from almenara.urls import local_path
from almenara.web.authorization import VIEWER, scoped_view
from almenara.web.layout import PageRequest, render_problem_page
from almenara.web.services import Services
from almenara.web.timed_view import read_time

NAMES: Final = {
    "failure": "failure", "transition": "transition of a resource",
    "correlation": "event of this correlation",
}  # fmt: skip
LONGEST_PAGE: Final = 4_000


@get("/step", name="step", opt=VIEWER, include_in_schema=False)
async def step(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Redirect to a page as of the next or previous step from its moment."""
    query = request.query_params
    kind, forward = query.get("to", ""), query.get("direction") == "on"
    page = parse_page(query.get("page", ""))
    if kind not in NAMES or page is None:
        detail = "This step does not exist. Go back, and use the bar of the past."
        return render_problem_page(services, request, 400, "Invalid step", detail)
    path, parameters = page
    earliest = find_recorder(services.hub.view).earliest or 0
    try:
        moment = Filter.from_query({"until": parameters.get("at", "")}).until
    except ValueError:
        moment = None
    if moment is None:
        moment = now()
    view = scoped_view(services, request)
    if kind == "transition":
        end = now() if forward else earliest
        target = await find_transition(view, moment, forward=forward, end=end)
    else:
        chosen = (
            Filter(severity=Severity.ERROR)
            if kind == "failure"
            else Filter(correlation=parameters.get("correlation", ""))
        )
        target = await find_event(view, chosen, moment, forward=forward)
    if target is None or target < earliest:
        direction = "later" if forward else "earlier"
        await read_time(services, request, ())
        detail = f"There is no {direction} {NAMES[kind]} in the stored past."
        return render_problem_page(services, request, 404, f"No {direction} step", detail)
    times = TimeWindow(mode="moment", until=min(target, now())).to_query()
    return Redirect(local_path(path + encode_query({**parameters, **times})), status_code=303)


def parse_page(text: str) -> tuple[str, dict[str, str]] | None:
    """Return path and parameters of the page to step from; None for an address elsewhere."""
    if len(text) > LONGEST_PAGE or not text.startswith("/") or text[1:2] in ("/", "\\"):
        return None
    parts = urlsplit(text)
    if parts.scheme or parts.netloc or any(ord(character) < 33 for character in text):
        return None
    values: Mapping[str, str] = dict(parse_qsl(parts.query))
    return parts.path, {
        name: value for name, value in values.items() if name not in ("play", "started")
    }


async def find_event(view: View, chosen: Filter, moment: int, *, forward: bool) -> int | None:
    """Return when the next event after a moment, or the last before it, was known."""
    recorder = find_recorder(view)
    notes = await recorder.read_notes(moment, moment)
    known = notes[-1].sequence if notes else 0
    if forward:
        records = await view.history.events(chosen, after=known, limit=1, is_preview=True)
    else:
        # What was stored with the moment itself is not before it.
        earlier = await recorder.read_notes(moment - 1, moment - 1)
        bound = earlier[-1].sequence if earlier else 0
        records = await view.history.events(chosen, before=bound + 1, limit=1, is_preview=True)
    return await recorder.time_of(records[0].sequence) if records else None
