"""Which parts of an address are ids, and which are words."""

import base64
import random
import string
import uuid
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from almenara.event_types import type_from_address

ADDRESSES = 20_000


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("agent.results.task-8f3a2b1c", "agent.results.*"),
        ("agent.results.task-001", "agent.results.*"),
        ("fleet.heartbeat.6f1c0a52-94a5-4b40-8d5c-3c1f9e0a7b11", "fleet.heartbeat.*"),
        ("vllm.streaming.agent-dev-001", "vllm.streaming.*"),
        ("jobs.deadbeef.done", "jobs.*.done"),
        ("jobs.raysubmit_x7Kq9BztPmN2sVwL.ended", "jobs.*.ended"),
        ("orders.4711.paid", "orders.*.paid"),
        ("pods.web-6d4b75cb6d-hwjsd.ready", "pods.*.ready"),
        ("sessions.01ARZ3NDEKTSV4RRFFQ69G5FAV", "sessions.*"),
        ("sessions.V1StGXR8_Z5jdHi6B-myT", "sessions.*"),
        ("sessions.aBkPqZrTmWxYcDvLnHsQjF", "sessions.*"),
        ("stories.US-101.moved", "stories.*.moved"),
        ("hosts.10.0.0.1.up", "hosts.*.*.*.*.up"),
        ("a." + "x" * 65, "a.*"),
        ("معرف.٤٧١١", "معرف.*"),
    ],
)
def test_type_from_address_replaces_ids(address: str, expected: str) -> None:
    assert type_from_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        "deadletter",
        "planning.story.created",
        "planning.v1.story.created",
        "apps.v1beta1.deployments",
        "api.V2.Users",
        "fleet.agent-response_completed",
        "storage.s3.uploaded",
        "k8s.pod.failed",
        "neo4j.query.slow",
        "proxy.http2.reset",
        "gpu.node7.lost",
        "http.5xx",
        "audit.HorizontalPodAutoscalerUpdated",
        "audit.S3BucketCreated",
        "audit.OAuth2ClientCreated",
        "a.decade.of.facade",
        "$KV.config.theme",
        "orders.>",
        "orders..paid",
        "",
        "故事.创建",
    ],
)
def test_type_from_address_keeps_words_and_versions(address: str) -> None:
    assert type_from_address(address) == address


def letters(alphabet: str, count: int, generator: random.Random) -> str:
    return "".join(generator.choices(alphabet, k=count))


BASE36 = string.ascii_lowercase + string.digits
BASE62 = string.ascii_letters + string.digits


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (lambda generator: str(uuid.UUID(int=generator.getrandbits(128))), 0),
        (lambda generator: letters("0123456789abcdef", 7, generator), 0),
        (lambda generator: str(generator.randrange(10**9)), 0),
        (lambda generator: base64.b32encode(generator.randbytes(20)).decode().lower(), 0.003),
        (lambda generator: letters(BASE62, 22, generator), 0.02),
        (lambda generator: letters(BASE36, 25, generator), 0.002),
    ],
    ids=["uuid", "hex", "number", "base32", "nuid", "cuid"],
)
def test_type_from_address_bounds_the_types_of_random_ids(
    make: Callable[[random.Random], str], limit: float
) -> None:
    generator = random.Random(7)
    types = {type_from_address(f"agent.results.{make(generator)}") for _ in range(ADDRESSES)}
    assert len(types) <= 1 + limit * ADDRESSES


@given(st.text(max_size=80))
def test_type_from_address_keeps_the_number_of_parts_and_changes_no_type(address: str) -> None:
    kind = type_from_address(address)
    assert len(kind.split(".")) == len(address.split("."))
    assert type_from_address(kind) == kind
