"""The JSON API; `/api/openapi.json` describes it. Only alerts and silences can be changed."""

from typing import Final

from litestar.handlers import HTTPRouteHandler

from almenara.web.routes.api.alerts import ALERTS
from almenara.web.routes.api.changes import changes, changes_csv
from almenara.web.routes.api.events import event, events
from almenara.web.routes.api.export import export_csv, export_ndjson
from almenara.web.routes.api.prometheus import PROMETHEUS
from almenara.web.routes.api.resources import resources
from almenara.web.routes.api.samples import samples, samples_csv
from almenara.web.routes.api.status import health, plugins, sources

API: Final[list[HTTPRouteHandler]] = [
    events, event, export_ndjson, export_csv, resources, changes, changes_csv, samples, samples_csv,
    sources, plugins, health, *PROMETHEUS, *ALERTS,
]  # fmt: skip
