"""Saved filters of the Events page: the list of all, and the editor of one."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.response import Redirect

from almenara.errors import Unavailable
from almenara.panels.filters import EVENT_FILTERS
from almenara.panels.formats import encode_query
from almenara.signals import Severity
from almenara.web.authorization import VIEWER
from almenara.web.csrf import csrf_token, read_fields, set_form_cookie
from almenara.web.filter_form import EVENT_FIELDS
from almenara.web.layout import PageRequest, render_page
from almenara.web.saved_filters import LONGEST_TITLE, SavedFilter, make_filter
from almenara.web.saved_items import SHARES, SaveConflictError, read_share
from almenara.web.services import Services
from almenara.web.state import get_identity, get_request_info

LIST: Final = "/event-filters"
EDITOR: Final = f"{LIST}/edit"
LABELS: Final = {field.name: field.label for field in EVENT_FIELDS}


@get(LIST, name="event filters", opt=VIEWER, include_in_schema=False)
async def saved_filters(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Render the list of the filters that the user sees."""
    identity = get_identity(request)
    rows = [
        {
            "filter": saved,
            "link": events_address(saved),
            "conditions": describe_conditions(saved.query),
            "share": SHARES[saved.share],
            "is_editable": saved.is_editable(identity),
        }
        for saved in services.saved_filters.by_title(identity)
    ]
    return render_page(
        services, request, "saved_filters_page.html", {"rows": rows},
        name="events", title="Saved filters",
    )  # fmt: skip


@get(EDITOR, name="edit event filter", opt=VIEWER, include_in_schema=False)
async def edit_filter(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Render the editor of a new filter with the conditions of the address, of a saved filter, or
    of one of its earlier versions."""
    identity, query = get_identity(request), request.query_params
    if not (filter_id := query.get("id", "")):
        values = {name: text for name, text in query.items() if name in EVENT_FILTERS}
        return await render_editor(request, services, values)
    saved = services.saved_filters.find(filter_id, identity)
    if saved is None:
        raise NotFoundException("There is no saved filter at this address that you can edit.")
    shown = saved
    if number := query.get("version"):
        versions = await services.saved_filters.versions(saved.id, identity)
        shown = next((each for each in versions if str(each.version) == number), saved)
    return await render_editor(request, services, form_of(shown, saved), saved=saved)


@post(EDITOR, name="save event filter", opt=VIEWER, include_in_schema=False, status_code=200)
async def save_filter(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Save a filter, or show the editor again with what is wrong."""
    identity, form = get_identity(request), await read_fields(request)
    saved = services.saved_filters.find(form.get("id", ""), identity)
    try:
        draft = make_filter(form.get("id", ""), form.get("title", ""), form, read_share(form))
        version = int(form.get("version") or 0)
        stored = await services.saved_filters.store(draft, identity, version)
    except SaveConflictError as error:
        current = error.current if isinstance(error.current, SavedFilter) else saved
        return await render_editor(
            request, services, form, problem=str(error), saved=current, is_conflict=True,
            status_code=409,
        )  # fmt: skip
    except (ValueError, Unavailable) as error:
        status = 503 if isinstance(error, Unavailable) else 400
        return await render_editor(
            request, services, form, problem=_sentence(error), saved=saved, status_code=status
        )
    _record(request, services, "filter_saved", stored)
    return Redirect(events_address(stored), status_code=303)


@post(f"{LIST}/delete", name="delete event filter", opt=VIEWER, include_in_schema=False,
      status_code=303)  # fmt: skip
async def delete_filter(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Delete a filter; its versions stay stored."""
    identity, form = get_identity(request), await read_fields(request)
    saved = services.saved_filters.find(form.get("id", ""), identity)
    if saved is None:
        raise NotFoundException("There is no saved filter at this address that you can delete.")
    try:
        await services.saved_filters.delete(saved.id, identity, int(form.get("version") or 0))
    except (SaveConflictError, ValueError) as error:
        current = services.saved_filters.find(saved.id, identity) or saved
        return await render_editor(
            request, services, form_of(current, current), problem=_sentence(error), saved=current,
            status_code=409,
        )  # fmt: skip
    _record(request, services, "filter_deleted", saved)
    return Redirect(LIST, status_code=303)


async def render_editor(
    request: PageRequest,
    services: Services,
    form: Mapping[str, str],
    *,
    problem: str = "",
    saved: SavedFilter | None = None,
    is_conflict: bool = False,
    status_code: int = 200,
) -> Response[str]:
    """Render the editor with the fields of a form; with a conflict, also the current version."""
    versions = (
        []
        if saved is None
        else await services.saved_filters.versions(saved.id, get_identity(request))
    )
    # After a conflict, saving again replaces the version that the page now shows.
    version = str(saved.version) if is_conflict and saved is not None else form.get("version", "0")
    response = render_page(
        services,
        request,
        "saved_filter_editor_page.html",
        {
            "fields": EVENT_FIELDS,
            "severities": list(Severity.__members__),
            "values": {name: form.get(name, "") for name in (*LABELS, "title")},
            "longest_title": LONGEST_TITLE,
            "base_version": version,
            "share": form.get("share", "owner"),
            "shares": SHARES,
            "saved": saved,
            "is_editable": saved is None or saved.is_editable(get_identity(request)),
            "versions": versions[1:],
            "conflict": describe_conditions(saved.query) if is_conflict and saved else None,
            "problem": problem,
            "csrf": csrf_token(request),
        },
        name="events",
        title="Edit filter" if saved else "Save filter",
        status_code=status_code,
    )
    set_form_cookie(request, response)
    return response


def form_of(shown: SavedFilter, current: SavedFilter) -> dict[str, str]:
    """Return the fields of the editor for a version of a filter; saving follows the current one."""
    return {
        **shown.query, "title": shown.title, "share": current.share,
        "version": str(current.version),
    }  # fmt: skip


def events_address(saved: SavedFilter) -> str:
    """Return the address of the events that match a filter."""
    return "/events" + encode_query(saved.query)


def describe_conditions(query: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the label and value of each condition, in the order of the fields."""
    return [(label, query[name]) for name, label in LABELS.items() if name in query]


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _record(request: PageRequest, services: Services, action: str, saved: SavedFilter) -> None:
    services.access.audit.record(
        action,
        user=get_identity(request).name,
        address=get_request_info(request).address,
        target=saved.title,
    )


SAVED_FILTERS: Final[Sequence[Any]] = [saved_filters, edit_filter, save_filter, delete_filter]
