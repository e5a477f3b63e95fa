"""One server: its resources and samples for whatever numbers a page has."""

import re

import pytest

from almenara.bus.validation import check_signal
from almenara_vllm.client import ServerError
from almenara_vllm.server import FILTER, Server
from almenara_vllm.settings import VllmSettings
from support.paths import FIXTURES

FOLDER = FIXTURES / "vllm-0.32"
VALUE = re.compile(r"^([^#\n].*) \S+$", re.MULTILINE)
START = re.compile(r"^(process_start_time_seconds) \S+$", re.MULTILINE)


@pytest.mark.parametrize("values", [VALUE, START])
@pytest.mark.parametrize("number", ["NaN", "+Inf", "-Inf", "1.7e308", "-1.7e308", "1e400"])
def test_any_number_of_a_page_gives_valid_signals(number: str, values: re.Pattern[str]) -> None:
    before = (FOLDER / "load-1.txt").read_text()
    changed, count = values.subn(rf"\1 {number}", before)
    assert count
    server = Server("a", VllmSettings(), FILTER)
    after = (FOLDER / "load-2.txt").read_text()
    for moment, page in enumerate((changed, after, changed), 1):
        try:
            resources, samples = server.accept(page.encode(), moment * 10.0)
        except ServerError:
            # Without any number, it is no page of vLLM.
            assert values is VALUE
            continue
        for signal in (*resources, *samples):
            check_signal(signal)
