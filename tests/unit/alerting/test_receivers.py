"""A wrong `alerting` section is refused with path, value and the nearest valid name."""

from typing import Any

import msgspec
import pytest

from almenara.alerting.notifications.receivers import check_alerting, create_receivers
from almenara.config import AlertingSettings, ConfigError, Secret, decode_settings
from almenara.hookspecs import Capabilities, Delivery, Notification, NotifierKind


class PagerSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    number: str
    token: Secret | None = None

    def __post_init__(self) -> None:
        if not self.number.isdigit():
            raise ValueError("number must consist of digits")


class Pager:
    def __init__(self, settings: PagerSettings) -> None:
        if settings.number == "0":
            raise ValueError("number 0 cannot be called")

    async def notify(self, notification: Notification) -> Delivery:
        return Delivery()


KINDS = {
    "pager": NotifierKind(
        name="pager", settings=PagerSettings, create=Pager, capabilities=Capabilities(edit=True)
    )
}


def receiver(name: str = "ops", **fields: Any) -> dict[str, Any]:
    return {"name": name, "kind": "pager", "settings": {"number": "110"}, **fields}


def check(tree: dict[str, Any]) -> None:
    check_alerting(decode_settings(AlertingSettings, tree, place="alerting"), KINDS)


ROUTE = {"receivers": ["ops"]}


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"receivers": [receiver()], "route": ROUTE},
        {"receivers": [receiver(), receiver("mail", fallback="ops")], "route": ROUTE,
         "fallback": "mail"},
        {"receivers": [receiver(title="{{ status }}")],
         "route": {**ROUTE, "group_by": ["..."], "routes": [
             {"matchers": ["team=db"], "continue": True, "routes": [{"matchers": ["a!=b"]}]}]}},
    ],
)  # fmt: skip
def test_valid_alerting_is_accepted(tree: dict[str, Any]) -> None:
    check(tree)


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"receivers": [receiver()]},
         "alerting.route.receivers: the root must name a receiver; known: ops"),
        ({"receivers": [receiver()], "route": {"receivers": ["opz"]}},
         "alerting.route.receivers[0]: 'opz' is not a receiver; did you mean ops?"),
        ({"receivers": [receiver()], "route": {**ROUTE, "routes": [{"receivers": ["op"]}]}},
         "alerting.route.routes[0].receivers[0]: 'op' is not a receiver; did you mean ops?"),
        ({"receivers": [receiver()], "route": {**ROUTE, "routes": [{"matchers": ["a=b", "c"]}]}},
         "alerting.route.routes[0].matchers[1]: 'c' is not a matcher"),
        ({"receivers": [receiver()], "route": {**ROUTE, "matchers": ["a=b"]}},
         "alerting.route.matchers: the root takes all alerts"),
        ({"receivers": [receiver()], "route": {**ROUTE, "continue": True}},
         "alerting.route.continue: the root takes all alerts"),
        ({"receivers": [receiver()], "route": {**ROUTE, "group_by": ["a b"]}},
         "alerting.route.group_by[0]: 'a b' is not the name of a label"),
        ({"receivers": [receiver()], "route": {**ROUTE, "group_wiat": 3}},
         "alerting.route.group_wiat is not a setting; did you mean group_wait?"),
        ({"receivers": [receiver()], "route": {**ROUTE, "routes": [{"routs": []}]}},
         "alerting.route.routes[0].routs is not a setting; did you mean routes?"),
        ({"receivers": [receiver(), receiver()], "route": ROUTE},
         "alerting.receivers[1].name: 'ops' is the name of another receiver"),
        ({"receivers": [receiver(kind="pagr")], "route": ROUTE},
         "alerting.receivers[0].kind: 'pagr' is not a kind of receiver; did you mean pager?"),
        ({"receivers": [receiver(settings={"numbr": "1"})], "route": ROUTE},
         "alerting.receivers[0].settings.numbr is not a setting; did you mean number?"),
        ({"receivers": [receiver(settings={"number": "x"})], "route": ROUTE},
         "alerting.receivers[0].settings: number must consist of digits"),
        ({"receivers": [receiver(settings={"number": "0"})], "route": ROUTE},
         "alerting.receivers[0].settings: number 0 cannot be called"),
        ({"receivers": [receiver(fallback="opss")], "route": ROUTE},
         "alerting.receivers[0].fallback: 'opss' is not a receiver; did you mean ops?"),
        ({"receivers": [receiver(fallback="ops")], "route": ROUTE},
         "alerting.receivers[0].fallback: a receiver cannot be its own fallback"),
        ({"receivers": [receiver()], "route": ROUTE, "fallback": "x"},
         "alerting.fallback: 'x' is not a receiver"),
        ({"receivers": [receiver(text="{{ alertz }}")], "route": ROUTE},
         "alerting.receivers[0].text: the template is wrong: line 1: alertz is not a variable"),
        ({"receivers": [receiver(name="a b")], "route": ROUTE}, "alerting.receivers[0].name"),
        ({"receivers": [receiver(rate_limit=0)], "route": ROUTE},
         "alerting.receivers[0].rate_limit"),
        ({"heartbeat": {"url": "example.com"}}, "alerting.heartbeat.url: url of"),
    ],
)  # fmt: skip
def test_wrong_alerting_is_refused(tree: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(tree)
    assert reason in str(error.value)


def test_secret_in_the_wrong_place_is_not_shown() -> None:
    tree = {"receivers": [receiver(settings={"number": "1", "token": ["s3cret-value"]})]}
    with pytest.raises(ConfigError) as error:
        check(tree)
    assert "s3cret-value" not in str(error.value)


def test_receiver_inherits_the_fallback() -> None:
    settings = decode_settings(
        AlertingSettings,
        {"receivers": [receiver(), receiver("mail")], "route": ROUTE, "fallback": "mail"},
        place="alerting",
    )
    receivers = create_receivers(settings, KINDS)
    assert receivers["ops"].traits.fallback == "mail"
    assert receivers["mail"].traits.fallback == ""
    assert receivers["ops"].traits.accepts_quiet
