"""Alerting: rules over the log, alerts as resources and events, and notifications about them."""

from typing import Final

from almenara.scope import ALERT_KIND, ALERTING

ALERT: Final = ALERT_KIND
"""Kind of the resource of an alert, and prefix of the types of its events."""
RULE: Final = "almenara.alert_rule"
SILENCE: Final = "almenara.silence"
SOURCE: Final = "almenara.source"
"""Kind of the resource of a source, whose status rules can read."""
ORIGIN: Final = ALERTING
"""Origin of what alerting publishes that is not about signals of one source."""
COMMAND: Final = "almenara.alerting"
"""Prefix of the types of commands: `almenara.alerting.acknowledge`."""
