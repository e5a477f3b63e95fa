"""Wrong values are refused before anything is changed, with a message that names the place."""

from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from support.chart.engine import chart

WRONG = yaml.safe_load((Path(__file__).parent / "wrong.yaml").read_text("utf-8"))


def test_there_are_enough_wrong_values() -> None:
    assert len(WRONG) >= 30


@pytest.mark.parametrize("wrong", WRONG, ids=[it["of"] for it in WRONG])
def test_it_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises((helm_python.HelmValuesError, helm_python.HelmRenderError)) as refusal:
        chart().render(wrong["values"], name="rel", namespace="watch")
    for part in wrong["says"]:
        assert part in str(refusal.value)
