"""Pages of metrics, whatever they contain."""

from hypothesis import given, strategies as st

from almenara.sdk.exposition import describe_unreadable, read_page

PAGE = b"""\
requests_total{code="200"} 100
requests_total{code="500"} 5
requests_total{code="404"} 7
memory 1.5e6
"""


@given(st.binary(max_size=400))
def test_page_of_any_bytes_raises_no_error(body: bytes) -> None:
    page = read_page(body)
    assert all(isinstance(series.value, float) for series in page.series)


@given(st.text(alphabet='abc_{}="0123456789 .\\\n#+-eNaInf,', max_size=300))
def test_malformed_lines_leave_the_others_readable(noise: str) -> None:
    body = f"{PAGE.decode()}\n{noise}\n".encode()
    names = [series.name for series in read_page(body).series]
    assert names.count("memory") >= 1
    assert names.count("requests_total") >= 3


def test_malformed_line_is_named_by_its_number() -> None:
    page = read_page(b"good 1\nbad{ 2\nbetter 3\n")
    assert [series.name for series in page.series] == ["good", "better"]
    assert page.problems == ["line 2: 'bad{ 2'"]


def test_page_without_its_end_is_cut_off() -> None:
    # The value was 123 when the server stopped sending.
    page = read_page(b"running 4\nwaiting 12")
    assert not page.is_readable
    assert not page.series
    assert describe_unreadable(page) == "its page is cut off: the last line has no line feed"
    assert describe_unreadable(read_page(b"Sign in")) != describe_unreadable(page)


def test_line_that_is_too_long_leaves_the_others_readable() -> None:
    labels = ",".join(f'a{number}="b"' for number in range(100_000))
    page = read_page(f"good 1\nbad{{{labels}}} 1\nbetter 2\n".encode())
    assert [(series.name, series.value) for series in page.series] == [("good", 1), ("better", 2)]
    assert page.problems == ["line 2 has more than 16,384 characters"]
