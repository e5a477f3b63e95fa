"""The routes: pages, JSON API, sign-in, WebSocket and probes. One module a resource."""

from typing import Final

from litestar.handlers import HTTPRouteHandler

from almenara.web.routes.alerts import alert, alert_rule, alert_rules, alerts, silences
from almenara.web.routes.changes import changes
from almenara.web.routes.charts import chart
from almenara.web.routes.dashboards import dashboard, overview
from almenara.web.routes.event import event
from almenara.web.routes.events import events
from almenara.web.routes.explore import explore
from almenara.web.routes.panels import panel, panel_export
from almenara.web.routes.sources import sources
from almenara.web.routes.static import static
from almenara.web.routes.time_steps import step
from almenara.web.routes.timeline import timeline

PAGES: Final[list[HTTPRouteHandler]] = [
    overview, dashboard, panel, panel_export, chart, explore, events, event, timeline, alerts,
    alert_rules, alert_rule, silences, alert, sources, changes, step, static,
]  # fmt: skip
