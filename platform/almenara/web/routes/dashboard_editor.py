"""Dashboards made in the browser: the list of all, the editor, and export and import as YAML."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
import yaml
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Redirect

from almenara.config import ConfigError, DashboardSettings, PlacedPanel
from almenara.config.loader import decode_settings
from almenara.config.yaml_text import YamlError, parse_yaml
from almenara.errors import Unavailable
from almenara.panels import explorer, resource_table
from almenara.panels.formats import encode_query
from almenara.panels.view import View
from almenara.web.authorization import VIEWER, scoped_view
from almenara.web.csrf import csrf_token, set_form_cookie
from almenara.web.dashboards import check
from almenara.web.layout import PageRequest, render_page
from almenara.web.saved_dashboards import SavedDashboard
from almenara.web.saved_items import SHARES, SaveConflictError, read_share
from almenara.web.services import Services
from almenara.web.state import get_identity, get_request_info

LIST: Final = "/dashboards"
EDITOR: Final = "/dashboard-editor"
LONGEST_TEXT: Final = 100_000
NEW: Final = "my-dashboard"
"""The name of a new dashboard, until it follows from the title."""
FIRST_PANEL: Final = "panel"
"""A parameter of the address of the editor: the channel of a panel that it starts with."""


@get(LIST, name="dashboards", opt=VIEWER, include_in_schema=False)
async def dashboards(request: PageRequest, services: NamedDependency[Services]) -> Response[str]:
    """Render the list of dashboards: saved ones, and those of plugins and configuration."""
    identity = get_identity(request)
    saved = services.saved_dashboards.visible(identity)
    names = {each.name for each in saved}
    others = [
        each
        for each in services.list_dashboards(identity)
        if each.navigation and each.name not in names
    ]
    rows = [
        {"dashboard": each, "share": SHARES[each.share], "is_editable": each.is_editable(identity)}
        for each in saved
    ]
    return render_page(
        services, request, "dashboards_page.html", {"saved": rows, "others": others},
        name="dashboards", title="Dashboards",
    )  # fmt: skip


@get(EDITOR, name="dashboard editor", opt=VIEWER, include_in_schema=False)
async def editor(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Render the editor of a new dashboard, of a saved one, or of one of its earlier versions."""
    identity = get_identity(request)
    query = request.query_params
    name = query.get("name", "")
    if not name:
        channel = query.get(FIRST_PANEL)
        new = DashboardSettings(
            name=services.saved_dashboards.find_free_name(NEW),
            title="My dashboard",
            panels=[read_channel(channel)] if channel else [],
        )
        return await render_editor(request, services, {"yaml": to_yaml(new), "version": "0"})
    saved = services.saved_dashboards.find(name, identity)
    if saved is None:
        raise NotFoundException(f"There is no dashboard {name[:80]!r} that you can edit.")
    settings = saved.settings
    if number := query.get("version"):
        versions = await services.saved_dashboards.versions(name, identity)
        settings = next((v.settings for v in versions if str(v.version) == number), settings)
    if channel := query.get(FIRST_PANEL):
        panels = [*settings.panels, read_channel(channel)]
        settings = msgspec.structs.replace(settings, panels=panels)
    return await render_editor(
        request, services,
        {"yaml": to_yaml(settings), "version": str(saved.version), "share": saved.share},
        saved=saved,
    )  # fmt: skip


@post(EDITOR, name="save dashboard", opt=VIEWER, include_in_schema=False, status_code=200)
async def save(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Save a dashboard, or show the editor again with what is wrong."""
    identity = get_identity(request)
    form = await read_form(request)
    saved = services.saved_dashboards.find(form.get("name", ""), identity)
    try:
        settings = parse_dashboard(form.get("yaml", ""))
        check_saved(settings, services)
        share, version = read_share(form), int(form.get("version") or 0)
        stored = await services.saved_dashboards.save(settings, identity, share, version)
    except SaveConflictError as error:
        conflict = error.current if isinstance(error.current, SavedDashboard) else None
        return await render_editor(
            request, services, form, problem=str(error), saved=saved, conflict=conflict,
            status_code=409,
        )  # fmt: skip
    except (ConfigError, YamlError, ValueError, Unavailable) as error:
        # Where it cannot be stored now, what was written must not be lost.
        status = 503 if isinstance(error, Unavailable) else 400
        return await render_editor(
            request, services, form, problem=str(error), saved=saved, status_code=status
        )
    _record(request, services, "dashboard_saved", stored.name)
    return Redirect(f"{LIST}/{stored.name}", status_code=303)


@post(f"{EDITOR}/delete", name="delete dashboard", opt=VIEWER, include_in_schema=False,
      status_code=303)  # fmt: skip
async def delete(
    request: PageRequest, services: NamedDependency[Services]
) -> Response[str] | Redirect:
    """Delete a dashboard; its versions stay stored."""
    form = await read_form(request)
    identity, name = get_identity(request), form.get("name", "")
    try:
        await services.saved_dashboards.delete(name, identity, int(form.get("version") or 0))
    except (SaveConflictError, ValueError) as error:
        saved = services.saved_dashboards.find(name, identity)
        if saved is None:
            raise NotFoundException(
                f"There is no dashboard {name[:80]!r} that you can delete."
            ) from None
        shown = {"yaml": to_yaml(saved.settings), "version": str(saved.version)}
        return await render_editor(
            request, services, shown, problem=str(error), saved=saved, status_code=409
        )
    _record(request, services, "dashboard_deleted", name)
    return Redirect(LIST, status_code=303)


@get(f"{LIST}/{{name:str}}/export", name="export dashboard", opt=VIEWER, include_in_schema=False)
async def export(
    request: PageRequest, services: NamedDependency[Services], name: FromPath[str]
) -> Response[str]:
    """Return a saved dashboard as the part of a configuration that has it."""
    saved = services.saved_dashboards.find(name, get_identity(request))
    if saved is None:
        raise NotFoundException(f"There is no saved dashboard {name[:80]!r}.")
    text = yaml.safe_dump(
        {"dashboards": [to_tree(saved.settings)]}, sort_keys=False, allow_unicode=True
    )
    return Response(
        text, media_type="application/yaml",
        headers={"content-disposition": f'attachment; filename="{saved.name}.yaml"'},
    )  # fmt: skip


async def read_form(request: PageRequest) -> dict[str, str]:
    """Return the fields of a form, with the line ends of the text as they were typed: browsers send
    `\\r\\n`."""
    form = await request.form()
    return {name: str(value).replace("\r\n", "\n") for name, value in form.items()}


async def render_editor(
    request: PageRequest,
    services: Services,
    form: Mapping[str, str],
    *,
    problem: str = "",
    saved: SavedDashboard | None = None,
    conflict: SavedDashboard | None = None,
    status_code: int = 200,
) -> Response[str]:
    """Render the editor with the text of a form; with a conflict, also the version of the other."""
    view = scoped_view(services, request)
    text = form.get("yaml", "")
    try:
        content: Any = to_tree(parse_dashboard(text))
    except (ConfigError, YamlError, ValueError):
        content = None
    versions = (
        []
        if saved is None
        else await services.saved_dashboards.versions(saved.name, get_identity(request))
    )
    response = render_page(
        services,
        request,
        "dashboard_editor_page.html",
        {
            "text": text,
            "content": msgspec.json.encode(content).decode(),
            "panels": msgspec.json.encode(list_panels(services, view)).decode(),
            "fields": msgspec.json.encode(describe_fields()).decode(),
            "kinds": msgspec.json.encode(resource_table.suggest_columns(view)).decode(),
            "base_version": str(conflict.version)
            if conflict is not None
            else form.get("version", "0"),
            "share": form.get("share", "owner"),
            "shares": SHARES,
            "saved": saved,
            "versions": versions[1:],
            "conflict": conflict,
            "conflict_text": to_yaml(conflict.settings) if conflict is not None else "",
            "problem": problem,
            "csrf": csrf_token(request),
        },
        name="dashboards",
        title=f"Edit {saved.settings.title or saved.name}" if saved else "New dashboard",
        status_code=status_code,
    )
    set_form_cookie(request, response)
    return response


def list_panels(services: Services, view: View) -> list[dict[str, Any]]:
    """Return the panels to choose from, as far as they may be named to a viewer."""
    rows = []
    for name in sorted(services.panels.names_for(view)):
        panel = services.panels[name]
        if not panel.bare or panel.plugin:
            rows.append(
                {"name": name, "title": panel.title, "width": panel.width,
                 "filters": sorted(panel.filters), "kind": panel.kind}
            )  # fmt: skip
    return rows


def describe_fields() -> dict[str, list[dict[str, Any]]]:
    """Return the fields that charts and tables are built with."""
    return {
        panel.NAME: [
            {"name": field.name, "label": field.label, "hint": field.hint, "choices": field.choices}
            for field in panel.FIELDS
        ]
        for panel in (explorer, resource_table)
    }


def parse_dashboard(text: str) -> DashboardSettings:
    """Return the dashboard of a YAML text: of one alone, or of a configuration with one.

    Raises `YamlError`, `ConfigError` and `ValueError`.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"the text is longer than {LONGEST_TEXT:,} characters")
    tree = parse_yaml(text)
    if isinstance(tree, dict) and set(tree) == {"dashboards"}:
        tree = tree["dashboards"]
    if isinstance(tree, list):
        if len(tree) != 1:
            raise ValueError(f"the text has {len(tree)} dashboards; import one at a time")
        tree = tree[0]
    if not isinstance(tree, dict):
        raise ConfigError("the text is not a dashboard: it needs name, title and panels")
    settings = decode_settings(DashboardSettings, tree, place="")
    settings.panels = [
        PlacedPanel(panel=each) if isinstance(each, str) else each for each in settings.panels
    ]
    return settings


def check_saved(settings: DashboardSettings, services: Services) -> None:
    """Raise `ConfigError` for a panel that does not exist, and `ValueError` for a name that is
    taken by a dashboard of a plugin or of the configuration."""
    check([settings], services.panels, [])
    if any(each.name == settings.name for each in services.list_dashboards()):
        raise ValueError(
            f"{settings.name} is a dashboard of the configuration or of a plugin; choose another"
            " name"
        )


def read_channel(channel: str) -> PlacedPanel:
    """Return the panel with filters that a channel names."""
    name, _, query = channel.partition("?")
    return PlacedPanel(panel=name[:200], filter=dict(parse_qsl(query)))


def to_tree(settings: DashboardSettings) -> dict[str, Any]:
    """Return a dashboard as plain values, without those that are defaults."""
    panels = [to_panel(each) for each in settings.panels if isinstance(each, PlacedPanel)]
    return {"name": settings.name, "title": settings.title, "panels": panels}


def to_panel(placed: PlacedPanel) -> dict[str, Any]:
    """Return a placed panel as plain values, without those that are defaults."""
    values = {
        name: getattr(placed, name) for name in ("panel", "title", "width", "height", "filter")
    }
    return {name: value for name, value in values.items() if value}


def to_yaml(settings: DashboardSettings) -> str:
    """Return the YAML text of a dashboard."""
    return yaml.safe_dump(to_tree(settings), sort_keys=False, allow_unicode=True)


def editor_address(channel: str, name: str = "") -> str:
    """Return the address of the editor with a panel added to a dashboard, or to a new one."""
    return EDITOR + encode_query({**({"name": name} if name else {}), FIRST_PANEL: channel})


def _record(request: PageRequest, services: Services, action: str, name: str) -> None:
    services.access.audit.record(
        action,
        user=get_identity(request).name,
        address=get_request_info(request).address,
        target=name,
    )


DASHBOARD_EDITOR: Final[Sequence[Any]] = [dashboards, editor, save, delete, export]
