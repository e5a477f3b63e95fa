"""The settings of the NATS plugin."""

import pytest
from click.testing import CliRunner

from almenara.config import ConfigError, decode_settings
from almenara_nats.commands import commands
from almenara_nats.settings import NatsSettings


@pytest.mark.parametrize(
    ("servers", "message"),
    [
        ([], "servers is empty; name one, such as nats://nats:4222"),
        (
            ["http://nats:4222"],
            "http:// is not a scheme of NATS servers; use one of nats, tls, ws, wss",
        ),
        (["nats://a:4222", "tcp://b:4222"], "tcp:// is not a scheme"),
    ],
)
def test_wrong_servers_are_refused(servers: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode_settings(NatsSettings, {"servers": servers}, place="plugins.nats")


@pytest.mark.parametrize("server", ["nats:4222", "nats", "tls://a:4222", "wss://a", "[::1]:4222"])
def test_addresses_with_and_without_a_scheme_are_accepted(server: str) -> None:
    settings = decode_settings(NatsSettings, {"servers": [server]}, place="plugins.nats")
    assert settings.servers == [server]


@pytest.mark.parametrize("subject", ["orders.>", "orders.*", "two words", "orders.", ""])
def test_publish_refuses_what_is_no_subject(subject: str) -> None:
    publish = commands(NatsSettings, lambda: None)[-1]
    result = CliRunner().invoke(publish, [subject, "{}"])
    assert result.exit_code == 1
    assert "is not a subject to publish to; write words separated by dots" in result.output
