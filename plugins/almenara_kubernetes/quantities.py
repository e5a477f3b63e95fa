"""Quantities and timestamps of the Kubernetes API.

https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import math
import re
from collections.abc import Mapping
from typing import Final

from almenara.signals import parse_time

QUANTITY: Final = re.compile(
    r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:[eE]([+-]?\d{1,3})|([A-Za-z]{0,2}))"
)
SUFFIXES: Final[Mapping[str, float]] = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3,
    "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
LONGEST: Final = 64


def parse_quantity(text: str | float | None) -> float | None:
    """The number of a quantity: cores of `250m`, bytes of `1.5Gi`; None where it is not one."""
    if text is None or isinstance(text, bool):
        return None
    if isinstance(text, int | float):
        try:
            return _finite(float(text))
        except OverflowError:
            return None
    match = QUANTITY.fullmatch(text.strip()[:LONGEST])
    if match is None:
        return None
    value, exponent, suffix = match.groups()
    if exponent is not None:
        try:
            return _finite(float(value) * 10.0 ** int(exponent))
        except OverflowError:
            return None
    factor = SUFFIXES.get(suffix)
    return None if factor is None else _finite(float(value) * factor)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def parse_timestamp(text: str) -> int | None:
    """Microseconds since the epoch of a timestamp; None where it is empty or not a time."""
    if not text:
        return None
    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        return None
