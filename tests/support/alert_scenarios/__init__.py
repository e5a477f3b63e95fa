"""Acceptance scenarios of alerting: rules and receivers, and what must arrive at the wire.

One Almenara hosts many scenarios at once: each has rules, routes and receivers of its own, and all
its alerts have the label `scenario`. Expectations are about content and order, and about times that
Almenara itself writes; a slow machine makes a scenario slow, not wrong.
"""

import asyncio
import itertools
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from almenara.signals import now
from support.alert_scenarios.laboratory import PATIENCE, Laboratory
from support.application import Almenara
from support.notification_receivers import Answer, HttpReceiver, Request, SmtpReceiver, accept
from support.servers import wait_until

SECOND = 1_000_000
TIMES = {"group_wait": 0.2, "group_interval": 0.3, "repeat_interval": 3600, "group_by": ["rule"]}
"""The times of a scenario that sets none."""
NUMBERS = itertools.count()

Respond = Callable[[Request], Answer]


@dataclass
class Box:
    """What one HTTP receiver gets, and how it answers."""

    answer: Respond = accept
    requests: list[Request] = field(default_factory=list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The JSON of the requests that were accepted."""
        return [request.json for request in self.requests if request.is_accepted]


class Boxes:
    """The HTTP receivers of all scenarios: the first part of the path names the box."""

    def __init__(self) -> None:
        self.boxes: dict[str, Box] = {}

    def __call__(self, request: Request) -> Answer:
        box = self.boxes[request.path.split("/")[1]]
        box.requests.append(request)
        status, headers, body = box.answer(request)
        request.is_accepted = 200 <= status < 300
        return status, headers, body


@dataclass
class Receiver:
    """A receiver of a scenario; `settings` get the address of its box or mailbox."""

    kind: str = "webhook"
    answer: Respond = accept
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the receiver itself: `rate_limit`, `fallback`, `grants`."""


@dataclass
class Scenario:
    """One scenario: its part of the configuration, and what happens."""

    name: str
    play: "Callable[[Stage], Awaitable[None]]"
    rules: Sequence[Mapping[str, Any]]
    route: Mapping[str, Any]
    receivers: Mapping[str, Receiver]
    inhibit: Sequence[Mapping[str, Any]]


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    *,
    rules: Sequence[Mapping[str, Any]] = ({},),
    receivers: Mapping[str, Receiver] | None = None,
    inhibit: Sequence[Mapping[str, Any]] = (),
    into: dict[str, Scenario] | None = None,
    **route: Any,
) -> Callable[[Callable[["Stage"], Awaitable[None]]], Callable[["Stage"], Awaitable[None]]]:
    """Register a function as a scenario of its name.

    A rule without `when` is about the resources that `Stage.fail` publishes. Receivers are named
    by their part behind the name of the scenario; without any there is one webhook. Further
    arguments belong to the route.
    """
    registry = SCENARIOS if into is None else into

    def register(play: Callable[["Stage"], Awaitable[None]]) -> Any:
        name = play.__name__.replace("_", "-")
        assert name not in registry, name
        registry[name] = Scenario(
            name, play, rules, route, receivers or {"": Receiver()}, inhibit
        )  # fmt: skip
        return play

    return register


class Host:
    """An Almenara process for scenarios: its configuration, its receivers and its API."""

    def __init__(self, lab: Laboratory, http: HttpReceiver, mail: SmtpReceiver) -> None:
        self.lab, self.http, self.mail = lab, http, mail
        self.boxes = Boxes()
        http.answer = self.boxes
        self.url, self.token = "", ""
        self._client: httpx.AsyncClient | None = None

    def use(self, almenara: Almenara) -> Almenara:
        """Use an Almenara that does not run yet; its API gets the token of an operator."""
        almenara.command("access", "rotate")
        created = almenara.command("access", "create", "scenarios", "--role", "operator")
        assert created.returncode == 0, created.stderr
        self.url, self.token = almenara.url, created.stdout.strip()
        return almenara

    @property
    def client(self) -> httpx.AsyncClient:
        if self._client is None:
            limits = httpx.Limits(max_connections=20, max_keepalive_connections=0)
            headers = {"authorization": f"Bearer {self.token}"}
            self._client = httpx.AsyncClient(
                base_url=self.url, headers=headers, timeout=60, limits=limits
            )
        return self._client

    async def close(self) -> None:
        """Close the connections to the API."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def configure(self, scenarios: Sequence[Scenario], **alerting: Any) -> dict[str, Any]:
        """Return the configuration that hosts scenarios."""
        rules, receivers, routes, inhibit = [], [self._receiver("void", Receiver())], [], []
        for each in scenarios:
            rules += [_rule(each.name, rule) for rule in each.rules]
            names = {part: _join(each.name, part) for part in each.receivers}
            for part, receiver in each.receivers.items():
                configured = self._receiver(names[part], receiver)
                if "fallback" in configured:
                    configured["fallback"] = names[configured["fallback"]]
                receivers.append(configured)
            routes.append(_route(each, names))
            inhibit += [_inhibition(each.name, inhibition) for inhibition in each.inhibit]
        return {
            **self.lab.config,
            "auth": {"mode": "token"},
            "alerting": {
                "enabled": True, "default_rules": False, "rules": rules, "inhibit": inhibit,
                "receivers": receivers,
                "route": {"receivers": ["void"], **TIMES, "routes": routes},
                "flapping": {"fires": 4, "within": 600, "settle": 1.5}, "source_grace": 0.5,
                "fallback_after": 1.0, "max_alerts_per_rule": 20_000, **alerting,
            },
        }  # fmt: skip

    def _receiver(self, name: str, receiver: Receiver) -> dict[str, Any]:
        self.boxes.boxes[name] = Box(receiver.answer)
        address = f"{self.http.url}/{name}"
        own: dict[str, Mapping[str, Any]] = {
            "webhook": {"url": address, "format": "cloudevents"},
            "slack": {"token": "xoxb-1", "channel": "C0DE", "url": address},
            "pagerduty": {"routing_key": "key", "url": address},
            "ntfy": {"topic": "alerts", "url": address},
            "email": {
                "host": "127.0.0.1", "port": self.mail.port, "security": "none",
                "from": "almenara@example.com", "to": [f"{name}@example.com"],
            },
        }  # fmt: skip
        settings = {**own.get(receiver.kind, {"url": address}), **receiver.settings}
        return {
            "name": name, "kind": receiver.kind, "settings": settings, "rate_limit": 60_000,
            "burst": 1_000, **receiver.options,
        }  # fmt: skip


class Restarts:
    """Lets scenarios wait for a `kill -9` that they share: it comes once all of them wait."""

    def __init__(self, almenara: Almenara, count: int) -> None:
        self._almenara, self._playing, self._waiting = almenara, count, 0
        self._is_over = asyncio.Event()

    @property
    def is_due_but_one(self) -> bool:
        """Whether all scenarios but one wait for the kill."""
        return self._waiting >= self._playing - 1

    async def wait(self) -> None:
        """Wait until Almenara was killed and is ready again."""
        self._waiting += 1
        await self._restart_if_due()
        await self._is_over.wait()

    async def leave(self) -> None:
        """Do not wait for this scenario any more."""
        self._playing -= 1
        await self._restart_if_due()

    async def _restart_if_due(self) -> None:
        if self._waiting < self._playing or not self._waiting or self._is_over.is_set():
            return
        self._almenara.kill()
        self._almenara.launch()
        await asyncio.to_thread(wait_until, self._almenara.ready, "almenara", PATIENCE)
        self._is_over.set()


class Stage:
    """A scenario that is played: what it publishes, reads and does."""

    def __init__(self, host: Host, each: Scenario, restarts: Restarts | None = None) -> None:
        self.host, self.scenario, self.name = host, each, each.name
        self.restarts = restarts
        self._read: dict[str, int] = {}

    async def restart(self) -> None:
        """Kill Almenara and start it again, together with the other scenarios."""
        assert self.restarts is not None
        await self.restarts.wait()

    # -- what happens

    async def publish(self, *signals: tuple[str, dict[str, Any]], source: str = "lab") -> None:
        """Publish signals as one batch."""
        await self.host.lab.publish(*signals, source=source)

    def thing(self, name: str, status: str, **fields: Any) -> tuple[str, dict[str, Any]]:
        """The resource that the rule of the scenario is about."""
        severity = "INFO" if status == "ok" else "ERROR"
        return resource("thing", name, status, severity, namespace=self.name, **fields)

    async def fail(self, *names: str, **fields: Any) -> None:
        """Let resources fail, in one batch."""
        await self.publish(*(self.thing(name, "bad", **fields) for name in names))

    async def recover(self, *names: str, **fields: Any) -> None:
        """Let resources recover, in one batch."""
        await self.publish(*(self.thing(name, "ok", **fields) for name in names))

    async def call(self, method: str, path: str, **body: Any) -> Any:
        """Call the API; returns the JSON of the answer."""
        answer = await self.host.client.request(method, path, json=body or None)
        assert answer.is_success, (method, path, answer.status_code, answer.text)
        return answer.json() if answer.content else None

    async def act(self, action: str, name: str, **body: Any) -> None:
        """Acknowledge the alert of a name, or take that back."""
        alert = await self.alert(name)
        await self.call("POST", f"/api/alerts/{alert['key']}/{action}", **body)

    async def silence(self, *matchers: str, **body: Any) -> str:
        """Create a silence for alerts of this scenario, and return its id."""
        values = {"comment": "a test", "seconds": 3600, **body}
        texts = [f"scenario={self.name}", *matchers]
        answer = await self.call("POST", "/api/silences", matchers=texts, **values)
        return str(answer["id"])

    # -- what is read

    def box(self, part: str = "") -> Box:
        """What a receiver of the scenario gets."""
        return self.host.boxes.boxes[_join(self.name, part)]

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until a condition is true, and return its value."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if value := condition():
                return value
            await asyncio.sleep(0.03)
        raise AssertionError(f"waited {PATIENCE:g} s for {what}")

    async def next(self, part: str = "") -> "Message":
        """Wait for the next notification at a webhook of the scenario."""
        place = self._read.get(part, 0)
        await self.until(lambda: self.unread(part), f"notification {place + 1} of {part!r}")
        self._read[part] = place + 1
        return Message(self._messages(part)[place]["data"])

    def _messages(self, part: str) -> list[dict[str, Any]]:
        """The notifications at a receiver, each once: one that the receiver was slow to confirm is
        sent again, with the same id."""
        bodies = self.box(part).bodies
        return list({body.get("id", n): body for n, body in enumerate(bodies)}.values())

    def unread(self, part: str = "") -> int:
        """The number of notifications that `next` has not returned."""
        return len(self._messages(part)) - self._read.get(part, 0)

    async def eventually(self, read: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Wait until what is read is true, and return it."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if value := await read():
                return value
            await asyncio.sleep(0.1)
        raise AssertionError(f"waited {PATIENCE:g} s for {what}")

    async def elapse(self, seconds: float) -> None:
        """Let time pass in which nothing must happen."""
        end = now() + round(seconds * SECOND)
        while now() < end:
            await asyncio.sleep(0.05)

    async def alerts(self) -> dict[str, dict[str, Any]]:
        """The alerts of the scenario by the name of what they are about."""
        listed = await self.call("GET", "/api/alerts")
        return {
            name_of(alert["state"]["labels"]): {
                **alert, "key": f"{alert['rule']}/{alert['fingerprint']}"
            }
            for alert in listed
            if alert["state"]["labels"].get("scenario") == self.name
        }  # fmt: skip

    async def alert(self, name: str, status: str = "") -> dict[str, Any]:
        """Wait for the alert of a name, with a status."""
        alert: dict[str, Any] = {}
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            alert = (await self.alerts()).get(name, {})
            if alert and status in ("", alert["status"]):
                return alert
            await asyncio.sleep(0.1)
        raise AssertionError(f"the alert {name} is not {status}: {alert}")

    async def transitions(self, name: str) -> list[dict[str, Any]]:
        """The events of the alert of a name in the log, the oldest first."""
        alert = await self.alert(name)
        query = {"type": "almenara.alert.*", "subject": alert["key"], "limit": "500"}
        page = await self.call("GET", f"/api/events?{httpx.QueryParams(query)}")
        return [
            {"status": event["type"].rpartition(".")[2], "time": event["timestamp"],
             **event["data"]}
            for event in reversed(page["events"])
        ]  # fmt: skip

    async def statuses(self, name: str) -> list[str]:
        """The statuses that the alert of a name has had."""
        return [transition["status"] for transition in await self.transitions(name)]


class Message:
    """A notification as a webhook gets it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def __getattr__(self, name: str) -> Any:
        return self.data[name]

    @property
    def names(self) -> dict[str, str]:
        """The status of each alert, by the name of what it is about."""
        return {name_of(alert["labels"]): alert["status"] for alert in self.data["alerts"]}


def name_of(labels: Mapping[str, str]) -> str:
    """The name of what an alert is about, from its labels."""
    names = ("name", "subject", "correlation", "region")
    return next((labels[name] for name in names if name in labels), "")


def resource(
    kind: str, name: str, status: str, severity: str = "INFO", **fields: Any
) -> tuple[str, dict[str, Any]]:
    levels = {"INFO": 9, "WARN": 13, "ERROR": 17}
    return "resource", {
        "kind": kind, "name": name, "status": status, "severity": levels[severity], **fields
    }  # fmt: skip


def event(kind: str, subject: str = "a", **fields: Any) -> tuple[str, dict[str, Any]]:
    return "event", {
        "id": str(next(NUMBERS)), "source": "lab", "type": kind, "subject": subject, **fields
    }  # fmt: skip


def sample(metric: str, value: float, name: str = "a", **fields: Any) -> tuple[str, dict[str, Any]]:
    return "sample", {"kind": "thing", "name": name, "metric": metric, "value": value, **fields}


async def play_all(
    host: Host,
    scenarios: Mapping[str, Scenario],
    restarts: Restarts | None = None,
    limit: float = 600.0,
) -> None:
    """Play scenarios at once. Raises `AssertionError` with those that failed, or that have not
    ended after `limit` seconds: one may read notifications that repeat without an end."""
    failures: list[str] = []

    async def play(each: Scenario) -> None:
        try:
            async with asyncio.timeout(limit):
                await each.play(Stage(host, each, restarts))
        except Exception as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error!s:.500}"
            failures.append(f"{each.name}: line {place.lineno}, {place.line}: {reason}")
            if restarts is not None:
                await restarts.leave()

    async with asyncio.TaskGroup() as group:
        for each in scenarios.values():
            group.create_task(play(each))
    await host.close()
    assert not failures, f"{len(failures)} of {len(scenarios)} failed:\n" + "\n".join(failures)


def _join(name: str, part: str) -> str:
    return f"{name}-{part}" if part else name


def _rule(name: str, rule: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in rule.items() if key != "part"}
    when = {"resource": {"kind": "thing", "namespace": name, "status": ["bad"]}}
    labels = {"scenario": name, **values.pop("labels", {})}
    notify = [_join(name, part) for part in values.pop("notify", [])]
    return {
        "name": _join(name, rule.get("part", "")), "when": when, "severity": "ERROR",
        "labels": labels, "notify": notify, **values,
    }  # fmt: skip


def _route(each: Scenario, names: Mapping[str, str]) -> dict[str, Any]:
    own = {**TIMES, **each.route}
    own.setdefault("receivers", list(each.receivers)[:1])
    return {**_name_receivers(own, names), "matchers": [f"scenario={each.name}"]}


def _name_receivers(route: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    named = dict(route)
    if "receivers" in named:
        named["receivers"] = [names[part] for part in named["receivers"]]
    if "routes" in named:
        named["routes"] = [_name_receivers(below, names) for below in named["routes"]]
    return named


def _inhibition(name: str, inhibition: Mapping[str, Any]) -> dict[str, Any]:
    own = f"scenario={name}"
    return {
        **inhibition,
        "source": [own, *inhibition["source"]], "target": [own, *inhibition["target"]],
    }  # fmt: skip
