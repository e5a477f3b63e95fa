"""The API as its OpenAPI document describes it, asked by every role for what is generated of it."""

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
"""Generated cases of each operation, besides those at the limits of what its parameters take."""
ROLES = ("viewer", "operator", "admin", "scoped", "scoped admin", None)
LEFT_OUT = [
    # What is answered nowhere is refused before it is known what else an address answers.
    allow_header_conformance,
    # What a time or a query may be is said in words.
    positive_data_acceptance,
]


def described() -> Any:
    services: Any = SimpleNamespace(settings=Settings(), version="test")
    document = create_router(services).openapi_schema.to_schema()
    # Who asks is ours to say; what was generated for it would stand where our token does.
    assert document.pop("security") == [{"token": []}, {"session": []}]
    return schemathesis.openapi.from_dict(document)


api = described()
answers: Counter[tuple[str | None, int]] = Counter()


@api.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES < 100,
          suppress_health_check=list(HealthCheck),
          phases=(Phase.explicit, Phase.generate))  # fmt: skip
def test_each_role_gets_what_the_document_says_and_what_is_in_its_scope(
    case: Case, secured: SecuredServer
) -> None:
    for who in ROLES:
        headers = {} if who is None else {"authorization": f"Bearer {secured.tokens[who]}"}
        response = case.call(base_url=secured.url, headers=headers)
        answers[who, response.status_code] += 1
        case.validate_response(response, excluded_checks=LEFT_OUT)
        assert response.status_code < 500
        if who is None:
            assert response.status_code in (401, 404, 405)
            assert OURS not in response.text
        if who is None or "scoped" in who:
            assert THEIRS not in response.text
            assert "TEAM_B" not in response.text


def test_all_roles_were_asked_and_some_saw_something() -> None:
    for who in ROLES[:-1]:
        assert answers[who, 200] > 30
        assert answers[who, 400] > 30
    assert answers[None, 401] > 60
    assert answers["scoped", 403] > 0
    assert {status for _, status in answers} == {200, 400, 401, 403, 404, 405}
    print(f"{len(list(api.get_all_operations()))} operations, {answers.total()} requests of"
          f" {len(ROLES)} roles: 0 failed, 0 out of scope, 0 without sign-in")  # fmt: skip
