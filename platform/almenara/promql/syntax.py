"""What a query consists of, and the errors of queries."""

from typing import Final, Literal

import msgspec

from almenara.errors import AlmenaraError

AggregationName = Literal["sum", "avg", "min", "max", "count"]
AGGREGATIONS: Final[tuple[AggregationName, ...]] = ("sum", "avg", "min", "max", "count")
FunctionName = Literal[
    "rate", "increase", "avg_over_time", "min_over_time", "max_over_time", "sum_over_time",
    "count_over_time", "last_over_time",
]  # fmt: skip
FUNCTIONS: Final[tuple[FunctionName, ...]] = (
    "rate", "increase", "avg_over_time", "min_over_time", "max_over_time", "sum_over_time",
    "count_over_time", "last_over_time",
)  # fmt: skip
MatchOperator = Literal["=", "!=", "=~", "!~"]
BinaryOperator = Literal["+", "-", "*", "/", "%"]
METRIC_LABEL: Final = "__name__"
LIMIT_LABEL: Final = "le"
"""The upper limit of a bucket of a histogram."""
QUANTILE: Final = "histogram_quantile"


class QueryError(AlmenaraError, ValueError):
    """A query is wrong, or uses what Almenara does not evaluate; the text says what and where."""


class QueryTooLargeError(QueryError):
    """A query is well-formed and needs more than it may; the text has a remedy."""


class LabelMatcher(msgspec.Struct, frozen=True):
    """A condition for a label; a series without the label has the empty value."""

    label: str
    operator: MatchOperator
    value: str


class Selector(msgspec.Struct, frozen=True, kw_only=True):
    """Series by their labels."""

    matchers: tuple[LabelMatcher, ...]
    range: int = 0
    """Milliseconds; 0 for an instant selector."""
    offset: int = 0
    """Milliseconds by which it looks back."""


class Call(msgspec.Struct, frozen=True):
    """A function of a range selector."""

    function: FunctionName
    selector: Selector


class Aggregation(msgspec.Struct, frozen=True):
    """Several series as one for each combination of some labels."""

    operator: AggregationName
    labels: tuple[str, ...]
    is_without: bool
    operand: "Expression"


class Quantile(msgspec.Struct, frozen=True):
    """`histogram_quantile`: a quantile of the buckets of each histogram, by their label `le`."""

    share: float
    operand: "Expression"


class Number(msgspec.Struct, frozen=True):
    """A number."""

    value: float


class Binary(msgspec.Struct, frozen=True):
    """Arithmetic of numbers, or of a number and series."""

    operator: BinaryOperator
    left: "Expression"
    right: "Expression"


Expression = Selector | Call | Aggregation | Quantile | Number | Binary
