import pytest
from hypothesis import given, strategies as st

from almenara.history import Filter
from almenara.signals import Event


def test_filter_since_before_the_epoch_selects_everything() -> None:
    chosen = Filter.from_query({"since": "999999999w"})
    assert chosen.since == 0
    assert chosen.to_query() == {"since": "1970-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"severity": "bad"}, "DEBUG, INFO"),
        ({"since": "yesterday"}, "15m"),
        ({"text": "--- !"}, "no letter"),
        ({"type": "x" * 600}, "600 characters"),
    ],
)
def test_filter_error_names_the_valid_form(query: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Filter.from_query(query)


@given(st.dictionaries(st.sampled_from(Filter.__struct_fields__), st.text(max_size=30)))
def test_filter_from_any_query_is_valid_or_a_readable_error(query: dict[str, str]) -> None:
    try:
        chosen = Filter.from_query(query)
    except ValueError as error:
        assert str(error)
    else:
        assert Filter.from_query(chosen.to_query()) == chosen
        chosen.matches(Event(id="1", source="s", type="t", time=0, data={"a": 1}))


@pytest.mark.parametrize("text", ["²", "--5", "1-2", "٣"])
def test_number_that_is_no_time_is_refused_with_what_would_be_one(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time; write 2026-01-31T12:00:00Z"):
        Filter.from_query({"since": text})
