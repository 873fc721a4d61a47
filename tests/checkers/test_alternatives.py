"""The right rules that checkers are tried on are right."""

import contextlib

import alternatives
import comparison
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from alternatives._rule import ruled

# flax, optax and equinox warn of their own; jax of casts where float64 is off.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

OURS = [r for r in alternatives.RULES if r.origin == "hand" or r.name.startswith("pallas kernel")]
LIBRARIES = [r for r in alternatives.RULES if r not in OURS]


def some(rules):
    """Rules as parameters: every fifth, the others on request."""
    marks = [[pytest.mark.exhaustive] if i % 5 else [] for i in range(len(rules))]
    return [pytest.param(rule, id=rule.name, marks=m) for rule, m in zip(rules, marks, strict=True)]


@pytest.fixture(scope="module", autouse=True)
def forget_programs_without_rules():
    """Programs traced without rules stay in jax's caches, also for other tests."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@contextlib.contextmanager
def without_rules():
    """Every custom rule is the plain function inside."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (jax.custom_vjp, jax.custom_jvp):
            patch.setattr(kind, "__call__", lambda self, *args, **kwargs: self.fun(*args, **kwargs))
        yield


def has_rule(jaxpr):
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name.startswith(("custom_jvp", "custom_vjp", "custom_lin")):
            return True
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
            if is_program(value) and has_rule(getattr(value, "jaxpr", value)):
                return True
    return False


def is_program(value):
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")


def gradients(f, args, rng):
    """The float outputs, and the gradient of each float leaf for a random cotangent."""
    g, floats = comparison.of_floats(f, args)
    ys, vjp = jax.vjp(g, *floats)
    dys = [rng.normal(size=y.shape) for y in ys]
    dys = [
        jnp.asarray(dy + 1j * rng.normal() * jnp.iscomplexobj(y), y.dtype)
        for dy, y in zip(dys, ys, strict=True)
    ]
    return [*ys, *vjp(tuple(dys))]


def generic(args, rng):
    """The arguments a little off: no kink and no tie is left."""

    def move(leaf):
        if not comparison.is_float(leaf):
            return leaf
        return leaf + jnp.asarray(1e-3 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(move, comparison.as_dtype(args, "float64"))


def test_there_are_many_and_each_has_a_name_of_its_own():
    names = [r.name for r in alternatives.RULES]
    assert len(names) == len(set(names)) >= 75


@pytest.mark.parametrize("rule", some(LIBRARIES))
def test_library_function_has_a_rule(rule):
    for module in rule.needs:
        if not comparison.installed(module):
            pytest.skip(f"{module} is not installed")
    args = comparison.as_dtype(rule.args(np.random.default_rng(0), "tiny"), "float32")
    assert has_rule(jax.make_jaxpr(rule.make())(*args).jaxpr)


@pytest.mark.parametrize("rule", some(OURS))
def test_rule_agrees_with_autodiff_in_float64(rule, x64):
    args = generic(rule.args(np.random.default_rng(0), "tiny"), np.random.default_rng(1))
    f = rule.make()
    assert has_rule(jax.make_jaxpr(f)(*args).jaxpr)
    by_hand = gradients(f, args, np.random.default_rng(2))
    if rule.reference:
        expected = gradients(rule.reference, args, np.random.default_rng(2))
    else:
        with without_rules():
            expected = gradients(rule.make(), args, np.random.default_rng(2))
    for ours, theirs in zip(by_hand, expected, strict=True):
        # A mistake leaves one digit right or two, and rounding takes the last one to three of 16.
        scale = 1 + np.abs(theirs, where=np.isfinite(theirs), out=np.zeros(theirs.shape)).max(
            initial=0
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * scale)


def test_comparison_sees_a_wrong_rule(x64):
    def make():
        return ruled(lambda x: x**2, lambda x: (x**2, x), lambda x, dy: (1.999 * x * dy,))

    args = (jnp.arange(1.0, 6),)
    by_hand = gradients(make(), args, np.random.default_rng(2))
    with without_rules():
        expected = gradients(make(), args, np.random.default_rng(2))
    np.testing.assert_allclose(expected[1] / by_hand[1], 2 / 1.999)
