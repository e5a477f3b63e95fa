"""Signals that are pushed to a running server, with the token of each intake and with others."""

import gzip
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from almenara.scope import Grant
from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from support.application import Almenara
from support.routes import ROUTES

MEBIBYTE = 1024**2
SECRET = "shared-with-the-sender"
INTAKES: dict[str, Any] = {
    "ci": {"kind": "cloudevents"},
    "small": {"kind": "cloudevents", "max_body_bytes": 200_000, "max_signals": 3,
              "max_decompressed_bytes": 300_000},
    "slow": {"kind": "cloudevents", "rate_limit": 0.001, "burst": 2},
    "build": {"kind": "webhook", "mapping": {"id": "run.id", "type": "kind", "severity": "level"}},
    "hub": {"kind": "webhook", "signature": "github", "secret": SECRET},
    "lab": {"kind": "webhook", "signature": "gitlab", "secret": SECRET},
    "am": {"kind": "alertmanager"},
    "graf": {"kind": "grafana"},
    "cluster": {"kind": "ray"},
}  # fmt: skip
CLOUDEVENT = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}


class Sender:
    """A running Almenara, and a client with the token of every intake and role."""

    def __init__(self, almenara: Almenara) -> None:
        self.almenara = almenara
        self.client = httpx.Client(base_url=almenara.url, timeout=30)
        self.store = AccessStore(almenara.folder / "var")
        self.tokens = {name: self.create(intake=name) for name in INTAKES}
        self.tokens |= {
            "admin": self.create(Role.ADMIN),
            "viewer": self.create(Role.VIEWER),
            "scoped admin": self.create(Role.ADMIN, Grant(sources=("nats",))),
        }

    def create(self, role: Role = Role.INTAKE, grant: Grant | None = None, intake: str = "") -> str:
        """Create a token as `almenara access create` does, without a process for each."""
        grants = [grant or Grant()]
        token, value = create_token(
            "of-the-test", role, grants, 3600, created_by="test", intake=intake
        )
        self.store.add_token(token)
        return value

    def push(self, path: str, caller: str | None, content: Any, **headers: str) -> httpx.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if caller is not None:
            sent["authorization"] = f"Bearer {self.tokens[caller]}"
        return self.client.post(f"/intake/{path}", content=body, headers=sent)

    def events(self, **filters: str) -> list[dict[str, Any]]:
        headers = {"authorization": f"Bearer {self.tokens['viewer']}"}
        answer = self.client.get("/api/events", params={"limit": "200", **filters}, headers=headers)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["events"])

    def state(self, name: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.tokens['viewer']}"}
        states = self.client.get("/api/sources", headers=headers).json()
        return next(each for each in states if each["name"] == f"intake/{name}")


def cloudevent(identity: str, **more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": identity, "source": "ci/main", "type": "ci.run", **more}


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sender]:
    config = {
        "auth": {"mode": "token", "token": "of-the-people-who-sign-in"},
        "plugins": {"disabled": ["nats"]},
        "intake": INTAKES,
    }
    with Almenara(tmp_path_factory.mktemp("intake"), config=config) as almenara:
        yield Sender(almenara)


def test_cloudevents_of_every_mode_are_stored_once(sender: Sender) -> None:
    single = cloudevent("s1", subject="main", severity="WARN", data={"n": 1})
    batch = [cloudevent("b1"), cloudevent("b2"), cloudevent("b1")]
    binary = {"content_type": "application/json", "ce_specversion": "1.0", "ce_id": "h1",
              "ce_source": "ci/main", "ce_type": "ci.run"}  # fmt: skip
    for _ in range(3):
        answers = [
            sender.push("cloudevents", "ci", single, **CLOUDEVENT),
            sender.push("cloudevents", "ci", batch, **BATCH),
            sender.push("cloudevents", "ci", gzip.compress(json.dumps(batch).encode()),
                        content_encoding="gzip", **BATCH),
            sender.push("cloudevents", "ci", {"n": 2}, **binary),
        ]  # fmt: skip
        assert [each.status_code for each in answers] == [200] * 4, [each.text for each in answers]
        assert [each.json() for each in answers] == [{"signals": each} for each in (1, 3, 3, 1)]
    stored = {each["id"]: each for each in sender.events(origin="intake/ci")}
    assert len(sender.events(origin="intake/ci")) == len(stored)
    assert {"s1", "b1", "b2", "h1"} <= stored.keys()
    assert stored["s1"]["severity"] == "WARN"
    assert (stored["s1"]["data"], stored["h1"]["data"]) == ({"n": 1}, {"n": 2})


def test_identity_belongs_to_the_sender(sender: Sender) -> None:
    assert sender.push("cloudevents", "ci", cloudevent("same"), **CLOUDEVENT).status_code == 200
    assert sender.push("cloudevents", "small", cloudevent("same"), **CLOUDEVENT).status_code == 200
    origins = [each["origin"] for each in sender.events(type="ci.run") if each["id"] == "same"]
    assert sorted(origins) == ["intake/ci", "intake/small"]


def test_webhooks_are_mapped_and_signatures_checked(sender: Sender) -> None:
    body = {"run": {"id": 7}, "kind": "done", "level": "failed"}
    for _ in range(2):
        assert sender.push("webhook/build", "build", body).status_code == 200
    (event,) = sender.events(origin="intake/build")
    assert (event["id"], event["type"], event["severity"]) == ("7", "done", "ERROR")
    missing = sender.push("webhook/build", "build", {"kind": "done"})
    assert (missing.status_code, "run.id" in missing.json()["detail"]) == (400, True)

    push = json.dumps({"repository": {"full_name": "a/b"}}).encode()
    digest = hmac.new(SECRET.encode(), push, hashlib.sha256).hexdigest()
    delivery = {"x_github_event": "push", "x_github_delivery": "d1"}
    for signature, status in ((f"sha256={digest}", 200), (digest, 401), ("", 401)):
        answer = sender.push("webhook/hub", None, push, x_hub_signature_256=signature, **delivery)
        assert answer.status_code == status, answer.text
    assert sender.push("webhook/hub", "admin", push, **delivery).status_code == 401
    (event,) = sender.events(origin="intake/hub")
    assert (event["id"], event["type"], event["subject"]) == ("d1", "github.push", "a/b")

    for token, status in ((SECRET, 200), ("wrong", 401)):
        answer = sender.push("webhook/lab", None, {"object_kind": "push"}, x_gitlab_token=token)
        assert answer.status_code == status
        assert SECRET not in answer.text
    assert [each["type"] for each in sender.events(origin="intake/lab")] == ["gitlab.push"]


def test_alerts_become_events(sender: Sender) -> None:
    alert = {"status": "firing", "labels": {"alertname": "Down", "severity": "warning"},
             "annotations": {"summary": "it is down"}, "startsAt": "2026-01-01T00:00:00.5Z",
             "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "http://prometheus.example/graph",
             "fingerprint": "f1"}  # fmt: skip
    resolved = {**alert, "status": "resolved", "endsAt": "2026-01-01T00:10:00Z"}
    for path, caller in (("alertmanager", "am"), ("grafana", "graf")):
        for alerts in ([alert], [alert], [alert, resolved], [resolved]):
            body = {"version": "4", "groupKey": "{}", "receiver": "almenara", "status": "firing",
                    "externalURL": "http://alerts.example", "alerts": alerts}  # fmt: skip
            assert sender.push(path, caller, body).status_code == 200
        events = {each["type"]: each for each in sender.events(origin=f"intake/{caller}")}
        assert len(sender.events(origin=f"intake/{caller}")) == 2
        firing = events[f"{path}.alert.firing"]
        assert (firing["subject"], firing["severity"]) == ("Down", "WARN")
        assert firing["data"]["annotations"] == {"summary": "it is down"}
        assert events[f"{path}.alert.resolved"]["severity"] == "INFO"


def test_wrong_bodies_are_refused_with_the_reason(sender: Sender) -> None:
    big = gzip.compress(bytes(MEBIBYTE))
    four = [cloudevent(str(number)) for number in range(4)]
    cases: list[tuple[Any, dict[str, str], int, str]] = [
        (b"{", CLOUDEVENT, 400, "JSON"),
        ({"specversion": "1.0"}, CLOUDEVENT, 400, "no id"),
        ([cloudevent("x"), {}], BATCH, 400, "[1]"),
        (cloudevent("\ud800"), CLOUDEVENT, 400, "JSON"),
        (b"[" * 100_000, BATCH, 400, "max_nesting"),
        (cloudevent("x"), {"content-type": "application/json"}, 415, "Content-Type"),
        (big, {**CLOUDEVENT, "content-encoding": "br"}, 415, "gzip"),
        (big, {**CLOUDEVENT, "content-encoding": "gzip"}, 413, "decompress"),
        (b"no gzip", {**CLOUDEVENT, "content-encoding": "gzip"}, 400, "gzip"),
        (bytes(200_001), CLOUDEVENT, 413, "max_body_bytes"),
        (bytes(2 * MEBIBYTE), CLOUDEVENT, 413, "max_body_bytes"),
        (four, BATCH, 413, "max_signals"),
    ]
    refused = sender.state("small")["refused"]
    for body, headers, status, reason in cases:
        answer = sender.push("cloudevents", "small", body, **headers)
        assert answer.status_code == status, (reason, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert reason in answer.json()["detail"], answer.text
    # The largest body is refused before an intake is known.
    assert sender.state("small")["refused"] == refused + len(cases) - 1
    assert all(each["id"] == "same" for each in sender.events(origin="intake/small"))


def test_pushes_above_the_rate_are_refused_until_later(sender: Sender) -> None:
    batch = [cloudevent(f"r{number}") for number in range(5)]
    assert sender.push("cloudevents", "slow", batch, **BATCH).status_code == 200
    answer = sender.push("cloudevents", "slow", batch, **BATCH)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 1_000
    assert "intake.slow.rate_limit" in answer.json()["detail"]


def test_intake_tokens_push_to_their_intake_only(sender: Sender) -> None:
    event = cloudevent("matrix")
    for caller, expected in {"ci": 200, "am": 403, "build": 403, "viewer": 403, "scoped admin": 403,
                          "admin": 400, None: 401}.items():  # fmt: skip
        answer = sender.push("cloudevents", caller, event, **CLOUDEVENT)
        assert answer.status_code == expected, (caller, answer.text)
    named = sender.push("cloudevents?intake=ci", "admin", event, **CLOUDEVENT)
    assert named.status_code == 200
    assert sender.push("webhook/build", "ci", {"run": {"id": 1}}).status_code == 403
    assert sender.push("webhook/unknown", "admin", {}).status_code == 404
    other = {"origin": "http://elsewhere.example", **CLOUDEVENT}
    assert sender.push("cloudevents", "ci", event, **other).status_code == 403


def test_token_of_an_intake_may_be_the_password_of_an_address(sender: Sender) -> None:
    event = json.dumps(cloudevent("basic")).encode()
    for caller, expected in {"ci": 200, "am": 403, "viewer": 401, "admin": 401}.items():
        for path, method in (("/intake/cloudevents", "POST"), ("/api/events", "GET")):
            answer = sender.client.request(
                method, path, content=event, headers=CLOUDEVENT, auth=("x", sender.tokens[caller])
            )
            status = expected if method == "POST" or expected == 401 else 403
            assert answer.status_code == status, (caller, path, answer.text)
    for wrong in ("Basic", "Basic !", "Basic eA==", "Basic eDo=", "Digest x"):
        answer = sender.push("cloudevents", None, event, authorization=wrong, **CLOUDEVENT)
        assert answer.status_code == 401, wrong


def test_formats_of_plugins_are_pushed_to_their_own_address(sender: Sender) -> None:
    event = {"eventId": "AAEC", "eventType": "NODE_LIFECYCLE_EVENT", "sessionName": "s",
             "timestamp": "2026-01-01T00:00:00Z",
             "nodeLifecycleEvent": {"nodeId": "AAEC", "stateTransitions": []}}  # fmt: skip
    for _ in range(2):
        assert sender.push("ray", "cluster", [event]).status_code == 200
    (stored,) = sender.events(origin="intake/cluster")
    assert (stored["id"], stored["type"]) == ("000102", "ray.export.node_lifecycle")
    wrong = sender.push("ray", "cluster", [event, {"eventId": "AAEC"}])
    assert (wrong.status_code, "[1]: eventType" in wrong.json()["detail"]) == (400, True)
    assert sender.push("ray", "cluster", b"[" * 100_000).status_code == 400
    assert sender.push("ray", "ci", [event]).status_code == 403
    assert sender.push("unknown", "admin", []).status_code == 404


def test_intake_tokens_can_do_nothing_else(sender: Sender) -> None:
    token = sender.tokens["ci"]
    headers = {"authorization": f"Bearer {token}"}
    requests = 0
    for method, path, handler in ROUTES:
        if handler.opt["required_role"] is None or path.startswith("/intake/"):
            continue
        address = path.replace("{sequence:int}", "1").replace("{", "").replace("}", "")
        answer = sender.client.request(method, address, headers=headers)
        assert answer.status_code == 403, (method, path)
        requests += 1
    assert requests > 20
    page = sender.client.get("/sign-in", headers={"origin": sender.almenara.url})
    assert page.status_code == 200, page.text
    csrf = page.text.split('name="csrf" value="')[1].split('"')[0]
    answer = sender.client.post("/sign-in", data={"csrf": csrf, "token": token},
                                headers={"origin": sender.almenara.url})  # fmt: skip
    assert answer.status_code == 403
    sender.client.cookies.clear()


def test_sources_page_shows_the_figures_of_each_sender(sender: Sender) -> None:
    assert sender.push("cloudevents", "ci", cloudevent("seen"), **CLOUDEVENT).status_code == 200
    assert sender.push("cloudevents", "ci", b"{", **CLOUDEVENT).status_code == 400
    state = sender.state("ci")
    assert state["status"] == "running"
    assert state["events"] >= 1
    assert state["last_received"] > 0
    assert state["refused"] >= 1
    assert "refused" in state["error"]
    headers = {"authorization": f"Bearer {sender.tokens['viewer']}"}
    page = sender.client.get("/sources", headers=headers).text
    assert "intake/ci" in page
    assert SECRET not in page


def test_tokens_are_created_for_configured_intakes(sender: Sender) -> None:
    def fails(*options: str) -> str:
        done = sender.almenara.command("access", "create", "x", *options)
        assert done.returncode != 0
        return " ".join(done.stderr.split())

    assert "did you mean build" in fails("--intake", "buidl")
    assert "do not apply" in fails("--intake", "ci", "--role", "admin")
    done = sender.almenara.command("access", "create", "x", "--intake", "ci")
    headers = {"authorization": f"Bearer {done.stdout.strip()}", **CLOUDEVENT}
    body = json.dumps(cloudevent("cli")).encode()
    answer = sender.client.post("/intake/cloudevents", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    listed = sender.almenara.command("access", "list").stdout
    assert "intake:build" in listed
