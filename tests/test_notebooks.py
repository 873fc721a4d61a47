"""What notebooks show of a value: a table as text has it, without a script."""

import re
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import pytest

import fbp

HOSTILE = "</td><script>alert(1)</script>&amp;'\"\u2028"


class Read(HTMLParser):
    """The text of a document, and its tags, of which each that opens is closed."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.text, self.tags, self.open = "", set(), []
        self.feed(document)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open.append(tag)
        assert {name for name, _ in attrs} <= {"style"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def objective_and_batch():
    model = fbp.Serial(a=fbp.Dense(3, 4), b=fbp.Relu(), c=fbp.Dense(4, 2))
    batch = jnp.ones((5, 3)), jnp.zeros((5, 2))
    return fbp.Objective(model, fbp.MeanSquaredError()), batch


def summary():
    objective, (x, _) = objective_and_batch()
    return fbp.summary(objective.model, x)


def explanation():
    objective, batch = objective_and_batch()
    return fbp.explain(objective, objective.init(jax.random.key(0)), batch)


def wrong():
    @jax.custom_vjp
    def rule(x):
        return x**3

    rule.defvjp(lambda x: (x**3, x), lambda x, dy: (2 * x**2 * dy,))
    return rule


def check():
    return fbp.check(wrong(), jnp.arange(1.0, 4.0), budget="fast")


def audit():
    rule = wrong()
    return fbp.audit(lambda w: rule(w).sum(), jnp.arange(1.0, 4.0))


def cross_check():
    objective, batch = objective_and_batch()
    return fbp.cross_check(objective, objective.init(jax.random.key(0)), batch)


def plan():
    model = fbp.Serial(blocks=fbp.Stack(fbp.Residual(fbp.Dense(4, 4)), 2))
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    batch = jnp.ones((5, 4)), jnp.zeros((5, 4))
    return fbp.plan(objective, batch, 10**9, rounds=1)


@pytest.mark.parametrize("make", [summary, explanation, check, audit, cross_check, plan])
def test_a_value_shows_all_that_its_text_says(make):
    value = make()
    shown = Read(value._repr_html_())
    assert shown.tags <= {"div", "p", "table", "thead", "tbody", "tr", "th", "td"}
    assert "table" in shown.tags
    words = set(re.findall(r"[^\s]+", shown.text))
    said = [line for line in str(value).splitlines() if not set(line) <= {"-"}]
    assert said
    for line in said:
        assert set(line.split()) <= words, line


@pytest.mark.parametrize("make", [check, audit])
def test_a_wrong_rule_is_seen_first(make):
    assert re.search(r"<td style='[^']*font-weight:bold'>WRONG</td>", make()._repr_html_())


def test_names_stay_text():
    def rule(x):
        return x

    rule.__name__ = HOSTILE
    report = fbp.check(rule, jnp.ones(3), budget="fast")
    shown = Read(report._repr_html_())
    assert "script" not in shown.tags
    assert HOSTILE in shown.text
