"""Every intake against the OpenAPI document: generated bodies, with the token of each intake."""

import os
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
)

from almenara.config import Settings
from almenara.security.identity import Role
from almenara.security.store import AccessStore
from almenara.security.tokens import create_token
from almenara.web.app import create_router
from support.application import Almenara

EXAMPLES = int(os.environ.get("ALMENARA_FUZZED", "15"))
KINDS = ("cloudevents", "webhook", "alertmanager", "grafana", "otlp", "ray")
LIMITS = {"rate_limit": 1_000_000, "burst": 1_000_000, "max_body_bytes": 200_000}
OTLP = ("logs", "traces", "metrics")
EXCLUDED_CHECKS = [
    allow_header_conformance,
    # Fields that are not read are stored as they are.
    negative_data_rejection,
    # Times and numbers of 64 bits are described in words.
    positive_data_acceptance,
    # An intake of OpenTelemetry responds in the encoding of the request.
    response_schema_conformance,
]


def load_schema() -> Any:
    services: Any = SimpleNamespace(settings=Settings(), version="test")
    document = create_router(services).openapi_schema.to_schema()
    document.pop("security")
    return schemathesis.openapi.from_dict(document).include(path_regex="^/intake/")


api = load_schema()


@pytest.fixture
def answers() -> Iterator[Counter[tuple[str, int]]]:
    """Counts the answers to the pushes to one intake, by the intake of the token and the status;
    some must have been stored, and some of each kind refused."""
    counts: Counter[tuple[str, int]] = Counter()
    yield counts
    (kind,) = {kind for kind, _ in counts if kind}
    assert all(counts[kind, status] > 0 for status in (200, 400, 405)), counts
    assert counts["", 401] > 10
    print(f"{counts.total()} pushes: {dict(counts)}")


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of an Almenara with an intake of every kind, and a token for each."""
    config = {
        "auth": {"mode": "token"}, "plugins": {"disabled": ["nats"]},
        "server": {"requests_per_second": 100_000, "request_burst": 100_000},
        "intake": {kind: {"kind": kind, **LIMITS} for kind in KINDS},
    }  # fmt: skip
    with Almenara(tmp_path_factory.mktemp("fuzzed"), config=config) as almenara:
        store, tokens = AccessStore(almenara.folder / "var"), {}
        for kind in KINDS:
            token, value = create_token(kind, Role.INTAKE, [], 3600, created_by="test", intake=kind)
            store.add_token(token)
            tokens[kind] = value
        yield almenara.url, tokens
        assert "Traceback" not in almenara.log


@api.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES < 100,
          suppress_health_check=list(HealthCheck),
          phases=(Phase.explicit, Phase.generate))  # fmt: skip
def test_pushes_are_stored_or_refused_as_documented(
    case: Case, pushed: tuple[str, dict[str, str]], answers: Counter[tuple[str, int]]
) -> None:
    url, tokens = pushed
    path = case.operation.path
    kind = next((each for each in KINDS if each in path), "ray")
    if case.meta is None or path.endswith("}"):
        number = sum(answers.values())
        parts = {"name": "webhook", "kind": OTLP[number % 3] if kind == "otlp" else "ray"}
        case.path_parameters = {name: parts[name] for name in case.path_parameters}
    for caller, allowed in ((kind, {200, 400, 405, 413, 415}), ("", {401, 405})):
        headers = {"authorization": f"Bearer {tokens[caller]}"} if caller else {}
        response = case.call(base_url=url, headers=headers)
        answers[caller, response.status_code] += 1
        assert response.status_code in allowed, response.text
        case.validate_response(response, excluded_checks=EXCLUDED_CHECKS)
