"""Pages of a list that is whole in memory."""

import pytest

from almenara.web.paging import cut_page, parse_page


@pytest.mark.parametrize(
    ("page", "rows", "previous", "following"),
    [
        (1, [1, 2], "", "/list?text=a&page=2"),
        (2, [3, 4], "/list?text=a", "/list?text=a&page=3"),
        (3, [5], "/list?text=a&page=2", ""),
        (9, [5], "/list?text=a&page=2", ""),
    ],
)
def test_cut_page_links_its_neighbours(
    page: int, rows: list[int], previous: str, following: str
) -> None:
    found, paging = cut_page([1, 2, 3, 4, 5], page, 2, "/list", {"text": "a"})
    assert [*found] == rows
    assert (paging.first, paging.last, paging.total) == (rows[0], rows[-1], 5)
    assert (paging.previous_link, paging.next_link) == (previous, following)


def test_cut_page_of_an_empty_list_is_empty() -> None:
    rows: list[int] = []
    found, paging = cut_page(rows, 3, 2, "/list", {})
    assert [*found] == []
    assert (paging.first, paging.last, paging.total) == (0, 0, 0)
    assert (paging.previous_link, paging.next_link) == ("", "")


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "٣", "1" * 10])
def test_parse_page_refuses_what_is_not_a_page(text: str) -> None:
    with pytest.raises(ValueError, match="the first is 1"):
        parse_page(text)


def test_parse_page_reads_numbers() -> None:
    assert [parse_page(text) for text in ("", "1", "12")] == [1, 1, 12]
