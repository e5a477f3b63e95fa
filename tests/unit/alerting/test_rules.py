"""Wrong rules are refused with path, value, what was expected and the nearest name."""

import contextlib
from collections.abc import Sequence

import pytest
import yaml
from hypothesis import given, strategies as st

from almenara.alerting.rules import MAX_ANNOTATION, compile_rules
from almenara.alerting.sandbox import Template, TemplateError
from almenara.config import ConfigError
from almenara.config.alert_rules import AlertRule, Condition, ResourceCondition
from support.alerting import read_alerting

WHEN = "when: {resource: {kind: pod, status: [Failed]}}"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (f"rules: [{{name: Bad Name, {WHEN}}}]", r"alerting\.rules\[0\]\.name: .* 'Bad Name'"),
        ("rules: [{name: a, when: {}}]", r"alerting\.rules\[0\]\.when: expected exactly one of"),
        (
            "rules: [{name: a, when: {resource: {kind: pod}}}]",
            r"when\.resource: expected status, severity or field",
        ),
        (
            "rules: [{name: a, when: {resource: {kind: pod, statuz: [x]}}}]",
            r"alerting\.rules\[0\]\.when\.resource\.statuz is not a setting; did you mean status\?",
        ),
        (
            f"rules: [{{name: a, severity: HIGH, {WHEN}}}]",
            r"rules\[0\]\.severity: expected one of DEBUG, INFO, WARN, ERROR, FATAL, signal, found",
        ),
        (
            "rules: [{name: a, severity: signal, when: {sample: {metric: m, above: 1}}}]",
            r"rules\[0\]\.severity: 'signal' is for conditions about events or resources",
        ),
        (
            "rules: [{name: a, when: {sample: {metric: m}}}]",
            r"when\.sample: expected above or below",
        ),
        (
            "rules: [{name: a, when: {sample: {metric: m, above: 1, aggregation: mean}}}]",
            r"aggregation: expected one of last, avg",
        ),
        (
            f"rules: [{{name: a, group_by: [namespac], {WHEN}}}]",
            r"alerting\.rules\[0\]\.group_by\[0\]: 'namespac' is not a field; did you mean namesp",
        ),
        (
            f"rules: [{{name: a, annotations: {{sumary: x}}, {WHEN}}}]",
            r"annotations\.sumary is not an annotation; did you mean summary",
        ),
        (
            f"rules: [{{name: a, annotations: {{summary: '{{{{ nam }}}}'}}, {WHEN}}}]",
            r"annotations\.summary: .* nam is not a variable; did you mean name",
        ),
        (
            f"rules: [{{name: a, annotations: {{summary: '{{{{ name'}}, {WHEN}}}]",
            r"annotations\.summary: the template is wrong",
        ),
        (f"rules: [{{name: a, runbook: 'javascript:x', {WHEN}}}]", r"runbook: expected a URL"),
        (f"rules: [{{name: a, labels: {{rule: x}}, {WHEN}}}]", r"labels\.rule: every alert has"),
        (f"rules: [{{name: a, {WHEN}}}, {{name: a, {WHEN}}}]", r"rules\[1\]\.name: 'a' is the"),
        (
            f"receivers: [{{name: team, kind: x}}]\nrules: [{{name: a, notify: [taem], {WHEN}}}]",
            r"rules\[0\]\.notify\[0\]: 'taem' is not a receiver of .*did you mean team",
        ),
        ("inhibit: [{source: [x], target: [a=b]}]", r"inhibit\[0\]\.source: 'x' is not a matcher"),
        ("disabled_rules: [nod-down]", r"disabled_rules\[0\]: .*did you mean node-down\?"),
    ],
)  # fmt: skip
def test_wrong_setting_is_refused_with_its_path(text: str, error: str) -> None:
    condition = Condition(resource=ResourceCondition(kind="node", status=["NotReady"]))
    of_plugins = {"kube": [AlertRule(name="node-down", when=condition)]}
    with pytest.raises(ConfigError, match=error):
        compile_rules(read_alerting(text), of_plugins)


def test_rule_of_the_configuration_replaces_one_of_a_plugin() -> None:
    condition = Condition(resource=ResourceCondition(kind="node", status=["NotReady"]))
    of_plugins = {
        "kube": [AlertRule(name="a", when=condition), AlertRule(name="b", when=condition)]
    }
    rules = compile_rules(read_alerting(f"rules: [{{name: a, {WHEN}}}]"), of_plugins).rules
    assert [(rule.name, rule.plugin) for rule in rules.values()] == [("a", ""), ("b", "kube")]
    settings = read_alerting("disabled_rules: [a, b]")
    assert not compile_rules(settings, of_plugins).rules


def compile_annotation(text: str, names: Sequence[str]) -> Template:
    return Template(text, names, limit=MAX_ANNOTATION, has_loops=False)


@pytest.mark.parametrize(
    "text",
    [
        "{% for x in y %}{% endfor %}", "{{ x.join() }}", "{{ lipsum() }}", "{% set x = 1 %}",
        "{% include 'x' %}", "{{ 'a' * 1000000000 }}", "{{ 9 ** 99999 }}", "{{ '%99999d' % 1 }}",
        "{{ name|indent(99999999) }}", "{{ name|tojson }}", "{% macro a() %}{% endmacro %}",
        "{{ range(10) }}", "x" * 5000,
    ],
)  # fmt: skip
def test_annotation_that_could_cost_much_is_refused(text: str) -> None:
    with pytest.raises(TemplateError):
        compile_annotation(text, ("name", "x", "y"))


def test_annotation_cannot_reach_internals() -> None:
    template = compile_annotation("{{ name.__class__.__mro__ }}{{ name|default('x') }}", ("name",))
    assert template.render({"name": "a"}) == "a"


def test_rendered_annotation_is_cut() -> None:
    template = compile_annotation("{{ name }}", ("name",))
    assert len(template.render({"name": "x" * 10_000})) == MAX_ANNOTATION


@given(st.text(max_size=200))
def test_any_text_is_a_template_or_a_value_error(text: str) -> None:
    with contextlib.suppress(TemplateError):
        compile_annotation(text, ("name",)).render({"name": 1})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_any_yaml_is_settings_or_a_config_error(tree: object) -> None:
    with contextlib.suppress(ConfigError):
        compile_rules(read_alerting(yaml.safe_dump({"rules": tree})), {})


def test_rule_is_described_with_units_of_its_durations() -> None:
    text = "rules: [{name: a, when: {events: {types: [x], count: 2, within: 3600}}, for: 90}]"
    rules = compile_rules(read_alerting(text), {}).rules
    assert rules["a"].describe() == "events · types x · count 2 · within 1 h · for 90 s"
