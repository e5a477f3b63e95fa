"""Buttons of Slack messages, and requests that only Slack can have signed."""

import pytest

from almenara_notifiers.slack_buttons import make_buttons, read_callback
from support.notifications import make_alert, make_notification, resolved
from support.slack_requests import SECRET, sign_press


def test_buttons_name_the_open_alerts() -> None:
    notification = make_notification(
        alerts=(make_alert(), make_alert(fingerprint="f2", status="resolved"))
    )
    (block,) = make_buttons(notification)
    buttons = block["elements"]
    assert [button["action_id"] for button in buttons] == [
        "almenara.acknowledge",
        "almenara.silence",
    ]
    assert {button["value"] for button in buttons} == {'["disk_full/f1"]'}


def test_acknowledged_alert_has_no_button_to_acknowledge() -> None:
    (block,) = make_buttons(make_notification(alerts=(make_alert(status="acknowledged"),)))
    assert [button["action_id"] for button in block["elements"]] == ["almenara.silence"]


def test_resolved_or_too_many_alerts_have_no_buttons() -> None:
    assert make_buttons(resolved(make_notification())) == []
    many = tuple(make_alert(fingerprint="f" * 60 + str(number)) for number in range(40))
    assert make_buttons(make_notification(alerts=many)) == []
    assert make_buttons(make_notification(omitted=3)) == []


def test_signed_request_is_read() -> None:
    headers, body = sign_press(value='["disk_full/f1", "disk_full/f2"]')
    first, second = read_callback(headers, body, SECRET)
    assert (first.action, first.alert, first.by) == ("acknowledge", "disk_full/f1", "ada")
    assert second.alert == "disk_full/f2"
    headers, body = sign_press(action="almenara.silence")
    assert read_callback(headers, body, SECRET)[0].action == "silence"
    headers, body = sign_press(action="other")
    assert read_callback(headers, body, SECRET) == []


@pytest.mark.parametrize(
    ("change", "error"),
    [({"secret": "other"}, "signature"), ({"age": 400}, "too old"), ({"age": -400}, "too old"),
     ({"value": "["}, "truncated"), ({"value": '"x"'}, "array")],
)  # fmt: skip
def test_wrong_request_is_refused(change: dict[str, str], error: str) -> None:
    headers, body = sign_press(**change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=error):
        read_callback(headers, body, SECRET)


def test_changed_or_unsigned_request_is_refused() -> None:
    headers, body = sign_press()
    with pytest.raises(ValueError, match="signature"):
        read_callback(headers, body.replace(b"f1", b"f2"), SECRET)
    for name in headers:
        wrong = {**headers, name: "ä"}
        with pytest.raises(ValueError, match=r"signature|timestamp"):
            read_callback(wrong, body, SECRET)
    with pytest.raises(ValueError, match="timestamp"):
        read_callback({}, body, SECRET)
