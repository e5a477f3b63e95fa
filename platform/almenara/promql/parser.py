"""Parses queries: selectors, functions of ranges, aggregations, and arithmetic with numbers."""

import re
from collections.abc import Callable
from typing import Final, NamedTuple, get_args

from almenara.promql.syntax import (
    AGGREGATIONS,
    FUNCTIONS,
    METRIC_LABEL,
    QUANTILE,
    Aggregation,
    Binary,
    Call,
    Expression,
    LabelMatcher,
    MatchOperator,
    Number,
    Quantile,
    QueryError,
    Selector,
)

LONGEST_QUERY: Final = 4_000
DEEPEST: Final = 30
"""Nested parentheses."""
TOKEN: Final = re.compile(
    r"""(?P<space>(?:\s|\#[^\n]*)+)
    |(?P<duration>(?:\d++(?:ms|[smhdwy]))++(?![\w.]))
    |(?P<number>0[xX][0-9a-fA-F]++|(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?(?!\w))
    |(?P<string>"(?:[^"\\\n]++|\\.)*+"|'(?:[^'\\\n]++|\\.)*+'|`[^`]*`)
    |(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    |(?P<sign>=~|!~|!=|==|<=|>=|[-+*/%^(){}\[\],=<>@])""",
    re.VERBOSE,
)
DURATION_PART: Final = re.compile(r"(\d{1,15})(ms|[smhdwy])")
MILLISECONDS: Final = {
    "ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000,
    "y": 31_536_000_000,
}  # fmt: skip
ESCAPE: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL
)
ESCAPES: Final = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\",
    '"': '"', "'": "'",
}  # fmt: skip
LABEL: Final = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")
LARGEST_CODE_POINT: Final = 0x10FFFF
SUPPORTED: Final = (
    "Almenara evaluates selectors, "
    + ", ".join(FUNCTIONS)
    + f", {QUANTILE}, the aggregations "
    + ", ".join(AGGREGATIONS)
    + ", and arithmetic with numbers"
)


class Token(NamedTuple):
    """A piece of a query."""

    kind: str
    """`duration`, `number`, `string`, `name`, `sign` or `end`."""
    text: str
    place: int


def parse_query(text: str) -> Expression:
    """Return the expression of a query. Raises `QueryError`."""
    parser = Parser(text)
    expression = parser.parse_sum(0)
    parser.expect_end()
    return expression


def parse_selector(text: str) -> Selector:
    """Return an instant selector, as of `match[]`. Raises `QueryError`."""
    expression = parse_query(text)
    if not isinstance(expression, Selector) or expression.range or expression.offset:
        raise QueryError(f'{text[:60]!r} is not a selector of series, such as cpu{{kind="pod"}}')
    return expression


def parse_duration(text: str) -> int:
    """Return the milliseconds of a duration, such as `1h30m`, or of a number of seconds.

    Raises `QueryError`.
    """
    try:
        seconds = float(text)
    except ValueError:
        parts = DURATION_PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise QueryError(f"{text[:60]!r} is not a duration, such as 30s or 1h30m") from None
        milliseconds = sum(int(number) * MILLISECONDS[unit] for number, unit in parts)
    else:
        if not 0 <= seconds < 2**40:
            raise QueryError(f"{text[:60]!r} is not a duration in seconds")
        milliseconds = round(seconds * 1000)
    if milliseconds > 2**45:
        raise QueryError(f"the duration {text[:60]!r} is too long")
    return milliseconds


def tokenize(text: str) -> list[Token]:
    """Return the pieces of a query, and an end. Raises `QueryError`."""
    if len(text) > LONGEST_QUERY:
        raise QueryError(f"the query is longer than {LONGEST_QUERY:,} characters")
    tokens, place = [], 0
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            raise QueryError(f"{_position(text, place)}: unexpected {text[place]!r}")
        kind = str(match.lastgroup)
        if kind != "space":
            tokens.append(Token(kind, match.group(), place))
        place = match.end()
    return [*tokens, Token("end", "the end of the query", len(text))]


class Parser:
    """Recursive descent over the pieces of a query."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokenize(text)
        self._next = 0

    def expect_end(self) -> None:
        """Raise `QueryError` where something follows."""
        if self._peek().kind != "end":
            raise self._unexpected()

    def parse_sum(self, depth: int) -> Expression:
        """Parse terms with `+` and `-` between them."""
        return self._parse_binary(depth, ("+", "-"), self._parse_product)

    def _parse_product(self, depth: int) -> Expression:
        return self._parse_binary(depth, ("*", "/", "%"), self._parse_signed)

    def _parse_binary(
        self, depth: int, operators: tuple[str, ...], parse: Callable[[int], Expression]
    ) -> Expression:
        left = parse(depth)
        count = 0
        while (operator := self._peek().text) in operators and self._peek().kind == "sign":
            self._next += 1
            count += 1
            if count > DEEPEST:
                raise QueryError(f"the query has more than {DEEPEST} operators in a row")
            left = Binary(operator, left, parse(depth))  # type: ignore[arg-type]
        return left

    def _parse_signed(self, depth: int) -> Expression:
        sign = self._peek()
        if sign.kind == "sign" and sign.text in ("-", "+"):
            self._next += 1
            operand = self._parse_signed(self._deeper(depth))
            if sign.text == "+":
                return operand
            if isinstance(operand, Number):
                return Number(-operand.value)
            return Binary("*", Number(-1.0), operand)
        return self._parse_operand(self._deeper(depth))

    def _parse_operand(self, depth: int) -> Expression:
        token = self._peek()
        if token.kind == "number":
            self._next += 1
            text = token.text.lower()
            try:
                return Number(float(int(text, 16)) if text.startswith("0x") else float(text))
            except OverflowError:
                raise QueryError(
                    f"{_position(self._text, token.place)}: {token.text[:60]} is too large"
                ) from None
        if token.kind == "name" and token.text.lower() in ("inf", "nan"):
            self._next += 1
            return Number(float(token.text))
        if self._skip("("):
            expression = self.parse_sum(depth)
            self._expect(")")
            return expression
        if token.kind == "name":
            following = self._tokens[self._next + 1]
            if token.text in AGGREGATIONS and following.text in ("(", "by", "without"):
                return self._parse_aggregation(depth)
            if following.text == "(" and following.kind == "sign":
                return self._parse_call(depth)
        if token.kind == "name" or token.text == "{":
            return self._parse_selector()
        raise self._unexpected()

    def _parse_aggregation(self, depth: int) -> Aggregation:
        operator = self._take()
        grouping = self._parse_grouping()
        self._expect("(")
        operand = self.parse_sum(depth)
        self._expect(")")
        labels, is_without = grouping or self._parse_grouping() or ((), False)
        return Aggregation(operator.text, labels, is_without, operand)  # type: ignore[arg-type]

    def _parse_grouping(self) -> tuple[tuple[str, ...], bool] | None:
        keyword = self._peek()
        if keyword.kind != "name" or keyword.text not in ("by", "without"):
            return None
        self._next += 1
        self._expect("(")
        labels: list[str] = []
        while not self._skip(")"):
            label = self._take()
            if label.kind != "name" or not LABEL.fullmatch(label.text):
                raise self._unexpected(label)
            labels.append(label.text)
            if not self._skip(","):
                self._expect(")")
                break
        return tuple(labels), keyword.text == "without"

    def _parse_call(self, depth: int) -> Call | Quantile:
        name = self._take()
        if name.text == QUANTILE:
            return self._parse_quantile(depth)
        if name.text not in FUNCTIONS:
            raise QueryError(
                f"{_position(self._text, name.place)}: {name.text} is not supported; {SUPPORTED}"
            )
        self._expect("(")
        operand = self.parse_sum(depth)
        self._expect(")")
        if not isinstance(operand, Selector) or not operand.range:
            raise QueryError(
                f"{_position(self._text, name.place)}: {name.text} needs a selector with a range,"
                f" such as {name.text}(requests_total[5m])"
            )
        return Call(name.text, operand)

    def _parse_quantile(self, depth: int) -> Quantile:
        self._expect("(")
        place = self._peek().place
        share = self.parse_sum(depth)
        if not isinstance(share, Number) or not 0 <= share.value <= 1:
            raise QueryError(
                f"{_position(self._text, place)}: the first argument of {QUANTILE} must be a"
                " number from 0 to 1"
            )
        self._expect(",")
        operand = self.parse_sum(depth)
        self._expect(")")
        return Quantile(share.value, operand)

    def _parse_selector(self) -> Selector:
        matchers: list[LabelMatcher] = []
        start = self._peek()
        if start.kind == "name":
            self._next += 1
            matchers.append(LabelMatcher(METRIC_LABEL, "=", start.text))
        if self._skip("{"):
            while not self._skip("}"):
                matchers.append(self._parse_matcher())
                if not self._skip(","):
                    self._expect("}")
                    break
        if not matchers:
            raise QueryError(f"{_position(self._text, start.place)}: the selector has no matcher")
        span = offset = 0
        if self._skip("["):
            span = self._take_duration()
            if not span:
                raise QueryError(f"{_position(self._text, start.place)}: the range is empty")
            self._expect("]")
        if self._peek().text == "offset" and self._peek().kind == "name":
            self._next += 1
            offset = self._take_duration()
        return Selector(matchers=tuple(matchers), range=span, offset=offset)

    def _parse_matcher(self) -> LabelMatcher:
        label = self._take()
        if label.kind == "string":
            text = self._unquote(label)
            if self._peek().text in (",", "}"):
                return LabelMatcher(METRIC_LABEL, "=", text)
        elif label.kind == "name" and LABEL.fullmatch(label.text):
            text = label.text
        else:
            raise self._unexpected(label)
        operator, value = self._take(), self._take()
        if operator.text not in get_args(MatchOperator):
            raise self._unexpected(operator)
        if value.kind != "string":
            raise self._unexpected(value)
        return LabelMatcher(text, operator.text, self._unquote(value))  # type: ignore[arg-type]

    def _take_duration(self) -> int:
        token = self._take()
        if token.kind not in ("duration", "number"):
            raise self._unexpected(token)
        return parse_duration(token.text)

    def _unquote(self, token: Token) -> str:
        if token.text.startswith("`"):
            return token.text[1:-1]

        def replace(match: re.Match[str]) -> str:
            if code := match[1] or match[2] or match[3]:
                number = int(code, 16)
            elif match[4]:
                number = int(match[4], 8)
            elif match[5] in ESCAPES:
                return ESCAPES[match[5]]
            else:
                raise QueryError(
                    f"{_position(self._text, token.place)}: unknown escape \\{match[5]}"
                )
            if number > LARGEST_CODE_POINT or 0xD800 <= number <= 0xDFFF:
                raise QueryError(f"{_position(self._text, token.place)}: no such character")
            return chr(number)

        return ESCAPE.sub(replace, token.text[1:-1])

    def _deeper(self, depth: int) -> int:
        if depth >= DEEPEST:
            raise QueryError(f"the query is nested more than {DEEPEST} deep")
        return depth + 1

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind == "end":
            raise self._unexpected(token)
        self._next += 1
        return token

    def _skip(self, sign: str) -> bool:
        token = self._peek()
        if token.kind == "sign" and token.text == sign:
            self._next += 1
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._skip(sign):
            raise QueryError(
                f"{_position(self._text, self._peek().place)}: expected {sign!r}, found"
                f" {self._peek().text[:60]}"
            )

    def _unexpected(self, token: Token | None = None) -> QueryError:
        token = token or self._peek()
        hint = f"; {SUPPORTED}" if token.kind == "sign" else ""
        return QueryError(
            f"{_position(self._text, token.place)}: unexpected {token.text[:60]}{hint}"
        )


def _position(text: str, place: int) -> str:
    line = text.count("\n", 0, place) + 1
    column = place - (text.rfind("\n", 0, place) + 1) + 1
    return f"{line}:{column}: parse error"
