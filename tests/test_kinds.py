"""Kinds of rules and programs that are met in the libraries of others, each in a small form."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fbp
from fbp.verify.judge._bounds import algebra_allowed

# A minute for all of them: they run among the slow ones.
pytestmark = pytest.mark.slow

X = jax.random.normal(jax.random.key(0), (6,))
TABLE = np.asarray([[1.0, 2.0, 3.0], [0.0, 1.0, 5.0]])
ON_DEVICE = jnp.asarray(TABLE, jnp.float32)


def vjp_rule(f: Any, bwd: Any, **options: Any) -> Any:
    """f with a backward written by hand; its residuals are its arguments."""
    rule = jax.custom_vjp(f, **options)
    rule.defvjp(lambda *args: (f(*args), args), lambda args, dy: bwd(*args, dy))
    return rule


def jvp_rule(f: Any, slope: Any) -> Any:
    """f of one array, with its derivative written by hand."""
    rule = jax.custom_jvp(f)
    rule.defjvp(lambda p, t: (f(*p), slope(p[0], t[0])))
    return rule


def audited(f: Any, x: Any) -> str:
    return fbp.audit(lambda x: jnp.sum(f(x) ** 2), x).verdict


# What a program is made of is no mistake of its rules.

TABLES = {
    "none": lambda: 2.0,
    "a number": lambda: jnp.array(0.5),
    "of the module": lambda: ON_DEVICE,
    "of NumPy": lambda: TABLE,
    "a list": lambda: jnp.array([[1.0, 0.5, 0.2], [0.3, 0.1, 0.7]]),
    "computed": lambda: jnp.eye(2, 3) + jnp.linspace(0.0, 1.0, 3),
}
AROUND: dict[str, Callable[[Any], Any]] = {
    "alone": lambda f: f,
    "jit": jax.jit,
    "scan": lambda f: lambda x: lax.scan(lambda c, _: (c + f(x).sum(), f(x)), 0.0, None, 2)[1],
    "cond": lambda f: lambda x: lax.cond(x[0] < 9, f, lambda x: 0 * f(x), x),
}


@pytest.mark.parametrize(
    ("table", "around"),
    [
        pytest.param(table, around, marks=[pytest.mark.slow] if (i + j) % 2 else [])
        for i, table in enumerate(TABLES)
        for j, around in enumerate(AROUND)
    ],
)
def test_constants_in_a_rule_have_no_gradient(table: str, around: str) -> None:
    w = TABLES[table]

    def f(x: Any) -> Any:
        return jnp.tanh(jnp.atleast_2d(w()) @ x if jnp.ndim(w()) else w() * x)

    def pull(x: Any, dy: Any) -> Any:
        dy = (1 - f(x) ** 2) * dy
        return jnp.asarray(w()).T @ dy if jnp.ndim(w()) else w() * dy

    def push(x: Any, dx: Any) -> Any:
        return (1 - f(x) ** 2) * (jnp.asarray(w()) @ dx if jnp.ndim(w()) else w() * dx)

    for rule in (vjp_rule(f, lambda x, dy: (pull(x, dy),)), jvp_rule(f, push)):
        assert audited(AROUND[around](rule), X[:3]) == "OK"


def fixed_point(factor: float) -> Any:
    """x = cos(a x) / 2, by a loop that stops at a tolerance, and its implicit derivative."""

    def f(a: Any) -> Any:
        def step(c: Any) -> Any:
            return 0.5 * jnp.cos(a * c[0]), c[0]

        return lax.while_loop(lambda c: jnp.abs(c[0] - c[1]) > 1e-7, step, (1.0 + 0 * a, 0.0 * a))[
            0
        ]

    def bwd(a: Any, dy: Any) -> Any:
        x = f(a)
        return (factor * dy * -0.5 * x * jnp.sin(a * x) / (1 + 0.5 * a * jnp.sin(a * x)),)

    return vjp_rule(f, bwd)


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "OK"), (1.01, "WRONG"), (-1.0, "WRONG")])
def test_a_rule_that_makes_a_program_differentiable(factor: float, verdict: str) -> None:
    f, a = fixed_point(factor), jnp.float32(0.7)
    assert fbp.check(f, a).verdict == verdict
    report = fbp.audit(lambda p: f(p["a"]) ** 2, {"a": a})
    assert report.verdict == verdict
    assert any("keeps the rule" in note for note in report.notes)


def test_a_check_of_the_user_s_that_raises_bounds_the_domain() -> None:
    def require_positive(x: Any) -> Any:
        if (np.asarray(x) <= 0).any():
            raise ValueError("x must be positive")
        return np.asarray(x)

    log = vjp_rule(jnp.log, lambda x, dy: (dy / x,))

    def f(x: Any) -> Any:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        seen = jax.pure_callback(require_positive, shape, lax.stop_gradient(x))
        return log(x) + 0 * seen

    def g(x: Any) -> Any:
        return f(x - 1)  # where fbp does not see what is positive

    report = fbp.check(g, jnp.asarray([1.5, 2.0, 3.0]), budget="fast")
    assert report.verdict == "OK", report
    assert any("x must be positive" in note for note in report.notes)
    assert audited(g, jnp.asarray([1.5, 2.0, 3.0])) == "OK"


@pytest.mark.parametrize("name", ["over integers", "over a count", "a weak number"])
def test_a_number_of_a_narrow_dtype_is_widened(name: str) -> None:
    f = {
        "over integers": lambda x: x * (1.0 / (jnp.arange(6) + 1)),
        "over a count": lambda x: x * (1.0 / jnp.count_nonzero(x > -9)),
        "a weak number": lambda x: x * jnp.where(x > -9, 1, 2.5),
    }[name]
    rule = jax.custom_jvp(f)
    rule.defjvp(lambda p, t: (f(*p), jax.jvp(f, p, t)[1]))
    assert fbp.check(rule, X).verdict == "OK"
    assert audited(rule, X) == "OK"


def test_an_argument_by_keyword() -> None:
    rule = jax.custom_jvp(lambda x, n: jnp.sin(x) * n, nondiff_argnums=(1,))
    rule.defjvp(lambda n, p, t: (jnp.sin(p[0]) * n, jnp.cos(p[0]) * n * t[0]))
    assert fbp.check(lambda x: rule(x, n=3), X).verdict == "OK"
    assert audited(lambda x: rule(x, n=3), X) == "OK"


@pytest.mark.skipif(not hasattr(jax, "new_ref"), reason="this jax has no mutable arrays")
def test_an_array_that_a_rule_changes_by_itself_is_no_side_effect() -> None:
    def f(x: Any) -> Any:
        ref = jax.new_ref(jnp.zeros_like(x))
        ref[...] = x * x
        ref[...] += x
        return ref[...]

    assert fbp.check(vjp_rule(f, lambda x, dy: (dy * (2 * x + 1),)), X).verdict == "OK"


def test_an_infinite_input_under_cond() -> None:
    def f(x: Any) -> Any:
        return jnp.where(jnp.isfinite(x), 2.0 * x, 0.0)

    rule = vjp_rule(f, lambda x, dy: (jnp.where(jnp.isfinite(x), 2.0 * dy, 0.0),))
    assert fbp.check(rule, jnp.asarray([1.0, jnp.inf, 3.0])).variants["cond"] == "same"


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "CONVENTION"), (2.0, "WRONG")])
def test_kinks_of_a_whole_program(factor: float, verdict: str) -> None:
    """At a scale of 0 all meet, and no move of the scale has the slopes that the rule takes."""
    rule = vjp_rule(jnp.sin, lambda x, dy: (factor * dy * jnp.cos(x),))
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")
    sine = jax.shard_map(rule, mesh=mesh, in_specs=spec, out_specs=spec)

    def loss(params: Any) -> Any:
        x = jax.nn.relu(params["scale"][:, None] * params["x"])
        return (x * params["x"]).sum() + sine(params["x"]).sum()

    assert fbp.audit(loss, {"scale": jnp.asarray([0.8, 1.2, 0.5]), "x": X}).verdict == verdict


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "OK"), (2.0, "WRONG")])
def test_a_rule_with_a_table_in_a_batched_loop(factor: float, verdict: str) -> None:
    """JAX empties what it remembers of a rule, if differentiating it to a constant raises."""
    table = jnp.asarray(np.arange(36.0).reshape(6, 6) / 36, jnp.float32)
    rule = vjp_rule(
        lambda x: jnp.sin(table @ x),
        lambda x, dy: (factor * (table.T @ (dy * jnp.cos(table @ x))),),
    )

    def f(x: Any) -> Any:
        return lax.scan(lambda c, w: (w * rule(c), None), x, jnp.asarray([0.5, 1.0]))[0]

    assert audited(lambda x: jax.vmap(f)(jnp.stack([x, 0.5 * x])), X) == verdict


@pytest.mark.parametrize(
    ("steps", "factor", "verdict"), [(3, 1.0, "OK"), (3, 2.0, "WRONG"), (0, 2.0, "VACUOUS")]
)
def test_an_empty_operand_in_a_loop(steps: int, factor: float, verdict: str) -> None:
    def bwd(x: Any, nothing: Any, dy: Any) -> Any:
        return factor * dy * jnp.cos(x), nothing + dy.sum()

    rule = vjp_rule(lambda x, nothing: jnp.sin(x) + nothing.sum(), bwd)

    def f(x: Any) -> Any:
        return x + lax.scan(lambda c, _: (rule(c, c[:0]), None), x, None, steps)[0]

    assert audited(f, X) == verdict


def test_digits_of_a_part_that_cannot_run_in_float64() -> None:
    """Where autodiff has no reverse mode, a random direction is as rough as single elements."""
    spec = jax.sharding.PartitionSpec()
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    narrow = jax.shard_map(
        lambda x: jnp.sin(x.astype(jnp.bfloat16)).astype(x.dtype), mesh=mesh, in_specs=spec,
        out_specs=spec, check_vma=False,
    )  # fmt: skip

    def f(x: Any) -> Any:
        return narrow(
            lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, 0.9 * c[1]), (0, x))[1]
        )

    def bwd(x: Any, dy: Any) -> Any:
        return (dy * 0.729 * jnp.cos(0.729 * x),)

    assert fbp.check(vjp_rule(f, bwd), X, budget="fast").ok


def test_a_gradient_that_cancels_in_a_part_that_cannot_run_in_float64() -> None:
    """Both runs have the same digits, so their difference does not show what cancels."""
    unit = float(jnp.finfo(jnp.float32).eps)
    assert algebra_allowed(unit, unit, scale=1e-3, lost=0.0, usual=0.5) > 5e-6
    assert algebra_allowed(1e-16, unit, scale=1e-3, lost=0.0, usual=0.5) < 1e-12


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "OK"), (2.0, "WRONG")])
def test_a_rule_inside_shard_map_is_a_part_of_the_whole(factor: float, verdict: str) -> None:
    rule = vjp_rule(jnp.sin, lambda x, dy: (factor * dy * jnp.cos(x),))
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("d")
    f = jax.shard_map(rule, mesh=mesh, in_specs=spec, out_specs=spec)
    assert audited(f, X) == verdict


def test_a_rule_that_refuses_a_gradient_which_is_not_asked_for() -> None:
    def refuse(p: Any, t: Any) -> Any:
        raise RuntimeError("this is not to be differentiated")

    steps = jax.custom_jvp(lambda n: n * 2)
    steps.defjvp(refuse)
    sine = vjp_rule(jnp.sin, lambda x, dy: (jnp.cos(x) * dy,))

    def loss(params: Any, n: Any) -> Any:
        def step(c: Any, _: Any) -> Any:
            return sine(c) * steps(lax.stop_gradient(n)), None

        return lax.scan(step, params, None, 3)[0].sum() * steps(n)

    report = fbp.audit(loss, X, jnp.float32(0.7))
    assert report.verdict == "OK", report
    assert {site.report.verdict for site in report.sites} == {"OK", "VACUOUS"}


def test_a_number_that_a_model_holds_may_be_branched_on() -> None:
    sine = vjp_rule(jnp.sin, lambda x, dy: (jnp.cos(x) * dy,))

    def loss(model: Any) -> Any:
        return sine(model["w"]).sum() if model["rate"] == 0.0 else 0.0

    assert fbp.audit(loss, {"w": X, "rate": 0.0}).verdict == "OK"


def test_outputs_that_the_loss_does_not_use_need_no_gradient() -> None:
    rule = jax.custom_vjp(lambda x: (jnp.sin(x), x**2))
    rule.defvjp(lambda x: ((jnp.sin(x), x**2), x), lambda x, dy: (jnp.cos(x) * dy[0],))
    assert audited(lambda x: rule(x)[0], X) == "OK"
    assert audited(lambda x: rule(x)[0] + rule(x)[1], X) == "WRONG"


def test_a_rule_that_closes_over_a_value_of_the_loss() -> None:
    def loss(x: Any) -> Any:
        weights = jnp.arange(6.0) * 2.0
        rule = jax.custom_vjp(lambda x: jnp.sin(x) * weights)
        rule.defvjp(lambda x: (jnp.sin(x) * weights, x), lambda x, dy: (jnp.cos(x) * weights * dy,))
        return rule(x).sum()

    report = fbp.audit(loss, X)
    assert max(report.gradients.values()) < 1e-12
    assert "closes over a value of the loss" in str(report)


def test_a_gradient_of_zero_has_no_size_of_its_own() -> None:
    """A root does not depend on the guess: what is left of it in a loop is no reference."""

    def newton(a: Any, guess: Any) -> Any:
        def step(x: Any) -> Any:
            return x - (x**3 + a * x - 1) / (3 * x**2 + a)

        x = lax.while_loop(lambda c: jnp.abs(c - step(c)).max() > 1e-6, step, guess)
        return step(step(x))

    def bwd(a: Any, guess: Any, dy: Any) -> Any:
        x = newton(a, guess)
        return -x / (3 * x**2 + a) * dy, jnp.zeros_like(guess)

    rule = vjp_rule(newton, bwd)
    assert fbp.check(rule, jnp.asarray([1.0, 2.0]), jnp.asarray([0.7, 0.4])).verdict == "OK"


@pytest.mark.parametrize("is_wrong", [True, False])
def test_a_bias_whose_gradient_cancels(is_wrong: bool) -> None:
    """A normalization takes it out again: all that is left of its gradient is rounding."""
    rule = vjp_rule(
        lambda h: jnp.logaddexp(h, 0.0),
        lambda h, dy: (dy * jax.nn.sigmoid(h) * (1.001 if is_wrong else 1),),
    )

    def loss(p: Any, x: Any) -> Any:
        h = x @ p["w"] + p["b"]
        h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)
        return (rule(h) ** 2 * jnp.arange(3.0)).mean()

    keys = jax.random.split(jax.random.key(0), 3)
    params = {"w": jax.random.normal(keys[0], (5, 3)), "b": jax.random.normal(keys[1], 3)}
    report = fbp.audit(loss, params, jax.random.normal(keys[2], (11, 5)))
    assert report.verdict == ("WRONG" if is_wrong else "OK")


@pytest.mark.parametrize("is_wrong", [True, False])
def test_a_rule_that_needs_a_stop_gradient(is_wrong: bool) -> None:
    """As of a solver's settings, which may not be differentiated."""

    @jax.custom_jvp
    def scaled(x: Any, by: Any) -> Any:
        return x * by

    @functools.partial(scaled.defjvp, symbolic_zeros=True)
    def _(primals: Any, tangents: Any) -> Any:
        (x, by), (dx, dby) = primals, tangents
        assert isinstance(dby, jax.custom_derivatives.SymbolicZero)
        return x * by, dx * by

    def f(x: Any) -> Any:
        return jnp.sin(scaled(x, lax.stop_gradient(jnp.abs(x).max())))

    def bwd(x: Any, dy: Any) -> Any:
        by = jnp.abs(x).max()
        return (dy * jnp.cos(x * by) * (by * by if is_wrong else by),)

    report = fbp.check(vjp_rule(f, bwd), jnp.asarray([0.3, -1.7, 0.9]))
    assert report.verdict == ("WRONG" if is_wrong else "OK")


@pytest.mark.parametrize("is_wrong", [True, False])
def test_a_loop_behind_a_stop_gradient(is_wrong: bool) -> None:
    def f(x: Any) -> Any:
        held = lax.stop_gradient(x)
        scale = lax.while_loop(
            lambda s: (s < held).any(), lambda s: s + 0.1 * held, jnp.ones_like(held)
        )
        return jnp.sin(x / scale), scale

    def bwd(x: Any, dy: Any) -> Any:
        scale = f(x)[1]
        return (dy * jnp.cos(x / scale) / (scale * scale if is_wrong else scale),)

    rule = vjp_rule(lambda x: f(x)[0], bwd)
    report = fbp.check(rule, jnp.asarray([0.3, 1.7, 5.0]))
    assert report.verdict == ("WRONG" if is_wrong else "OK")


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "OK"), (2.0, "WRONG")])
def test_a_root_whose_solver_closes_over_params_too(factor: float, verdict: str) -> None:
    def f(x: Any) -> Any:
        def solve(g: Any, y: Any) -> Any:
            step = lambda c: (c[0] + 1, c[1] - g(c[1]))  # noqa: E731
            return lax.while_loop(lambda c: c[0] < 40, step, (0, y))[1]

        def tangent_solve(g: Any, dy: Any) -> Any:
            return factor * dy / g(jnp.ones_like(dy))

        def g(y: Any) -> Any:
            return y - x - jnp.sin(y) / 4

        return lax.custom_root(g, jnp.zeros_like(x), solve, tangent_solve)

    assert audited(f, X) == verdict


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "OK"), (2.0, "WRONG")])
def test_a_stop_gradient_beside_a_solve(factor: float, verdict: str) -> None:
    """Differences would move what is held fixed."""
    matrix = jnp.eye(6) + 0.1

    def f(x: Any) -> Any:
        def solve(_: Any, b: Any) -> Any:
            return jnp.linalg.solve(matrix, b)

        y = lax.custom_linear_solve(lambda y: matrix @ y, jnp.sin(x), solve, solve)
        return y * lax.stop_gradient(x)

    def bwd(x: Any, dy: Any) -> Any:
        dy = jnp.linalg.solve(matrix, dy * x)
        return (factor * dy * jnp.cos(x),)

    assert fbp.check(vjp_rule(f, bwd), X, budget="fast").verdict == verdict


# Holes through which a wrong rule would pass.


@pytest.mark.parametrize("is_wrong", [True, False])
@pytest.mark.parametrize(
    "of", [lambda z: jax.nn.logsumexp(z), lambda z: jnp.log(jnp.exp(z).sum())], ids=["jax", "plain"]
)
def test_a_second_derivative_behind_a_softmax(of: Any, is_wrong: bool) -> None:
    def bwd(z: Any, dy: Any) -> Any:
        p = jax.nn.softmax(z)
        return (dy * (lax.stop_gradient(p) if is_wrong else p),)

    assert fbp.check(vjp_rule(of, bwd), X).verdict == ("VARIANT" if is_wrong else "OK")


@pytest.mark.parametrize("x", [jnp.asarray([0.0, 0.5, -1.2]), jnp.zeros(3)])
@pytest.mark.parametrize("is_wrong", [True, False])
def test_a_second_derivative_at_a_kink_where_there_is_none(is_wrong: bool, x: Any) -> None:
    def bwd(x: Any, dy: Any) -> Any:
        return (dy * (jnp.where(x == 0, 0.0, 2 * x) if is_wrong else 2 * x),)

    f = vjp_rule(lambda x: 1 + jnp.abs(x) ** 2, bwd)
    assert fbp.check(f, x).verdict == ("VARIANT" if is_wrong else "OK")


def wrong_at(value: float, f: Any) -> Any:
    """The identity's rule for a function that has slopes 0 and 1, but at one value."""

    def bwd(x: Any, dy: Any) -> Any:
        _, slope = jax.jvp(f, (x,), (jnp.ones_like(x),))
        return (dy * jnp.where(jnp.abs(x - value) < 1e-6, -5.0, slope),)

    return vjp_rule(f, bwd)


EDGES: dict[str, tuple[float, Callable[[Any], Any]]] = {
    "clip": (1.0, lambda x: jnp.clip(x, -1.0, 1.0)),
    "clip by integers": (-1.0, lambda x: jnp.clip(x, -1, 1)),
    "clip by arrays": (0.25, lambda x: jnp.clip(x, jnp.full(6, -3.0), jnp.full(6, 0.25))),
    "minimum": (2.0, lambda x: jnp.minimum(x, 2.0)),
    "scaled": (-2.0, lambda x: jnp.where(x / 0.5 < -4, -2.0, x)),
    "absolute": (-1.5, lambda x: jnp.where(jnp.abs(x) < 1.5, x, jnp.sign(x) * 1.5)),
    "a table": (1.25, lambda x: jnp.interp(x, jnp.asarray([0.0, 1.25]), jnp.asarray([0.0, 1.25]))),
}


@pytest.mark.parametrize(
    "seed",
    [
        *(0, pytest.param(1, marks=pytest.mark.slow)),
        *(
            pytest.param(seed, marks=[pytest.mark.slow, pytest.mark.exhaustive])
            for seed in range(2, 10)
        ),
    ],
)
@pytest.mark.parametrize("name", EDGES)
def test_what_a_function_compares_with_is_tried_whatever_the_seed(name: str, seed: int) -> None:
    value, f = EDGES[name]
    assert fbp.check(wrong_at(value, f), X[:4].repeat(2)[:6], seed=seed).verdict == "WRONG"


@pytest.mark.parametrize("budget", ["fast", "default"])
@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_that_is_not_finite_where_the_input_is(seed: int, budget: Any) -> None:
    def length(x: Any) -> Any:
        return jnp.sqrt((x * x).sum(-1))

    naive = vjp_rule(length, lambda x, dy: (dy[:, None] * x / length(x)[:, None],))
    safe = vjp_rule(
        length,
        lambda x, dy: (dy[:, None] * x / jnp.where(length(x) == 0, 1, length(x))[:, None],),
    )
    x = jnp.asarray([[1.0, 2.0], [0.0, 0.0], [-1.0, 0.5]])
    report = fbp.check(naive, x, seed=seed, budget=budget)
    assert report.verdict == "RANGE"
    assert "2 of 6 elements at the input that was given" in report.leaves[0].says
    assert "[1, 0] = 0" in report.leaves[0].says
    assert fbp.check(safe, x, seed=seed, budget=budget).ok


@pytest.mark.parametrize("seed", range(2))
def test_a_gradient_that_is_nan_only_without_jit(seed: int) -> None:
    def f(x: Any) -> Any:
        return jnp.sqrt(jnp.maximum(x, 0)) * (x > 0)

    def slope(x: Any) -> Any:
        return 0.5 / jnp.sqrt(jnp.maximum(x, 0))

    masked = vjp_rule(f, lambda x, dy: (dy * slope(x) * (x > 0),))
    chosen = vjp_rule(f, lambda x, dy: (dy * jnp.where(x > 0, slope(jnp.where(x > 0, x, 1)), 0),))
    x = jnp.asarray([0.0, 1.0, 4.0])
    report = fbp.check(masked, x, seed=seed)
    assert report.verdict == "RANGE"
    assert "without jit: NaN in 1 of 3" in report.leaves[0].says
    assert fbp.check(chosen, x, seed=seed).ok


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 10))]
)
@pytest.mark.parametrize("causal", [True, False])
def test_an_attention_block_keeps_its_digits(causal: bool, seed: int) -> None:
    """However large the logits of some probes are: a logsumexp loses what a quotient keeps."""
    parts = {"norm": fbp.LayerNorm(16), "qkv": fbp.Dense(16, 48), "heads": fbp.SplitHeads(2)}
    attention = {"attend": fbp.Attention(causal=causal), "merge": fbp.MergeHeads()}
    block = fbp.Residual(fbp.Serial(**parts, **attention, out=fbp.Dense(16, 16)))
    x = jax.random.normal(jax.random.key(1), (2, 5, 16))
    assert fbp.check(block, block.init(jax.random.key(0)), x, budget="fast", seed=seed).ok


def quantized(is_wrong: bool) -> Any:
    def f(x: Any, s: Any) -> Any:
        return jnp.clip(jnp.round(x / s), -4, 3) * s

    def bwd(x: Any, s: Any, dy: Any) -> Any:
        q = jnp.round(x / s)
        inside = (q >= -4) & (q <= 3)
        dx = dy if is_wrong else jnp.where(inside, dy, 0)
        return dx, jnp.where(inside, dy * (q - x / s), dy * jnp.clip(q, -4, 3)).sum()

    return vjp_rule(f, bwd)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("is_wrong", [True, False])
def test_a_straight_through_rule_with_bounds(is_wrong: bool, clip: bool) -> None:
    """A rounded value is at a bound exactly, however the input is moved."""

    def reference(x: Any, s: Any) -> Any:
        q = x / s
        q = q + lax.stop_gradient(jnp.round(q) - q)
        if clip:
            return jnp.clip(q, -4, 3) * s
        return jnp.where(q < -4, -4.0, jnp.where(q > 3, 3.0, q)) * s

    x = 3 * jax.random.normal(jax.random.key(1), (40,))
    report = fbp.check(quantized(is_wrong), x, jnp.float32(0.7), reference=reference)
    assert report.ok != is_wrong, report


# What the card says first.

NOT_LINEAR = {
    "at dy = 0": lambda x, dy: (jnp.cos(x) * dy - 1.128,),
    "does not depend on dy": lambda x, dy: (jnp.cos(x),),
    "dy squared": lambda x, dy: (jnp.cos(x) * dy * dy,),
    "that of |dy|": lambda x, dy: (jnp.cos(x) * jnp.abs(dy),),
    "only the sign of dy": lambda x, dy: (jnp.cos(x) * jnp.sign(dy),),
}


@pytest.mark.parametrize("says", NOT_LINEAR)
def test_a_gradient_that_is_not_linear_in_its_cotangent(says: str) -> None:
    report = fbp.check(vjp_rule(jnp.sin, NOT_LINEAR[says]), X)
    assert report.verdict == "WRONG"
    assert says in report.hints[0].text, report


def test_rows_that_never_reach_a_weight() -> None:
    def f(x: Any, w: Any) -> Any:
        return x @ w

    rule = vjp_rule(f, lambda x, w, dy: (dy @ w.T, x[:4].T @ dy[:4]))
    x, w = (jax.random.normal(jax.random.key(n), s) for n, s in ((0, (7, 3)), (1, (3, 5))))
    report = fbp.check(rule, x, w)
    assert any("the last 3 rows of dy (axis 0) never reach it" in h.text for h in report.hints)


@pytest.mark.parametrize("tied", [True, False])
def test_operands_that_depend_on_one_another(tied: bool) -> None:
    def logdet(matrix: Any, factor: Any) -> Any:
        return 2 * jnp.log(jnp.diag(factor)).sum()

    def bwd(matrix: Any, factor: Any, dy: Any) -> Any:
        return dy * jnp.linalg.inv(matrix), jnp.zeros_like(factor)

    rule = vjp_rule(logdet, bwd)
    x = jnp.arange(4.0)

    def loss(s: Any) -> Any:
        k = jnp.exp(-((x[:, None] - x) ** 2) / s**2) + 0.1 * jnp.eye(4)
        return rule(k, jnp.linalg.cholesky(k) * (1.0 if tied else s))

    report = fbp.audit(loss, jnp.float32(1.2))
    assert report.verdict == ("CONVENTION" if tied else "WRONG"), report
    assert ("depend on one another" in str(report)) == tied


def test_an_error_that_reaches_no_param_is_an_error() -> None:
    rule = vjp_rule(lambda x, w: x @ w, lambda x, w, dy: (2 * dy @ w.T, x.T @ dy))
    report = fbp.audit(lambda w: jnp.sum(rule(jnp.asarray(X2), w) ** 2), jnp.asarray(X2.T))
    assert report.verdict == "WRONG"


X2 = np.random.default_rng(3).normal(size=(3, 5)).astype(np.float32)


def approximated(digits: float) -> Any:
    """A root whose loop stops at a tolerance, with a rule that is off by so much."""

    def root(a: Any) -> Any:  # of a, by Newton's method
        def step(carry: Any) -> Any:
            x, _ = carry
            return (x + a / x) / 2, x

        return jax.lax.while_loop(lambda c: abs(c[0] - c[1]) > 1e-4 * c[0], step, (a, 0 * a))[0]

    return vjp_rule(root, lambda a, dy: (dy * 0.5 / jnp.sqrt(a) * (1 + digits),))


@pytest.mark.parametrize(("off", "wanted"), [(2e-6, "OK"), (1e-3, "WRONG")])
def test_a_loop_that_stops_at_a_tolerance(off: float, wanted: str) -> None:
    assert fbp.check(approximated(off), jnp.float32(1.7)).verdict == wanted


@pytest.mark.parametrize("closed_over", [True, False])
@pytest.mark.parametrize(("factor", "wanted"), [(1.0, "OK"), (1.01, "WRONG")])
def test_conjugate_gradients_of_a_symmetric_matrix(
    factor: float, wanted: str, closed_over: bool
) -> None:
    cg = jax.scipy.sparse.linalg.cg

    def solved(a: Any, b: Any) -> Any:
        return cg(lambda v: a @ v, b, tol=1e-6)[0]

    def bwd(a: Any, b: Any, dx: Any) -> Any:
        u = factor * cg(lambda v: a.T @ v, dx, tol=1e-6)[0]
        return -jnp.outer(u, solved(a, b)), u

    rule = vjp_rule(solved, bwd)
    m = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    a, c = jnp.asarray(m @ m.T + 4 * np.eye(4, dtype=np.float32)), jnp.arange(4.0) - 1.5
    if closed_over:
        assert fbp.audit(lambda a: jnp.sum(rule(a, c) ** 2), a).verdict == wanted
    else:
        assert fbp.audit(lambda c, a: jnp.sum(rule(a, c) ** 2), c, a).verdict == wanted


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_series_is_that_of_the_dtype_it_is_judged_in(factor: float) -> None:
    """As in log_ndtr, whose series has more terms in float64."""

    def coefficients(x: Any) -> Any:
        terms = 12 if x.dtype == jnp.float64 else 4
        return [x.dtype.type(1 / math.factorial(n)) for n in range(terms)]

    def exp(x: Any) -> Any:
        return sum(c * x**n for n, c in enumerate(coefficients(x)))

    def bwd(x: Any, dy: Any) -> Any:
        slopes = [n * c * x ** (n - 1) for n, c in enumerate(coefficients(x)) if n]
        return (dy * factor * sum(slopes),)

    rule = vjp_rule(exp, bwd)
    report = fbp.audit(lambda p: jnp.sum(rule(p) ** 2), jnp.asarray([0.1, -0.3, 0.2]))
    assert report.ok == (factor == 1), report


def test_the_second_derivative_of_a_rule_that_calls_another_at_its_kink() -> None:
    weights = np.float32([0, 1])
    report = fbp.check(lambda x: weights * jax.nn.log_sigmoid(x), np.float32([0.1, -0.3]))
    assert report.ok, report


def test_labels_that_mask_a_sum_of_exponentials() -> None:
    def focal(logits: Any, labels: Any) -> Any:  # of a kink of the logits, and none of the labels
        log_p, log_q = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        both, chosen = jnp.stack([log_p, log_q]), jnp.stack([1 - labels, labels])
        return jax.nn.logsumexp(both, axis=0, b=chosen)

    labels = np.float32([0, 1, 1, 0, 1])
    assert fbp.check(focal, np.float32([0.1, -0.2, 0.6, 0.1, -0.5]), labels).ok


def test_a_rule_of_which_nothing_can_be_compared() -> None:
    calls = []

    def bwd(x: Any, dy: Any) -> Any:
        calls.append(0)
        return (dy * len(calls),)

    report = fbp.check(vjp_rule(lambda x: x * jnp.nan, bwd), X)
    assert not report.ok


@pytest.mark.parametrize(("is_built", "wanted"), [(True, "CONVENTION"), (False, "WRONG")])
def test_a_rule_for_symmetric_matrices(is_built: bool, wanted: str) -> None:
    """Its solve is transposed wrongly, which a matrix that is always symmetric does not show."""

    def bwd(a: Any, b: Any, dx: Any) -> Any:
        u = jnp.linalg.solve(a, dx)
        return -jnp.outer(u, jnp.linalg.solve(a, b)), u

    rule = vjp_rule(jnp.linalg.solve, bwd)
    m = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)), jnp.float32)
    symmetric = m @ m.T + 3 * jnp.eye(3)
    b = jnp.arange(3.0) - 0.7

    def loss(p: Any) -> Any:
        a = p @ p.T + 3 * jnp.eye(3) if is_built else p
        return jnp.sum(rule(a, b) ** 2)

    report = fbp.audit(loss, m if is_built else symmetric)
    assert report.verdict == wanted, report
    assert ("right for symmetric matrices only" in str(report)) == is_built


@pytest.mark.parametrize(("off", "wanted"), [(1e-9, True), (1e-4, False)])
def test_a_tail_of_a_loss_has_the_digits_of_the_rest(off: float, wanted: bool) -> None:
    """As of a distribution function by a series, whose rule is the density."""

    def cdf(x: Any) -> Any:
        return jax.nn.sigmoid(x) + off * jnp.sin(x)

    rule = vjp_rule(cdf, lambda x, dy: (dy * jax.nn.sigmoid(x) * jax.nn.sigmoid(-x),))
    assert fbp.audit(lambda p: jnp.sum(rule(p) ** 2), X).ok == wanted


def test_jax_itself_refuses_the_loss() -> None:
    rule = vjp_rule(jnp.sin, lambda x, dy: (dy * jnp.cos(x),))

    def loss(x: Any) -> Any:
        return jax.lax.while_loop(lambda c: (c > 0.1).any(), lambda c: rule(c) / 2, x).sum()

    report = fbp.audit(loss, X)
    assert not report.ok
    assert "jax.grad of loss itself raises ValueError: Reverse-mode" in str(report)
