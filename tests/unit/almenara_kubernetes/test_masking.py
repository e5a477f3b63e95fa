"""What is shown of an object, and what never is."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from almenara.sdk import NotFound
from almenara_kubernetes.manifests import render_object
from almenara_kubernetes.masking import PARTS, mask, mask_text, render_manifest

PLANTED = "hunter2hunter2"


def shown(tree: dict[str, Any]) -> str:
    return "\n".join(render_manifest(tree))


@pytest.mark.parametrize(
    "tree",
    [
        {"spec": {"containers": [{"env": [{"name": "PLAIN", "value": PLANTED}]}]}},
        {"spec": {"template": {"spec": {"initContainers": [{"env": [{"value": PLANTED}]}]}}}},
        {"spec": {"containers": [{"args": [f"--password={PLANTED}", "--verbose"]}]}},
        {"spec": {"containers": [{"args": ["--api-key", PLANTED]}]}},
        {"spec": {"containers": [{"args": ["redis-server", "--requirepass", PLANTED]}]}},
        {"spec": {"containers": [{"args": [f"--requirepass={PLANTED}"]}]}},
        {"spec": {"containers": [{"args": [f"--pass={PLANTED}"]}]}},
        {"spec": {"containers": [{"args": ["--pass", PLANTED]}]}},
        {"spec": {"containers": [{"args": ["--secret-key", PLANTED]}]}},
        {"spec": {"containers": [{"args": ["--connection-string", f"Key={PLANTED}"]}]}},
        {"spec": {"containers": [{"args": [f"PGPASSWORD={PLANTED}"]}]}},
        {"spec": {"containers": [{"args": [f"amqp://user:{PLANTED}@host"]}]}},
        {"spec": {"containers": [{"args": [f"https://{PLANTED}@host"]}]}},
        {"spec": {"containers": [{"command": ["sh", "-c", f"run --requirepass {PLANTED}"]}]}},
        {"spec": {"containers": [{"command": ["sh", "-c", f"DB_PASSWORD='{PLANTED}' run"]}]}},
        {"spec": {"containers": [{"command": ["psql", f"postgres://me:{PLANTED}@db/x"]}]}},
        {"spec": {"containers": [{"livenessProbe": {"httpGet": {"httpHeaders": [
            {"name": "X", "value": PLANTED}]}}}]}},
        {"metadata": {"annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": f'{{"a":"{PLANTED}"}}'}}},
        {"metadata": {"annotations": {"copy": f'{{"env":[{{"value":"{PLANTED}"}}]}}'}}},
        {"metadata": {"annotations": {"vault/token": PLANTED}}},
        {"metadata": {"managedFields": [{"fieldsV1": {"f:data": PLANTED}}]}},
        {"kind": "Secret", "data": {"a": PLANTED}, "stringData": {"b": PLANTED}},
        {"spec": {"volumes": [{"csi": {"volumeAttributes": {"clientSecret": PLANTED}}}]}},
        {"status": {"message": f"Authorization: Bearer {PLANTED}.x"}},
        {"spec": {"x": f"-----BEGIN RSA PRIVATE KEY-----\n{PLANTED}\n-----END"}},
    ],
)  # fmt: skip
def test_mask_hides_secrets_anywhere(tree: dict[str, Any]) -> None:
    assert PLANTED in msgspec.json.encode(tree).decode()
    assert PLANTED not in shown(tree)


def test_mask_keeps_references_to_secrets() -> None:
    tree = {
        "metadata": {"labels": {"app": "web"}, "annotations": {"note": "one line"}},
        "spec": {
            "imagePullSecrets": [{"name": "registry"}], "automountServiceAccountToken": False,
            "volumes": [{"secret": {"secretName": "tls"}}],
            "containers": [{
                "args": ["--port=80", "--verbose"],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                        {"name": "EMPTY", "value": ""}],
            }],
        },
    }  # fmt: skip
    assert mask(tree) == (tree, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bypass", "a"], ["--bypass=a"], ["--compass", "a"], ["-p", "a"], ["--max-tokens", "9"],
        ["--pass-host-header=true"], ["--image", "acme/auth:v1"], ["http://auth:8080/a@b"],
    ],
)  # fmt: skip
def test_mask_keeps_other_arguments(arguments: list[str]) -> None:
    tree = {"spec": {"containers": [{"args": arguments}]}}
    assert mask(tree) == (tree, "")


def test_mask_bounds_objects_of_any_size() -> None:
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"a": deep}
    assert "levels deep" in render_manifest({"spec": deep})[-1]
    many = render_manifest({"spec": {"list": list(range(PARTS * 2))}})
    assert len(many) < PARTS + 5
    assert "only the first" in many[-1]
    long = shown({"spec": {"text": "x" * 100_000}})
    assert "100,000 characters" in long
    assert len(long) < 3_000


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(
            st.text() | st.sampled_from(("env", "args", "annotations", "command", "metadata")),
            inner,
        ),
        max_leaves=30,
    )
)  # fmt: skip
def test_render_manifest_keeps_lines_whatever_the_object(value: Any) -> None:
    for line in render_manifest({"metadata": value, "spec": value}):
        assert line.isprintable()
        assert line.isascii() or "\\" in line or line.isprintable()


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b'{"a":', b"[" * 5000, b"\xff"])
def test_render_object_rejects_what_is_not_an_object(body: bytes) -> None:
    with pytest.raises(NotFound, match="cannot be read"):
        render_object(body)


@pytest.mark.parametrize("piece", ["token", "token-", "eyJ-", "-eyJ", "token ", "://a:", "a-"])
def test_mask_text_takes_linear_time(piece: str) -> None:
    # Quadratic time would take minutes.
    mask_text(piece * 50_000)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("x-eyJhbGciOiJI.eyJzdWIiOiIx.c2ln end", "x-(masked) end"),
        ("eyJa-eyJhbGciOiJI.eyJzdWIiOiIx. end", "(masked) end"),
        ("my-token-token_x = abc; b", "my-token-token_x = (masked); b"),
        ("DB_PASSWD: 'abc' b", "DB_PASSWD: (masked) b"),
        ("token abc", "token abc"),
    ],
)
def test_secret_in_text_is_masked(text: str, masked: str) -> None:
    assert mask_text(text) == masked
