"""How two states of a resource differ, and how the values are displayed."""

from typing import Any

import pytest

from almenara.panels.changes import compare_resources, describe_value
from almenara.signals import Resource


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    earlier, later = (
        Resource(kind="k8s.deployment", namespace="shop", name="web", state=state)
        for state in (before, after)
    )
    return [(each.what, each.before, each.after) for each in compare_resources([earlier], [later])]


def test_compare_lists_the_image_of_one_container_once() -> None:
    differences = compare(
        {"image": "web:1", "images": ["web:1"]}, {"image": "web:2", "images": ["web:2"]}
    )
    assert differences == [("image", "web:1", "web:2")]


@pytest.mark.parametrize("added", [[], ["proxy:1"]], ids=["one removed", "both stay"])
def test_compare_lists_the_images_of_several_containers(added: list[str]) -> None:
    before, after = ["web:1", "proxy:1"], ["web:2", *added]
    differences = compare({"image": "web:1", "images": before}, {"image": "web:2", "images": after})
    assert differences == [("images", before, after)]


def test_compare_lists_images_without_an_image() -> None:
    assert compare({"images": ["a"]}, {"images": ["b"]}) == [("images", ["a"], ["b"])]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["web:1", "proxy:1"], "web:1, proxy:1"),
        ({"n1": "behind", "n0": "current"}, "n0 current, n1 behind"),
        ([], "\u2013"),
        ("web:1", "web:1"),
        (3, "3"),
        (None, "\u2013"),
    ],
)
def test_describe_value_separates_with_commas(value: Any, text: str) -> None:
    assert describe_value(value) == text
