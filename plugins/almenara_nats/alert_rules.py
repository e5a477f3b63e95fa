"""The alert rules about JetStream, and which resources depend on which."""

from typing import Final

from almenara.hookspecs import AlertRule, Condition, ResourceCondition, ResourceLink
from almenara_nats.kinds import CONSUMER, OFFLINE, STALLED, STREAM

RULES: Final = (
    AlertRule(
        name="nats-consumer-stalled",
        when=Condition(resource=ResourceCondition(kind=CONSUMER, status=[STALLED])),
        for_=60.0,
        severity="ERROR",
        annotations={
            "summary": "Consumer {{ name }} of stream {{ namespace }} is stalled: messages wait,"
            " and none is delivered or acknowledged",
        },
    ),
    AlertRule(
        name="nats-stream-offline",
        when=Condition(resource=ResourceCondition(kind=STREAM, status=[OFFLINE])),
        for_=60.0,
        severity="ERROR",
        annotations={"summary": "Stream {{ name }} is offline"},
    ),
)
LINKS: Final = (ResourceLink(kind=CONSUMER, parent=STREAM, name="namespace"),)
