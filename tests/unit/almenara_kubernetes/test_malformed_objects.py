"""Objects that no API server should send: each is marked, and none stops the others."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from almenara.signals import Severity
from almenara_kube.kinds import WatchedKind
from almenara_kubernetes.differ import ClusterDiffer
from almenara_kubernetes.kinds import (
    KINDS,
    PODS,
    custom_kind,
)
from support.awkward_pods import running
from support.kubernetes_objects import events, make_object, pod, resources


@pytest.mark.parametrize(
    "spec", [b"1e999", b'"\xff"', b"[" * 200_000 + b"]" * 200_000, b'"\\ud800"']
)
def test_malformed_custom_resource_is_marked(spec: bytes) -> None:
    watched = custom_kind(group="g.io", version="v1", plural="xs", kind="X")
    raw = b'{"metadata": {"name": "x", "uid": "1"}, "spec": ' + spec + b"}"
    sent = ClusterDiffer().update(watched, watched.decode(raw))
    assert "this X cannot be read" in (events(sent)["kubernetes.malformed"].problem or "")


def test_malformed_object_is_a_marked_resource_and_an_event() -> None:
    differ = ClusterDiffer()

    sent = differ.update(PODS, make_object(PODS, spec=["what"]))

    (marked,) = resources(sent)
    assert (marked.status, marked.severity) == ("Malformed", Severity.ERROR)
    assert events(sent)["kubernetes.malformed"].problem
    assert resources(differ.update(PODS, pod(running())))[0].status == "Running"


FOUND = custom_kind(group="example.org", version="v1", plural="things", kind="Thing")
FIELDS = sorted(
    {
        msgspec.structs.fields(kind)[place].encode_name
        for kind in (
            type(make_object(PODS).spec),
            type(make_object(PODS).status),
            type(make_object(PODS).metadata),
        )
        for place in range(len(msgspec.structs.fields(kind)))
    }
    | {"spec", "status", "metadata", "series", "endpoints", "template", "replicas", "rules", "tls"}
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=25,
)
GARBAGE = st.fixed_dictionaries(
    {"metadata": ANYTHING | st.fixed_dictionaries({"name": st.text(), "namespace": st.text()}),
     "spec": ANYTHING, "status": ANYTHING}
)  # fmt: skip


@given(watched=st.sampled_from([*KINDS, FOUND]), tree=GARBAGE | ANYTHING)
@settings(max_examples=400, deadline=None)
def test_update_survives_any_object_and_encodes(watched: WatchedKind, tree: Any) -> None:
    differ = ClusterDiffer()
    one = watched.decode(msgspec.json.encode(tree))

    sent = [
        *differ.replace_all(watched, "", [one]),
        *differ.update(watched, one),
        *differ.tick(),
    ]

    msgspec.json.encode(sent)
    assert sent or differ.replace_all(watched, "", []) is not None
    differ.remove(watched, one)


@given(raw=st.binary(max_size=200))
def test_decode_makes_an_object_of_any_bytes(raw: bytes) -> None:
    one = PODS.decode(raw)

    assert ClusterDiffer().update(PODS, one)
