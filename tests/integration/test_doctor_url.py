"""`almenara doctor --url` says how a running Almenara is met from outside."""

from pathlib import Path

from support.application import Almenara
from support.raw_nats import RawClient
from support.servers import NatsServer, free_port


def told(almenara: Almenara, *arguments: str) -> tuple[int, str]:
    done = almenara.command("doctor", *arguments)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_it_sees_readiness_pages_the_websocket_and_that_other_sites_are_refused(
    almenara: Almenara,
) -> None:
    status, text = told(almenara, "--url", almenara.url)
    assert status == 0
    assert "is ready" in text
    assert "the events can be seen" in text
    assert "a page of another site is refused" in text
    assert "a frame came over the WebSocket" in text


def test_it_waits_for_an_event_that_somebody_publishes(
    almenara: Almenara, nats_server: NatsServer
) -> None:
    client = RawClient(nats_server.port)
    client.make_stream("FLEET", "fleet.>")
    client.publish("fleet.a", b'{"mark": "b1946ac9-2492-4d2b"}')
    status, text = told(
        almenara, "--url", almenara.url, "--wait", "20", "--expect", "b1946ac9-2492-4d2b"
    )
    client.close()
    assert status == 0
    assert "an event with b1946ac9-2492-4d2b came over the WebSocket" in text


def test_an_event_that_never_comes_is_told(almenara: Almenara) -> None:
    status, text = told(almenara, "--url", almenara.url, "--expect", "nobody-publishes-this")
    assert status == 1
    assert "an event with nobody-publishes-this did not come within 10 s" in text


def test_where_nothing_answers_it_says_so(tmp_path: Path, almenara: Almenara) -> None:
    status, text = told(almenara, "--url", f"http://127.0.0.1:{free_port()}")
    assert status == 1
    assert "no Almenara answers at" in text


def test_a_page_that_asks_to_sign_in_is_a_warning_and_a_token_gets_behind_it(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Almenara(tmp_path / "guarded", nats_server.url, auth__mode="token") as almenara:
        status, text = told(almenara, "--url", almenara.url)
        assert status == 0
        assert "they ask to sign in" in text
        assert "the WebSocket asks to sign in" in text
        token = tmp_path / "token"
        token.write_text(almenara.command("access", "create", "doctor").stdout)
        status, text = told(
            almenara, "--url", almenara.url, "--token-file", str(token), "--wait", "5"
        )
        assert status == 0
        assert "the events can be seen" in text
        token.write_text("no-such-token-as-this-one")
        status, text = told(almenara, "--url", almenara.url, "--token-file", str(token))
        assert status == 1
        assert "may not look" in text


def test_an_address_that_is_none_is_refused(almenara: Almenara) -> None:
    status, text = told(almenara, "--url", "almenara.example.org")
    assert status == 1
    assert "write http://host:port" in text
