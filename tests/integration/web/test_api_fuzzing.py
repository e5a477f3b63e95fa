"""The API against its OpenAPI document: generated requests with every role."""

import os
from collections import Counter
from types import SimpleNamespace
from typing import Any

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
answers: Counter[tuple[str | None, int]] = Counter()


@api.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES < 100,
          suppress_health_check=list(HealthCheck),
          phases=(Phase.explicit, Phase.generate))  # fmt: skip
def test_api_conforms_to_its_document_for_every_role(case: Case, secured: SecuredServer) -> None:
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


def test_api_was_requested_with_every_role_and_status() -> None:
    for caller in ROLES[:-1]:
        assert answers[caller, 200] > 30
        assert answers[caller, 400] > 30
    assert answers[None, 401] > 60
    assert answers["scoped", 403] > 0
    assert {status for _, status in answers} == {200, 400, 401, 403, 404, 405}
    print(f"{len(list(api.get_all_operations()))} operations, {answers.total()} requests of"
          f" {len(ROLES)} roles: 0 failed, 0 out of scope, 0 without sign-in")  # fmt: skip
