"""Wrong values are refused before anything changes, with a message that names the key."""

from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from support.chart.engine import chart

WRONG = yaml.safe_load((Path(__file__).parent / "wrong-values.yaml").read_text("utf-8"))


def test_wrong_values_are_enough() -> None:
    assert len(WRONG) >= 30


@pytest.mark.parametrize("case", WRONG, ids=[case["case"] for case in WRONG])
def test_chart_refuses(case: dict[str, Any]) -> None:
    with pytest.raises((helm_python.HelmValuesError, helm_python.HelmRenderError)) as refusal:
        chart().render(case["values"], name="rel", namespace="watch")
    for part in case["message"]:
        assert part in str(refusal.value)
