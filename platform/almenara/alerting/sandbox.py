"""Templates of annotations and notifications: Jinja in a sandbox, with limits of time and size.

A template is written by the operator, and what it renders comes from outside: it reads the data
that it is given and nothing else, calls nothing, and its output is plain text that pages and
notifiers escape for their medium.
"""

import functools
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from almenara.alerting.formats import format_duration, format_number
from almenara.config import suggest
from almenara.signals import format_time
from almenara.terminal import escape_control_characters

T = TypeVar("T")

MAX_SOURCE: Final = 4_096
"""Characters of a template."""
MAX_VALUE: Final = 65_536
"""Characters or entries of a value while a template is rendered."""
MAX_BITS: Final = 256
"""Bits of a whole number."""
MAX_STEPS: Final = 10_000
"""Turns of all loops together."""
MAX_SECONDS: Final = 1.0
BUDGET: Final = "_budget"
ALLOWED_NODES: Final = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr,
    nodes.Getitem, nodes.If, nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And,
    nodes.Or, nodes.Not, nodes.Test, nodes.Filter, nodes.Assign, nodes.Add, nodes.Sub, nodes.Mul,
    nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Neg, nodes.Pos, nodes.Concat, nodes.List,
    nodes.Tuple, nodes.Slice, nodes.Keyword,
)  # fmt: skip
PLAIN_NODES: Final = tuple(
    each for each in ALLOWED_NODES if each not in (nodes.For, nodes.Assign, nodes.Mul, nodes.Mod)
)
"""Nodes of a template that takes time in proportion to its length, whatever the values are."""
FILTERS: Final = (
    "abs", "capitalize", "d", "default", "first", "float", "int", "items", "last", "length",
    "list", "lower", "round", "sort", "string", "title", "trim", "truncate", "unique", "upper",
)  # fmt: skip
"""Filters of Jinja that are available; none of them expands a short text to a long one."""
TESTS: Final = (
    "defined", "undefined", "none", "number", "string", "even", "odd", "in", "eq", "ne", "lt",
    "le", "gt", "ge",
)  # fmt: skip
NODE_NAMES: Final = {
    nodes.Call: "a call",
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Extends: "extends",
    nodes.Macro: "a macro",
    nodes.Block: "a block",
    nodes.Pow: "**",
    nodes.For: "a loop",
    nodes.Assign: "set",
    nodes.Mul: "*",
    nodes.Mod: "%",
}


class TemplateError(ValueError):
    """A template is wrong or cannot be rendered; the text has the line and the reason."""


class Fields(dict[str, Any]):
    """Data with fixed names, of which any other one is an error rather than empty."""


class _Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self.steps, self.end = MAX_STEPS, time.monotonic() + MAX_SECONDS

    def spend(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise TemplateError(f"its loops take more than {MAX_STEPS:,} turns")
        if time.monotonic() > self.end:
            raise TemplateError(f"it takes longer than {MAX_SECONDS:g} s")


@jinja2.pass_context
def _bounded(context: jinja2.runtime.Context, values: Iterable[Any]) -> Iterator[Any]:
    budget: _Budget = context[BUDGET]
    for value in values:
        budget.spend()
        yield value


def _concatenated(values: Iterable[Any]) -> str:
    return _join(values)


def _join(values: Iterable[Any], separator: str = "") -> str:
    texts = [str(value) for value in values]
    if len(texts) * len(separator) > MAX_VALUE:
        raise TemplateError(f"a value is longer than {MAX_VALUE:,}")
    return _checked(separator.join(texts))


def _format_moment(value: Any) -> str:
    """Microseconds since the epoch as `2026-11-28 12:03 UTC`; empty for zero and no number."""
    if not isinstance(value, int) or not value:
        return ""
    try:
        return f"{format_time(value)[:16].replace('T', ' ')} UTC"
    except OverflowError:
        return str(value)


def _checked(value: T) -> T:
    if isinstance(value, str | list | tuple) and len(value) > MAX_VALUE:
        raise TemplateError(f"a value is longer than {MAX_VALUE:,}")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise TemplateError("a number is too large")
    return value


def _limited(function: Callable[..., Any]) -> Callable[..., Any]:
    # Whether Jinja passes its context as the first argument is marked on the function.
    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return _checked(function(*arguments, **named))

    return call


OWN_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "duration": format_duration,
    "number": format_number,
    "join": _join,
    "moment": _format_moment,
    "_bounded": _bounded,
    "_concatenated": _concatenated,
}


class _Restriction(NodeTransformer):
    """Refuses what a template does not need, and puts limits around what could grow."""

    def __init__(self, *, has_loops: bool) -> None:
        self._allowed = ALLOWED_NODES if has_loops else PLAIN_NODES

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        if not isinstance(node, self._allowed):
            name = NODE_NAMES.get(type(node), type(node).__name__)
            raise TemplateError(f"line {node.lineno}: {name} is not allowed in a template")
        if isinstance(node, nodes.Filter) and node.name not in ENVIRONMENT.filters:
            known = [*FILTERS, *(name for name in OWN_FILTERS if not name.startswith("_"))]
            hint = suggest(node.name, known)
            raise TemplateError(f"line {node.lineno}: {node.name} is not a filter; {hint}")
        if isinstance(node, nodes.Test) and node.name not in ENVIRONMENT.tests:
            hint = suggest(node.name, TESTS)
            raise TemplateError(f"line {node.lineno}: {node.name} is not a test; {hint}")
        super().generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.For):
            node.iter = _filtered("_bounded", node.iter)
        if isinstance(node, nodes.Concat):
            return _filtered("_concatenated", nodes.List(node.nodes, lineno=node.lineno))
        return node


def _filtered(name: str, node: nodes.Node) -> nodes.Filter:
    filtered = nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
    filtered.set_environment(ENVIRONMENT)
    return filtered


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%"))

    def __init__(self) -> None:
        super().__init__(
            autoescape=False,  # plain text; each notifier escapes it
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.globals.clear()
        available = {name: self.filters[name] for name in FILTERS}
        self.filters.clear()
        self.filters.update({name: _limited(function) for name, function in available.items()})
        self.filters.update(OWN_FILTERS)
        tests = {name: self.tests[name] for name in TESTS}
        self.tests.clear()
        self.tests.update(tests)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and not isinstance(left, int | float):
            raise TemplateError("% is for numbers only")
        if operator == "*":
            for text, count in ((left, right), (right, left)):
                is_repetition = isinstance(text, str | list | tuple) and isinstance(count, int)
                if is_repetition and len(text) * count > MAX_VALUE:
                    raise TemplateError(f"a value is longer than {MAX_VALUE:,}")
        return _checked(super().call_binop(context, operator, left, right))

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self._read(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self._read(obj, argument)

    def _read(self, obj: Any, name: Any) -> Any:
        """What a template reads of a value: entries of data, never the attributes of Python."""
        if isinstance(obj, jinja2.runtime.LoopContext) and isinstance(name, str):
            return super().getattr(obj, name)
        if isinstance(obj, jinja2.Undefined):
            return obj
        if isinstance(obj, Fields) and name not in obj:
            raise TemplateError(f"{name} does not exist; {suggest(str(name), obj)}")
        try:
            return obj[name]
        except (KeyError, IndexError, TypeError):
            return self.undefined(name=str(name))


ENVIRONMENT: Final = _Environment()


class Template:
    """A compiled template that reads the variables `names` and renders at most `limit` characters.

    Raises `TemplateError` where it is wrong: its syntax, a name or filter that does not exist, or
    something that a template must not use; without `has_loops` also loops, and what can make a
    long text of a short one.
    """

    def __init__(
        self, source: str, names: Collection[str], *, limit: int, has_loops: bool = True
    ) -> None:
        self._limit = limit
        if len(source) > MAX_SOURCE:
            raise TemplateError(
                f"it has {len(source):,} characters; at most {MAX_SOURCE:,} are allowed"
            )
        try:
            tree = ENVIRONMENT.parse(source)
            _check_names(tree, names)
            code = ENVIRONMENT.compile(_Restriction(has_loops=has_loops).visit(tree))
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"line {error.lineno}: {error.message}") from None
        except RecursionError:
            raise TemplateError("it is nested too deeply") from None
        self._template = jinja2.Template.from_code(ENVIRONMENT, code, {})

    def render(self, data: Mapping[str, Any]) -> str:
        """Return the text, cut at the limit. Raises `TemplateError`."""
        parts: list[str] = []
        size = 0
        try:
            for part in self._template.generate({**data, BUDGET: _Budget()}):
                parts.append(part)
                size += len(part)
                if size > self._limit:
                    break
        except TemplateError:
            raise
        except Exception as error:
            raise TemplateError(str(error) or type(error).__name__) from None
        text = "".join(parts).strip()
        text = text if len(text) <= self._limit else f"{text[: self._limit - 1]}…"
        return escape_control_characters(text, keep_newlines=True)


def _check_names(tree: nodes.Template, names: Collection[str]) -> None:
    """Raise `TemplateError` for a variable that does not exist."""
    assigned = {node.name for node in tree.find_all(nodes.Name) if node.ctx in ("store", "param")}
    for node in tree.find_all(nodes.Name):
        if node.ctx == "load" and node.name not in {*names, *assigned, "loop"}:
            raise TemplateError(
                f"line {node.lineno}: {node.name} is not a variable; {suggest(node.name, names)}"
            )
