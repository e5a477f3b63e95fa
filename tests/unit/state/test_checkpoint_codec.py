"""How stored resources are decoded, and what successive checkpoints share in memory."""

import pytest

from almenara.signals import Resource, Severity
from almenara.state.checkpoint_codec import (
    REMEMBERED_CHANGES,
    DamagedCheckpointError,
    SharedResources,
    decode_changes,
    decode_resources,
    encode_parts,
)


def make_pods(count: int, *, changed: int = 0) -> list[Resource]:
    return [
        Resource(
            kind="pod", namespace="shop", name=f"p{number}", time=1, origin="one",
            status="Failed" if number < changed else "Running",
            severity=Severity.ERROR if number < changed else Severity.INFO,
            state={"node": f"n{number % 7}", "labels": {"app": "é\u2028"}, "cpu": 0.5},
        )
        for number in range(count)
    ]  # fmt: skip


def test_checkpoints_share_the_resources_that_are_the_same() -> None:
    shared = SharedResources()
    first, second = make_pods(500), make_pods(520, changed=3)

    decoded = list(shared.decode_resources(encode_parts(first)))
    assert decoded == first
    assert shared.decoded == 500
    later = list(shared.decode_resources(encode_parts(second)))
    assert later == second
    assert shared.decoded == 523
    assert all(mine is other for mine, other in zip(decoded[3:], later[3:500], strict=True))

    # Going back and forth between the two decodes nothing.
    for pods in (first, second, first):
        assert list(shared.decode_resources(encode_parts(pods))) == pods
    assert shared.decoded == 523


def test_changes_share_resources_with_checkpoints_and_keep_their_bounds() -> None:
    shared = SharedResources()
    pods = make_pods(10)
    list(shared.decode_resources(encode_parts(pods)))
    body = encode_parts([(number, pod) for number, pod in enumerate(make_pods(10, changed=4))])

    for _ in range(2):
        changes = list(shared.decode_changes(body, 1, 6))
        assert changes == list(decode_changes(body, 1, 6))
        assert [time for time, _ in changes] == [2, 3, 4, 5, 6]
        # Two of them have changed, and the others are in the checkpoint.
        assert shared.decoded == 12


def test_few_resources_are_remembered() -> None:
    shared = SharedResources()
    many = make_pods(5 * REMEMBERED_CHANGES)
    for first in range(0, len(many), 500):
        part = [(first + place, pod) for place, pod in enumerate(many[first : first + 500])]
        assert len(list(shared.decode_changes(encode_parts(part), -1, len(many)))) == 500
    decoded = shared.decoded
    again = encode_parts(list(enumerate(many)))
    list(shared.decode_changes(again, -1, len(many)))
    assert shared.decoded - decoded > len(many) - 3 * REMEMBERED_CHANGES


@pytest.mark.parametrize("place", [0, 5, 30, -1])
def test_damage_is_found(place: int) -> None:
    body = bytearray(encode_parts(make_pods(300)))
    body[place] ^= 0x55
    for decode in (decode_resources, SharedResources().decode_resources):
        with pytest.raises(DamagedCheckpointError):
            list(decode(bytes(body)))
