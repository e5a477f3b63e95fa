import json
import time

import msgspec
import pytest

from almenara.config import RedactionSettings
from almenara.redaction import Redactor
from almenara.signals import Event, Resource


def event(data: object, **more: object) -> Event:
    return Event(id="1", source="s", type="t", time=0, data=data, **more)  # type: ignore[arg-type]


def redacted(data: object, **more: object) -> object:
    raw = msgspec.Raw(msgspec.json.encode(data))
    masked = Redactor(RedactionSettings())(event(raw, **more))
    assert isinstance(masked, Event)
    return json.loads(bytes(masked.data))


@pytest.mark.parametrize(
    "key",
    ["password", "PASSWORD", "db_password", "userPassword", "access_token", "X-Auth-Token",
     "refreshToken", "client-secret", "Authorization", "apiKey", "API_KEY", "private_key", "token"],
)  # fmt: skip
def test_redactor_masks_value_of_secret_key(key: str) -> None:
    assert redacted({"a": [{key: "hunter2"}]}) == {"a": [{key: "***"}]}
    assert redacted({key: {"deep": ["hunter2"]}}) == {key: "***"}


def test_redactor_masks_key_written_with_escapes() -> None:
    raw = msgspec.Raw(rb'{"\u0070ass\u0077ord": "hunter2"}')
    masked = Redactor(RedactionSettings())(event(raw))
    assert isinstance(masked, Event)
    assert json.loads(bytes(masked.data)) == {"password": "***"}


@pytest.mark.parametrize(
    "key", ["tokens_in", "total_tokens", "secretary", "passwords_changed", "author", "tokenizer"]
)
def test_redactor_keeps_value_of_similar_key(key: str) -> None:
    assert redacted({key: "x", "n": 1}) == {key: "x", "n": 1}


@pytest.mark.parametrize(
    "key", ["time_to_first_token", "gen_ai.server.time_per_output_token", "costPerToken"]
)
def test_redactor_keeps_numbers_of_measurements(key: str) -> None:
    assert redacted({key: 0.25}) == {key: 0.25}
    assert redacted({key: 2}) == {key: 2}
    assert redacted({key: "hunter2"}) == {key: "***"}
    assert redacted({key: ["hunter2"]}) == {key: "***"}


@pytest.mark.parametrize("key", ["token", "pin_token", "photo_token", "super_token"])
def test_redactor_masks_numeric_secrets(key: str) -> None:
    assert redacted({key: 123456, "n": 1.5}) == {key: "***", "n": 1.5}
    assert redacted({"line": f"a {key}=123456"}) == {"line": f"a {key}=***"}


def test_redactor_keeps_measurements_in_text() -> None:
    line = "done time_to_first_token=0.25 cost-per-token: 2"
    assert redacted({"line": line}) == {"line": line}
    masked = redacted({"line": "time_to_first_token=0.25x send to token=5"})
    assert masked == {"line": "time_to_first_token=*** send to token=***"}


def test_redactor_excludes_streamed_model_tokens() -> None:
    data = {"token": "hello ", "access_token": "hunter2"}
    streamed = redacted(data, subject="vllm.streaming.a")
    assert streamed == {"token": "hello ", "access_token": "***"}
    assert redacted(data) == {"token": "***", "access_token": "***"}


def test_redactor_masks_text_headers_state_and_bytes() -> None:
    assert redacted({"line": "login password=hunter2 ok"}) == {"line": "login password=*** ok"}
    assert "hunter2" not in str(redacted({"line": "Authorization: Bearer hunter2"}))
    redact = Redactor(RedactionSettings())
    headers = redact(event(None, attributes={"authorization": "hunter2", "a": "b"}))
    assert isinstance(headers, Event)
    assert headers.attributes == {"authorization": "***", "a": "b"}
    raw = redact(event("x", raw=b"\xff token=hunter2"))
    assert isinstance(raw, Event)
    assert raw.raw == b"\xff token=***"
    state = redact(Resource(kind="k", name="n", state={"env": {"DB_PASSWORD": "hunter2"}}))
    assert isinstance(state, Resource)
    assert state.state == {"env": {"DB_PASSWORD": "***"}}


def test_redactor_masks_status_and_problem() -> None:
    redact = Redactor(RedactionSettings())
    resource = redact(Resource(kind="k", name="n", status="failed: password=hunter2"))
    assert isinstance(resource, Resource)
    assert resource.status == "failed: password=***"
    problem = 'no JSON: {"api_key": "hunter2"'
    masked = redact(Event(id="1", source="s", type="t", time=0, problem=problem))
    assert isinstance(masked, Event)
    assert masked.problem == 'no JSON: {"api_key": "***"'


def test_redactor_returns_same_signal_without_secrets() -> None:
    plain = event(msgspec.Raw(b'{"a": "the token bucket"}'))
    assert Redactor(RedactionSettings())(plain) is plain
    assert Redactor(RedactionSettings(keys=[]))(event({"password": "x"})).data == {"password": "x"}  # type: ignore[union-attr]


def test_redactor_keeps_numbers_as_they_were_written() -> None:
    raw = msgspec.Raw(b'{"password":"hunter2","n":12345678901234567.891,"m":[0.1000,-1E5,7]}')
    masked = Redactor(RedactionSettings())(event(raw))
    assert isinstance(masked, Event)
    assert bytes(masked.data) == b'{"password":"***","n":12345678901234567.891,"m":[0.1000,-1E5,7]}'


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('{"password": "a;b, c d&e}f", "user": "x"}', '{"password": "***", "user": "x"}'),
        ("password='correct horse battery' user=1", "password='***' user=1"),
        ('"authorization": "Bearer abc def"', '"authorization": "Bearer ***"'),
        ('password = "a\\"b c" next', 'password = "***" next'),
        ('{\\"password\\": \\"a;b c\\", \\"n\\": 1}', '{\\"password\\": \\"***\\", \\"n\\": 1}'),
        ('password="unclosed, and more', 'password="***, and more'),
        ('password: ""', 'password: ""'),
    ],
)
def test_quoted_secret_of_a_text_is_masked_whole(text: str, masked: str) -> None:
    redactor = Redactor(RedactionSettings())
    assert redactor.mask_text(text) == masked
    assert redactor.mask_text(masked) == masked


def test_masking_a_long_text_takes_linear_time() -> None:
    redactor = Redactor(RedactionSettings())
    started = time.process_time()
    for part in (
        'password="',
        "password='a ",
        "token: ",
        'password="\\',
        'password=\\\\"',
        "password",
    ):
        redactor.mask_text(part * 20_000)
    assert time.process_time() - started < 5.0


@pytest.mark.parametrize(
    "text",
    [
        'password=\\"bearer ' + " " * 300_000,
        'password="bearer' + " " * 300_000 + "\n",
        "password='basic" + " " * 300_000,
    ],
)
def test_spaces_after_a_scheme_take_linear_time(text: str) -> None:
    # Quadratic time would take more than half an hour.
    assert Redactor(RedactionSettings()).mask_text(text).startswith("password=")


def test_several_spaces_after_a_scheme_remain() -> None:
    redactor = Redactor(RedactionSettings())
    assert redactor.mask_text('authorization="Bearer   abc"') == 'authorization="Bearer   ***"'
    assert redactor.mask_text('authorization="Bearer  "') == 'authorization="***"'
