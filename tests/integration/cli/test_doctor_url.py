"""`almenara doctor --url` checks a running Almenara from outside."""

from pathlib import Path

from support.application import Almenara
from support.raw_nats import RawClient
from support.servers import NatsServer, free_port


def run_doctor(almenara: Almenara, *arguments: str) -> tuple[int, str]:
    done = almenara.command("doctor", *arguments)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_doctor_url_checks_readiness_pages_websocket_and_origin(
    idle_almenara: Almenara,
) -> None:
    status, text = run_doctor(idle_almenara, "--url", idle_almenara.url)
    assert status == 0
    assert "is ready" in text
    assert "the events page is served" in text
    assert "pages of other sites are refused" in text
    assert "a frame arrived over the WebSocket" in text


def test_doctor_url_waits_for_the_expected_event(
    almenara: Almenara, nats_server: NatsServer
) -> None:
    client = RawClient(nats_server.port)
    client.make_stream("FLEET", "fleet.>")
    client.publish("fleet.a", b'{"mark": "b1946ac9-2492-4d2b"}')
    status, text = run_doctor(
        almenara, "--url", almenara.url, "--wait", "20", "--expect", "b1946ac9-2492-4d2b"
    )
    client.close()
    assert status == 0
    assert "an event with b1946ac9-2492-4d2b arrived over the WebSocket" in text


def test_doctor_url_fails_without_the_expected_event(idle_almenara: Almenara) -> None:
    status, text = run_doctor(
        idle_almenara, "--url", idle_almenara.url, "--expect", "never-published"
    )
    assert status == 1
    assert "an event with never-published did not arrive within 10 s" in text


def test_doctor_url_fails_without_a_server(tmp_path: Path, idle_almenara: Almenara) -> None:
    status, text = run_doctor(idle_almenara, "--url", f"http://127.0.0.1:{free_port()}")
    assert status == 1
    assert "no Almenara responds at" in text


def test_doctor_url_warns_about_sign_in_and_accepts_a_token(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with Almenara(tmp_path / "guarded", nats_server.url, auth__mode="token") as almenara:
        status, text = run_doctor(almenara, "--url", almenara.url)
        assert status == 0
        assert "sign-in is required" in text
        assert "the WebSocket requires sign-in" in text
        token = tmp_path / "token"
        token.write_text(almenara.command("access", "create", "doctor").stdout)
        status, text = run_doctor(
            almenara, "--url", almenara.url, "--token-file", str(token), "--wait", "5"
        )
        assert status == 0
        assert "the events page is served" in text
        token.write_text("no-such-token-as-this-one")
        status, text = run_doctor(almenara, "--url", almenara.url, "--token-file", str(token))
        assert status == 1
        assert "The token is not accepted" in text


def test_doctor_url_refuses_an_invalid_url(idle_almenara: Almenara) -> None:
    status, text = run_doctor(idle_almenara, "--url", "almenara.example.org")
    assert status == 1
    assert "write http://host:port" in text
