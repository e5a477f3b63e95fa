"""Templates of annotations: Jinja in a sandbox that can only insert values.

No loops, calls, assignments or imports, and only filters whose output is not much longer than their
input. So a template takes time and memory in proportion to its length, whatever its values are.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from almenara.config import suggest

MAX_TEMPLATE: Final = 4_096
MAX_JOINED: Final = 50
MAX_SEPARATOR: Final = 10
MAX_TEXT: Final = 2_000
"""Characters of a rendered text; more are cut."""
FORBIDDEN: Final[Mapping[type[nodes.Node], str]] = {
    nodes.For: "loops",
    nodes.Call: "calls",
    nodes.CallBlock: "calls",
    nodes.Macro: "macros",
    nodes.Assign: "assignments",
    nodes.AssignBlock: "assignments",
    nodes.With: "assignments",
    nodes.Include: "includes",
    nodes.Import: "imports",
    nodes.FromImport: "imports",
    nodes.Extends: "inheritance",
    nodes.Block: "blocks",
    nodes.FilterBlock: "filter blocks",
    nodes.Pow: "powers",
    nodes.Mul: "multiplications",
    nodes.Mod: "the operator %",
}
FILTERS: Final = frozenset(
    ("abs", "capitalize", "default", "d", "first", "float", "int", "last", "length",
     "lower", "round", "sort", "string", "title", "trim", "truncate", "upper", "unique")
)  # fmt: skip


def format_number(value: Any) -> str:
    """Return a number for people: `0.954`, `12,300`; other values as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def format_duration(seconds: Any) -> str:
    """Return seconds as `45 s`, `5 min`, `2 h` or `3 d`; other values as text."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return str(seconds)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size or (seconds >= size and seconds % size == 0):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def join_values(values: Any, separator: Any = ", ") -> str:
    """Return the first values of a list with a short separator between them."""
    if not isinstance(values, list | tuple):
        return str(values)
    return str(separator)[:MAX_SEPARATOR].join(str(value) for value in values[:MAX_JOINED])


def _make_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        autoescape=False,  # plain text; pages and notifiers escape for their medium
        undefined=jinja2.ChainableUndefined,
        cache_size=0,
    )
    environment.filters = {
        name: environment.filters[name] for name in FILTERS if name in environment.filters
    }
    environment.filters |= {
        "number": format_number, "duration": format_duration, "join": join_values,
    }  # fmt: skip
    environment.globals.clear()
    return environment


ENVIRONMENT: Final = _make_environment()  # nosec B701 # plain text


class TextTemplate:
    """A compiled template. Raises `ValueError` for one that is wrong, with the reason."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        if len(text) > MAX_TEMPLATE:
            raise ValueError(
                f"the template has {len(text):,} characters; at most {MAX_TEMPLATE:,} are allowed"
            )
        try:
            tree = ENVIRONMENT.parse(text)
            # Before the template is compiled: the compiler computes constant expressions.
            self._check(tree, names)
            self._template = ENVIRONMENT.from_string(text)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ValueError(f"the template is wrong: {error}") from None

    def _check(self, tree: nodes.Template, names: Collection[str]) -> None:
        for node in tree.find_all(nodes.Node):
            if (name := FORBIDDEN.get(type(node))) is not None:
                raise ValueError(f"a template cannot contain {name}")
        for variable in sorted(find_undeclared_variables(tree)):
            if variable not in names:
                raise ValueError(
                    f"the template has no variable {variable!r}; {suggest(variable, names)}"
                )

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the text, in one line of at most `MAX_TEXT` characters.

        Raises what an operation on the values raises.
        """
        text = self._template.render(values)
        return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
