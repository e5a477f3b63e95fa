"""The API against its OpenAPI document: generated requests with every role."""

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
    positive_data_acceptance,
)

from almenara.config import Settings
from almenara.web.app import create_router
from support.secured_server import OURS, THEIRS, SecuredServer

EXAMPLES = int(os.environ.get("ALMENARA_FUZZED", "6"))
"""Generated cases of each operation, besides those at the limits of its parameters."""
ROLES = ("viewer", "operator", "admin", "scoped", "scoped admin", None)
EXCLUDED_CHECKS = [
    # Unsupported methods are refused before routing, which would know the allowed ones.
    allow_header_conformance,
    # Times and queries are described in words, not by a pattern.
    positive_data_acceptance,
]


def load_schema() -> Any:
    services: Any = SimpleNamespace(settings=Settings(), version="test")
    document = create_router(services).openapi_schema.to_schema()
    # The tests set the credentials; generated ones would replace them.
    assert document.pop("security") == [{"token": []}, {"session": []}]
    # What is pushed is the subject of other tests, with a token of its own for each intake.
    return schemathesis.openapi.from_dict(document).exclude(path_regex="^/intake/")


api = load_schema()


@pytest.fixture
def answers() -> Iterator[Counter[tuple[str | None, int]]]:
    """Counts the answers to the requests of one operation, by role and status; every role must have
    been answered what it may request."""
    counts: Counter[tuple[str | None, int]] = Counter()
    yield counts
    assert counts[None, 401] > 2
    for role in ROLES[:-1]:
        expected = {200, 400, 404} if role in ("operator", "admin") else {200, 400, 403, 404}
        assert sum(counts[role, status] for status in expected) > 2, (role, counts)
    print(f"{counts.total()} requests of {len(ROLES)} roles: {dict(counts)}")


@api.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES < 100,
          suppress_health_check=list(HealthCheck),
          phases=(Phase.explicit, Phase.generate))  # fmt: skip
def test_api_conforms_to_its_document_for_every_role(
    case: Case, secured: SecuredServer, answers: Counter[tuple[str | None, int]]
) -> None:
    for caller in ROLES:
        headers = {} if caller is None else {"authorization": f"Bearer {secured.tokens[caller]}"}
        response = case.call(base_url=secured.url, headers=headers)
        answers[caller, response.status_code] += 1
        case.validate_response(response, excluded_checks=EXCLUDED_CHECKS)
        assert response.status_code < 500
        if caller is None:
            assert response.status_code in (401, 404, 405)
            assert OURS not in response.text
        if caller is None or "scoped" in caller:
            assert THEIRS not in response.text
            assert "TEAM_B" not in response.text
