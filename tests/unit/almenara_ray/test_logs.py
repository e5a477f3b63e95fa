"""Logs are cleaned of terminal codes and secrets."""

from hypothesis import given, strategies as st

from almenara_ray.logs import keep_line_end, make_line
from almenara_ray.text import LINE_LIMIT, clean_text


def test_clean_text_shows_what_a_terminal_would() -> None:
    assert clean_text("\x1b[36mblue\x1b[0m\n 10%\r 50%\r100%\nlast\r\n") == "blue\n100%\nlast"
    assert make_line("2026 ERROR it broke").severity.name == "ERROR"
    assert make_line("ValueError: 7").severity.name == "ERROR"
    assert make_line("all is well").severity.name == "INFO"


def test_keep_line_end_drops_a_secret_whose_name_is_cut_off() -> None:
    for written in ("HF_TOKEN=w0rd", "--token w0rd"):
        for cut in range(len(written) + 2):
            rest = "x" * LINE_LIMIT + written + " " + "y z " * (LINE_LIMIT // 4)
            assert "w0rd" not in make_line(keep_line_end(rest + "y" * cut)).text
    assert keep_line_end("x" * 9 * LINE_LIMIT) == ""
    assert keep_line_end("short") == "short"


@given(st.text(max_size=300))
def test_cleaning_accepts_any_text(text: str) -> None:
    for line in clean_text(text).split("\n"):
        make_line(line)
