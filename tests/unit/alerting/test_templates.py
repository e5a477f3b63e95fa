"""Templates render plain data, within limits, and nothing else."""

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from almenara.alerting.notifications.content import (
    DEFAULT_CONTENT,
    SAMPLE,
    compile_content,
    describe,
    render,
)
from almenara.alerting.sandbox import Template, TemplateError
from almenara.config import ConfigError, ReceiverSettings

DATA = describe(SAMPLE)
NESTED = "{% for a in d %}" * 5 + "{% set x = 1 %}" + "{% endfor %}" * 5


def compiled(source: str, limit: int = 200) -> Template:
    """Compile a template and try it, as that of a receiver."""
    template = Template(source, DATA.keys(), limit=limit)
    template.render(DATA)
    return template


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ status|upper }}", "FIRING"),
        ("{{ alerts[0].summary }}", "The disk of node-3 is 95 % full"),
        ("{{ alerts[0].labels.team }}", "storage"),
        ("{{ alerts[0].labels.missing }}", ""),
        ("{{ alerts[0].labels.missing.more }}", ""),
        ("{% for a in alerts %}{{ loop.index }}{{ a.rule }}{% endfor %}", "1disk_full"),
        ("{{ alerts[0].started|moment }}", "2026-01-01 00:00 UTC"),
        ("{% for k, v in common_labels|items %}{{ k }}={{ v }} {% endfor %}",
         "rule=disk_full severity=error team=storage"),
        ("{{ ['a', 'b']|join('-') }}{{ 'x' ~ 1 }}", "a-bx1"),
        ("{% if open_count > 0 and not is_test %}yes{% endif %}", "yes"),
    ],
)  # fmt: skip
def test_template_renders(source: str, text: str) -> None:
    assert compiled(source).render(DATA) == text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ alertz }}", "alertz is not a variable; did you mean alerts?"),
        ("{{ alerts[0].sumary }}", "sumary does not exist; did you mean summary?"),
        ("{{ status|uper }}", "uper is not a filter; did you mean upper?"),
        ("a\n{{ status", "line 2: "),
        ("{{ status.upper() }}", "a call is not allowed"),
        ("{{ range(9) }}", "range is not a variable"),
        ("{% include 'x' %}", "include is not allowed"),
        ("{% import 'x' as y %}", "import is not allowed"),
        ("{% macro a() %}{% endmacro %}", "a macro is not allowed"),
        ("{{ 10 ** 10 ** 10 }}", "** is not allowed"),
        ("{{ 'a' * 100000000 }}", "a value is longer than"),
        ("{{ ('%100000000d') % 1 }}", "% is for numbers only"),
        ("{% set x = 'a' * 60000 %}{% set y = x ~ x %}", "a value is longer than"),
        ("{% set x = 'a' * 60000 %}{% set y = x|join(x) %}", "a value is longer than"),
        ("{% set x = 9 * 9 %}" + "{% set x = x * x %}" * 9, "a number is too large"),
        ("{% set d = 'a' * 60000 %}{% for a in d %}{% endfor %}", "more than 10,000 turns"),
        ("{% set d = 'abcdefghijk' %}" + NESTED, "more than 10,000 turns"),
        ("{{ _budget }}", "_budget is not a variable"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ " + "(" * 300 + "1" + ")" * 300 + " }}", "nested too deeply"),
    ],
)
def test_wrong_template_is_refused(source: str, reason: str) -> None:
    with pytest.raises(TemplateError) as error:
        compiled(source)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    "source",
    ["{{ ''.__class__.__mro__ }}", "{{ alerts.__len__ }}", "{{ alerts[0].items }}",
     "{{ status['__class__'] }}", "{{ loop }}"],
)  # fmt: skip
def test_template_cannot_reach_python(source: str) -> None:
    try:
        text = compiled(source).render(DATA)
    except TemplateError:
        return
    assert text == ""


def test_long_text_is_cut_and_control_characters_are_dots() -> None:
    assert compiled("{{ 'ab' * 200 }}", limit=10).render(DATA) == "ab" * 4 + "a…"
    hostile = {**DATA, "name": "a\x1b[31m\u202eb\r\nc"}
    assert compiled("{{ name }}").render(hostile) == "a·[31m·b·\nc"


@given(st.text(max_size=60))
@settings(max_examples=100)
def test_values_are_never_templates(text: str) -> None:
    rendered = compiled("{{ name }}").render({**DATA, "name": "{{ 7 * 7 }}" + text})
    assert rendered.startswith("{{ 7 * 7 }}")


def test_title_is_one_line() -> None:
    alert = msgspec.structs.replace(SAMPLE.alerts[0], summary="a\r\nBcc: x\n\nb")
    title = render(msgspec.structs.replace(SAMPLE, alerts=(alert,)), DEFAULT_CONTENT).title
    assert title == "[FIRING] disk_full: a· Bcc: x b"


def test_template_that_fails_later_is_replaced_by_the_default() -> None:
    content = compile_content(
        ReceiverSettings(name="x", kind="y", text="{{ 1 / (open_count - 5) }}"), "p"
    )
    rendered = render(msgspec.structs.replace(SAMPLE, open_count=5), content)
    assert "FIRING ERROR The disk of node-3" in rendered.text
    assert "The template of the text failed: division by zero" in rendered.text


def test_wrong_template_of_a_receiver_has_its_path() -> None:
    with pytest.raises(ConfigError, match=r"alerting.receivers\[0\].title: the template is wrong"):
        compile_content(
            ReceiverSettings(name="x", kind="y", title="{{ nope }}"), "alerting.receivers[0]"
        )
