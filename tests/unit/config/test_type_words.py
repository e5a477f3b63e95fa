"""What is wrong with a setting, in the words of people who write YAML."""

from typing import Annotated, Any, Literal

import msgspec
import pytest

from almenara.config import ConfigError, decode_settings


class Part(msgspec.Struct):
    size: int = 1


class Example(msgspec.Struct, kw_only=True):
    name: str
    count: int | None = None
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    names: Annotated[list[str], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["a"]
    )
    sizes: dict[str, int] = {}
    code: Annotated[str, msgspec.Meta(pattern="^a$", max_length=3)] = "a"
    is_on: bool = True
    part: Part | None = None
    pair: tuple[int, int] = (1, 2)
    place: str | list[str] = ""
    kind: Literal["x", "y"] | None = None


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("count", "many", "x.count: expected a whole number or null, found 'many'"),
        ("count", "7d", "x.count: expected a whole number or null, found '7d'; times are in"),
        ("count", 1.5, "x.count: expected a whole number or null, found 1.5"),
        ("share", 0, "x.share: expected a number above 0, found 0"),
        ("share", 2, "x.share: expected a number of at most 1, found 2"),
        ("names", [], "x.names: expected a list with at least 1 entry"),
        ("names", "a", "x.names: expected a list, found 'a'"),
        ("names", [[]], "x.names[0]: expected a text, found a list"),
        ("names", [True], "x.names[0]: expected a text, found true"),
        ("sizes", {"a": "b"}, "x.sizes[...]: expected a whole number, found a text"),
        ("sizes", [1], "x.sizes: expected `name: value` lines, found a list"),
        ("code", "b", "x.code: expected a text that matches '^a$', found 'b'"),
        ("is_on", "perhaps", "x.is_on: expected true or false, found 'perhaps'"),
        ("part", 5, "x.part: expected `name: value` lines or null, found 5"),
        ("pair", [1], "x.pair: expected a list with 2 entries, found 1"),
        ("place", 5, "x.place: expected a text or a list, found 5"),
        ("kind", "z", "x.kind: expected one of x, y, found 'z'"),
        ("name", None, "x.name: expected a text, found null"),
    ],
)
def test_wrong_setting_is_reported_in_words(setting: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        decode_settings(Example, {"name": "n", setting: value}, place="x")
    assert str(raised.value).startswith(message)
    assert not any(word in str(raised.value) for word in ("Expected", "got", "`int", "`str"))


def test_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^x: name is missing$"):
        decode_settings(Example, {}, place="x")
