"""The table of any resources: its filters name their kind and the columns.

Dashboards made in the browser have it as often as they need it.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self, get_args

import msgspec

from almenara.config import suggest
from almenara.hookspecs import Column, Filter as FilterField, ResourceQuery, TablePanel
from almenara.panel_specs import Format
from almenara.panels.filters import MAX_VALUE, ResourceFilters
from almenara.panels.kinds.base import affected_by_resources
from almenara.panels.kinds.cells import AGE_REFRESH
from almenara.panels.kinds.table import prepare_table
from almenara.panels.panel import Panel
from almenara.panels.validation import RESOURCE_FIELDS
from almenara.panels.view import View

NAME: Final = "table"
COLUMN: Final = re.compile(r"(?:([^=:,]{1,40})=)?([^=:,]{1,120})(?::([a-z]+))?")
"""A column in an address: a title and a path, and how its values are written."""
FORMATS: Final[Mapping[str, Format]] = {name: name for name in get_args(Format)}
MAX_COLUMNS: Final = 12
LONGEST_COLUMNS: Final = 600
"""Characters of all columns."""
DEFAULT_COLUMNS: Final = "namespace,status,time"
OWN_FORMATS: Final[Mapping[str, Format]] = {"status": "status", "time": "time"}
"""How the values of some paths are written where the column names no format."""
SUGGESTED_KINDS: Final = 200
SUGGESTED_COLUMNS: Final = 60
EXAMPLES: Final = 20
"""Resources of a kind whose state is read for the columns to choose from."""
MEASURED: Final = 3
"""Those of them whose metrics are read."""


class TableFilters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which resources a table has, and what it shows of them."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    status: str = ""
    text: str = ""
    columns: str = ""
    sort: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> Self:
        """Read the filters from the parameters of an address. Raises `ValueError`."""
        values = {
            name: text.strip()[: LONGEST_COLUMNS if name == "columns" else MAX_VALUE]
            for name, text in query.items()
            if text.strip()
        }
        try:
            filters = msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(str(error).replace(" - at `$.", " in `")) from None
        parse_columns(filters.columns)
        return filters

    def to_query(self) -> dict[str, str]:
        """The parameters that `from_query` reads back."""
        return {name: str(value) for name, value in msgspec.to_builtins(self).items()}

    def declare(self) -> TablePanel:
        """The panel that shows them."""
        return TablePanel(
            name=NAME,
            title=self.kind,
            query=ResourceQuery(
                kind=self.kind, namespace=self.namespace, name=self.name, limit=self.limit
            ),
            columns=parse_columns(self.columns),
        )


def parse_columns(text: str) -> list[Column]:
    """Return the columns of a list such as `status, Node=state.node, sample.cpu:percent`; the name
    is always the first. Raises `ValueError`."""
    columns = [Column(title="Name", path="name")]
    for part in (text or DEFAULT_COLUMNS).split(","):
        if not (part := part.strip()) or part == "name":
            continue
        matched = COLUMN.fullmatch(part)
        path = "" if matched is None else matched[2].strip()
        if matched is None or not (
            path in RESOURCE_FIELDS or path.startswith(("state.", "sample."))
        ):
            raise ValueError(
                f"column {part[:60]!r} is not a path such as status, state.node or sample.cpu,"
                " optionally with a title in front (Node=state.node) and a format behind it"
                " (sample.cpu:percent)"
            )
        written = matched[3]
        if written is not None and written not in FORMATS:
            raise ValueError(
                f"{written[:40]!r} is not a format of a column; {suggest(written, list(FORMATS))}"
            )
        title = matched[1] or path.rpartition(".")[2].replace("_", " ").capitalize()
        own = OWN_FORMATS.get(path, "number" if path.startswith("sample.") else "text")
        columns.append(
            Column(
                title=title.strip(),
                path=path,
                format=FORMATS[written] if written else own,
            )
        )
    if len(columns) > MAX_COLUMNS:
        raise ValueError(f"a table has at most {MAX_COLUMNS} columns, not {len(columns)}")
    return columns


async def prepare(view: View, filters: TableFilters) -> Mapping[str, Any]:
    """Prepare the rows."""
    if not filters.kind:
        return {"rows": []}
    narrowed = ResourceFilters(status=filters.status, text=filters.text, sort=filters.sort)
    return await prepare_table(
        filters.declare(), view, narrowed, filters.to_query(), address=f"/panels/{NAME}"
    )


def suggest_columns(view: View) -> dict[str, list[str]]:
    """Return the kinds of resources that a viewer sees, each with the paths of columns that some of
    them have a value for."""
    suggestions: dict[str, list[str]] = {}
    for kind in view.resources.kinds()[:SUGGESTED_KINDS]:
        paths = dict.fromkeys(("status", "namespace", "time"))
        for number, resource in enumerate(view.resources.page(kind, None, EXAMPLES)):
            for name, value in resource.state.items():
                if isinstance(value, str | int | float | bool) and is_writable(name):
                    paths[f"state.{name}"] = None
            if number < MEASURED:
                metrics = (name for name in view.resources.metrics(resource) if is_writable(name))
                paths |= dict.fromkeys(f"sample.{name}" for name in metrics)
        suggestions[kind] = [*paths][:SUGGESTED_COLUMNS]
    return suggestions


def is_writable(name: str) -> bool:
    """Whether the list of columns can have a path with this name."""
    return len(name) <= MAX_VALUE // 2 and not set(name) & set("=:,")


def _is_affected(batch: Any, filters: TableFilters) -> bool:
    return bool(filters.kind) and affected_by_resources(filters.declare().query)(batch, None)


FIELDS: Final = (
    FilterField(name="kind", label="Kind", hint="kubernetes.pod"),
    FilterField(name="namespace", label="Namespace", hint="all"),
    FilterField(name="name", label="Name", hint="all, or web-*"),
    FilterField(name="status", label="Status", hint="any"),
    FilterField(name="text", label="Search text", hint="words"),
    FilterField(name="columns", label="Columns", hint="status, state.node, sample.cpu:percent"),
    FilterField(name="sort", label="Sort by", hint="name, or -sample.cpu"),
    FilterField(name="limit", label="Rows", hint="50"),
)
PANEL: Final = Panel(
    name=NAME,
    title="Table",
    template="kind_table.html",
    prepare=prepare,
    is_affected=_is_affected,
    filters=frozenset(TableFilters.__struct_fields__),
    filter_fields={field.name: field for field in FIELDS},
    parse=TableFilters.from_query,
    refresh=AGE_REFRESH,
    kind="table",
    width=6,
    empty="No resources of this kind.",
    is_repeatable=True,
)
