"""The filter forms of pages: their fields, the values typed in, and the values to choose from."""

from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from almenara import hookspecs
from almenara.panels.formats import encode_query
from almenara.panels.view import View
from almenara.signals import Severity

CURSORS: Final = ("after", "before")
"""Parameters of the events page that choose a part of the list and are not filters."""
TIME_RANGES: Final = (("15 min", "15m"), ("1 h", "1h"), ("6 h", "6h"), ("24 h", "24h"))
SUGGESTED_VALUES: Final = 200
"""Values that a field offers at most; a browser lists all of them before anything is typed."""


class Field(msgspec.Struct, frozen=True):
    """One field of a filter form."""

    name: str
    label: str
    hint: str = ""
    """The placeholder: an example, or what an empty field means."""
    choices: Sequence[str] = ()
    """The only values possible; the field is a list to choose from."""
    suggestions: Sequence[str] = ()
    """Known values; the field offers them and accepts others, such as patterns."""


EVENT_FIELDS: Final = (
    Field("text", "Search text", 'words, "a phrase" or a prefix*'),
    Field("severity", "Severity"),
    Field("origin", "Origin", "nats/**"),
    Field("type", "Type", "planning.>"),
    Field("source", "CloudEvents source", "nats/PLANNING_EVENTS"),
    Field("subject", "Subject", "US-101"),
    Field("correlation", "Correlation ID", "US-101"),
    Field("since", "From", "15m, 2h or 2026-01-31T12:00Z"),
    Field("until", "To", "5m or 2026-01-31T13:00Z"),
)
FOLDED_FIELDS: Final = ("source", "subject", "correlation", "since", "until")
"""The event fields that stay folded until one of them has a value."""
PANEL_FIELDS: Final = (
    Field("namespace", "Namespace", "all"),
    Field("name", "Name", "all"),
    Field("status", "Status", "any"),
    *EVENT_FIELDS,
)
"""The fields of panels, which show resources too."""


def build_panel_form(
    action: str,
    names: Collection[str],
    values: Mapping[str, str],
    problem: str | None,
    declarations: Iterable[Mapping[str, hookspecs.Filter]] = (),
    suggestions: Mapping[str, Sequence[str]] = {},
) -> dict[str, Any]:
    """Return the values of `panel_filter.html`: a field for each name, with its current value.

    `declarations` are what plugins declared for the fields; the first that has a name wins.
    """
    usual = {field.name: field for field in PANEL_FIELDS}
    ordered = [*(name for name in usual if name in names), *(n for n in names if n not in usual)]
    declared = ChainMap(*map(dict, declarations))
    fields = [
        _build_field(name, declared.get(name), usual.get(name), suggestions.get(name, ()))
        for name in ordered
    ]
    return {
        "action": action,
        "fields": fields,
        "values": {field.name: values.get(field.name, "") for field in fields},
        "hidden_values": {name: text for name, text in values.items() if name not in ordered},
        "severities": list(Severity.__members__),
        "problem": problem,
    }


def _build_field(
    name: str, declared: hookspecs.Filter | None, usual: Field | None, suggestions: Sequence[str]
) -> Field:
    # Of the path of a value in the state, the last part says what it is.
    usual = usual or Field(name, name.rpartition(".")[2].replace("_", " ").capitalize())
    if declared is None:
        return msgspec.structs.replace(usual, suggestions=suggestions)
    return Field(
        name,
        declared.label or usual.label,
        declared.hint or usual.hint,
        declared.choices,
        () if declared.choices else suggestions,
    )


def suggest_values(view: View, plugin: str, names: Iterable[str]) -> dict[str, list[str]]:
    """Return the known values of a plugin's filters, as far as the viewer may see them.

    `namespace` offers the namespaces of the plugin's resources, and any other filter the names of
    the resources of that kind: `node` of the plugin kubernetes those of `kubernetes.node`.
    """
    suggestions: dict[str, list[str]] = {}
    for name in names:
        if name == "namespace":
            kinds = [kind for kind in view.resources.kinds() if kind.startswith(f"{plugin}.")]
            known = {each.namespace for kind in kinds for each in view.resources.of_kind(kind)}
            known.discard("")
        else:
            page = view.resources.page(f"{plugin}.{name}", None, SUGGESTED_VALUES)
            known = {resource.name for resource in page if not resource.deleted}
        if known:
            suggestions[name] = sorted(known)[:SUGGESTED_VALUES]
    return suggestions


async def build_event_form(view: View, values: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the events page's filter form and of the chips of active filters."""
    active = {name: value for name, value in values.items() if name not in CURSORS}
    chips = [
        {
            "label": field.label,
            "value": active[field.name],
            "is_minimum": field.name == "severity",
            "link_without": "/events"
            + encode_query({name: value for name, value in active.items() if name != field.name}),
        }
        for field in EVENT_FIELDS
        if field.name in active
    ]
    without_range = {
        name: value for name, value in active.items() if name not in ("since", "until")
    }
    return {
        "fields": {field.name: field for field in EVENT_FIELDS},
        "values": {field.name: values.get(field.name, "") for field in EVENT_FIELDS},
        "chips": chips,
        "time_ranges": [
            {"label": label, "link": "/events" + encode_query({**without_range, "since": ago})}
            for label, ago in TIME_RANGES
        ],
        "is_unfolded": any(values.get(name) for name in FOLDED_FIELDS),
        "severities": list(Severity.__members__),
        "origins": (await view.history.origins())[:SUGGESTED_VALUES],
        "types": (await view.history.types())[:SUGGESTED_VALUES],
    }
