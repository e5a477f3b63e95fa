"""How signals are normalized and stored."""

import math
from typing import Any

import pytest

from almenara.bus.codec import normalize
from almenara.signals import Sample


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, "7", None])
def test_normalize_refuses_sample_value_that_is_not_finite(value: Any) -> None:
    with pytest.raises(ValueError, match="Sample 'cpu' of 'one': value is"):
        normalize(Sample(kind="pod", name="one", metric="cpu", value=value), "test")
