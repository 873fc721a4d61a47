"""Ways in which a wrong rule could pass, or a right one be refused: each was one once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fbp

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4)).astype(np.float32)


def rule(primal: Callable[..., Any], fwd: Any, bwd: Any, **options: Any) -> Any:
    f = jax.custom_vjp(primal, **options)
    f.defvjp(fwd, bwd)
    return f


def verdict(f: Any, *args: Any, **options: Any) -> str:
    return fbp.check(f, *args, **options).verdict


def test_a_forward_that_overflows_in_the_dtype_it_is_used_in() -> None:
    def bwd(x: Any, dy: Any) -> Any:
        return (jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True) * dy[:, None],)

    naive = rule(lambda x: jax.nn.logsumexp(x, -1), lambda x: (jnp.log(jnp.exp(x).sum(-1)), x), bwd)
    assert verdict(naive, X) == "RANGE"


def root(x: Any) -> Any:
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)  # its autodiff is NaN where x <= 0


@pytest.mark.parametrize(("slope", "wanted"), [(0.0, "OK"), (123.0, "WRONG")])
def test_where_autodiff_is_nan_differences_decide(slope: float, wanted: str) -> None:
    def bwd(x: Any, dy: Any) -> Any:
        return (jnp.where(x > 0, dy * 0.5 / jnp.sqrt(jnp.where(x > 0, x, 1.0)), slope * dy),)

    report = fbp.check(rule(root, lambda x: (root(x), x), bwd), X)
    assert report.verdict == wanted, report
    if wanted == "OK":
        assert "autodiff is not finite at the others" in str(report.notes)


def causal() -> Any:
    return jnp.arange(4.0)[:, None] >= jnp.arange(4.0)


def test_a_mask_of_float_positions_is_no_kink() -> None:
    def row_sums(x: Any) -> Any:
        return jnp.where(causal(), x, 0.0).sum(-1)

    def bwd(_: None, dy: Any) -> Any:
        return (jnp.where(causal(), dy[:, None], 0.0),)

    x = X[:4]
    assert verdict(rule(row_sums, lambda x: (row_sums(x), None), bwd), x) == "OK"
    assert verdict(rule(row_sums, lambda x: (1.5 * row_sums(x), None), bwd), x) == "STRUCTURE"


@pytest.mark.parametrize(("factor", "wanted"), [(1.0, "OK"), (1 + 5e-5, "WRONG")])
def test_small_errors_count_where_every_input_has_ties(factor: float, wanted: str) -> None:
    def f(x: Any, w: Any) -> Any:
        return jnp.maximum(x, 0) * w

    def bwd(res: Any, dy: Any) -> Any:
        x, w = res
        return jnp.where(x > 0, dy * w, 0), jnp.maximum(x, 0) * dy * factor

    sparse = np.maximum(X, 0)  # zeros stay zeros in what is drawn near them
    report = fbp.check(rule(f, lambda x, w: (f(x, w), (x, w)), bwd), sparse, 2 * X)
    assert {r.path: r.verdict for r in report.leaves}["w"] == wanted, report
    assert "zero everywhere" not in str(report)


def test_a_forward_that_is_wrong_where_every_input_has_ties() -> None:
    def relu(x: Any) -> Any:
        return jnp.maximum(x, 0)

    f = rule(relu, lambda x: (1.5 * relu(x), x), lambda x, dy: (jnp.where(x > 0, dy, 0),))
    assert verdict(f, np.maximum(X, 0)) == "STRUCTURE"


def test_every_element_counts_without_reverse_mode() -> None:
    solve = jnp.linalg.solve

    def of(factor: float) -> Any:
        def bwd(res: Any, dy: Any) -> Any:
            a, y = res
            db = solve(a.T, dy)
            return (-db[:, None] * y[None]).at[4, 2].multiply(factor), db

        return rule(solve, lambda a, b: (solve(a, b), (a, solve(a, b))), bwd)

    a = RNG.normal(size=(5, 5)).astype(np.float32) + 3 * np.eye(5, dtype=np.float32)
    b = X[:, 0]
    assert verdict(of(1.0), a, b) == "OK"
    assert verdict(of(3.0), a, b) == "WRONG"


def scaled_gradient() -> Any:
    return rule(
        lambda x, s: x * 1.0,
        lambda x, s: (x * 1.0, None),
        lambda s, _, dy: (dy * s,),
        nondiff_argnums=(1,),
    )


def test_calls_that_hold_other_numbers_are_other_rules() -> None:
    sg = scaled_gradient()

    def loss(w: Any, x: Any) -> Any:
        return sg(jnp.sin(sg(w * x, 1.0)), 5.0).sum()

    report = fbp.audit(loss, jnp.asarray(X), jnp.asarray(X))
    assert report.verdict == "WRONG"
    assert len(report.sites) == 2


def test_a_choice_at_a_kink_hides_nothing_else_in_the_whole() -> None:
    sg = scaled_gradient()

    def body(carry: Any) -> Any:
        return sg(carry, 5.0), carry

    def loss(w: Any) -> Any:
        kink = jax.nn.relu(w - lax.stop_gradient(w)).sum()
        y = lax.map(lambda v: v * 1.0, w)
        return kink + sg(y, 5.0).sum()

    report = fbp.audit(loss, jnp.asarray(X))
    assert report.verdict == "WRONG"
    assert not report.ok


def test_a_function_that_changed_is_checked_anew() -> None:
    scale = {"by": 1.0}
    h = rule(
        lambda x: scale["by"] * jnp.sin(x),
        lambda x: (jnp.sin(x), x),
        lambda x, dy: (jnp.cos(x) * dy,),
    )
    assert verdict(h, X) == "OK"
    scale["by"] = 3.0
    assert verdict(h, X) != "OK"


def test_a_rule_whose_indices_changed_is_checked_anew() -> None:
    order = {"is": np.asarray([0, 1, 2, 3])}
    f = rule(
        lambda x: x[:, jnp.asarray([0, 1, 2, 3])] ** 2,
        lambda x: (x**2, x),
        lambda x, dy: ((2 * x * dy)[:, order["is"]],),
    )
    assert verdict(f, X) == "OK"
    order["is"] = np.asarray([1, 0, 2, 3])
    assert verdict(f, X) == "WRONG"


def test_a_scan_is_judged_at_large_inputs_too() -> None:
    def twice(x: Any) -> Any:
        return lax.scan(lambda c, _: (jnp.tanh(c), None), x, None, length=2)[0]

    def bwd(x: Any, dy: Any) -> Any:
        h = jnp.tanh(x)
        right = (1 - jnp.tanh(h) ** 2) * (1 - h * h)
        return (dy * jnp.where(jnp.abs(x) > 4, 7.0, right),)

    assert verdict(rule(twice, lambda x: (twice(x), x), bwd), X) == "WRONG"


def test_a_wrapper_has_arguments_of_its_own() -> None:
    core = rule(
        lambda n, x, w: x**n * w,
        lambda n, x, w: (x**n * w, (x, w)),
        lambda n, res, dy: (n * res[0] ** (n - 1) * res[1] * dy, res[0] ** n * dy),
        nondiff_argnums=(0,),
    )

    @functools.wraps(core)
    def outer(x: Any, w: Any) -> Any:
        return core(2, x, w)

    report = fbp.check(outer, X, 2 * X)
    assert report.verdict == "OK"
    assert [row.path for row in report.leaves] == ["x", "w"]


def test_a_rule_inside_vmap_is_that_of_one_example() -> None:
    f = rule(
        lambda x, w: jnp.sin(x * w),
        lambda x, w: (jnp.sin(x * w), (x, w)),
        lambda res, dy: (
            dy * jnp.cos(res[0] * res[1]) * res[1],
            dy * jnp.cos(res[0] * res[1]) * res[0],
        ),
    )
    report = fbp.check(jax.vmap(f, (0, None)), X, X[0])
    assert report.verdict == "OK"
    assert [row.path for row in report.leaves] == ["x", "w"]


def test_complex_numbers_without_reverse_mode() -> None:
    solve = jnp.linalg.solve

    def bwd(res: Any, dy: Any) -> Any:
        a, y = res
        db = solve(a.T, dy)
        return -db[:, None] * y[None], db

    f = rule(solve, lambda a, b: (solve(a, b), (a, solve(a, b))), bwd)
    a = (RNG.normal(size=(3, 3)) + 1j * RNG.normal(size=(3, 3)) + 3 * np.eye(3)).astype("c8")
    b = (RNG.normal(size=3) + 1j * RNG.normal(size=3)).astype("c8")
    assert verdict(f, a, b) == "OK"


def test_complex_numbers_at_a_kink() -> None:
    def half(z: Any) -> Any:
        return jnp.where(z.real > 0, z, 0)

    f = rule(half, lambda z: (half(z), z), lambda z, dy: (jnp.where(z.real >= 0, dy, 0),))
    z = (X + 1j * X[::-1]).astype("c8")
    assert verdict(f, z) in ("OK", "CONVENTION")


def test_another_formula_for_a_forward_that_cancels() -> None:
    def centred(x: Any) -> Any:
        return x - x.mean(-1, keepdims=True)

    def fwd(x: Any) -> Any:
        return x - x @ jnp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype), None

    f = rule(centred, fwd, lambda _, dy: (dy - dy.mean(-1, keepdims=True),))
    assert verdict(f, X[:, :3]) == "OK"


def test_outputs_may_be_python_numbers() -> None:
    g = rule(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, dy: (dy * jnp.cos(x),))
    assert verdict(lambda x: (g(x), 1.0, 3), X) == "OK"


def test_a_kink_in_a_while_loop() -> None:
    def f(x: Any) -> Any:
        def body(carry: Any) -> Any:
            n, x = carry
            return n + 1, jnp.maximum(x, 0) * 0.9

        return lax.while_loop(lambda carry: carry[0] < 2, body, (0, x))[1]

    for above in (jnp.greater, jnp.greater_equal):

        def bwd(x: Any, dy: Any, above: Any = above) -> Any:
            return (jnp.where(above(x, 0), 0.81 * dy, 0),)

        assert verdict(rule(f, lambda x: (f(x), x), bwd), X) in ("OK", "CONVENTION")


def test_a_kink_in_shard_map() -> None:
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("i",))
    spec = jax.sharding.PartitionSpec("i")

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec)
    def relu(x: Any) -> Any:
        return jnp.maximum(x, 0.0)

    right = rule(relu, lambda x: (relu(x), x), lambda x, dy: (jnp.where(x > 0, dy, 0),))
    wrong = rule(relu, lambda x: (relu(x), x), lambda x, dy: (jnp.where(x > 0, 1.01 * dy, 0),))
    assert verdict(right, X) in ("OK", "CONVENTION")
    assert verdict(wrong, X) == "WRONG"


def test_empty_arrays_and_keys_that_are_closed_over() -> None:
    double = rule(lambda x: 2 * x, lambda x: (2 * x, None), lambda _, dy: (2 * dy,))
    fbp.check(double, X[:, :0])
    key = jax.random.key(0)
    noisy = rule(
        lambda x: x * jax.random.normal(key, x.shape),
        lambda x: (x * jax.random.normal(key, x.shape), None),
        lambda _, dy: (dy * jax.random.normal(key, dy.shape),),
    )
    assert verdict(noisy, X) == "OK"


def test_float64_is_not_held_to_the_range_of_float32() -> None:
    def bwd(x: Any, dy: Any) -> Any:
        square = x * x + 1e-60  # 0 in float32
        return (3 * dy * square / square,)

    f = rule(lambda x: 3 * x, lambda x: (3 * x, x), bwd)
    with jax.enable_x64(True):
        report = fbp.check(f, jnp.full((3,), 1e-25, jnp.float64), budget="fast")
    assert report.verdict not in ("RANGE", "PRECISION"), report


def test_argnums_of_a_loss_and_a_cotangent_that_is_a_python_number() -> None:
    loss = fbp.MeanSquaredError()
    report = fbp.check(loss, X, 0 * X, argnums=0, cotangent=1)
    assert report.verdict == "OK"
    assert [row.path for row in report.leaves] == ["y"]


def test_a_mask_is_mixed_though_all_true_was_given() -> None:
    def mean(x: Any, mask: Any) -> Any:
        return (x * mask).sum(-1) / jnp.maximum(mask.sum(-1), 1)

    def bwd(res: Any, dy: Any) -> Any:
        x, mask = res
        return (dy / x.shape[-1])[:, None] * mask, None  # the count of the mask, it should be

    f = rule(mean, lambda x, mask: (mean(x, mask), (x, mask)), bwd)
    assert verdict(f, X, np.ones(X.shape, bool)) == "WRONG"


def test_a_function_too_steep_for_differences_is_not_contradicted() -> None:
    def normalize(x: Any) -> Any:
        return x / jnp.maximum(jnp.sqrt((x * x).sum(-1, keepdims=True)), 1e-12)

    def bwd(x: Any, dy: Any) -> Any:
        n = jnp.sqrt((x * x).sum(-1, keepdims=True))
        y = x / jnp.maximum(n, 1e-12)
        along = jnp.where(n > 1e-12, y * (dy * y).sum(-1, keepdims=True), 0)
        return ((dy - along) / jnp.maximum(n, 1e-12),)

    assert verdict(rule(normalize, lambda x: (normalize(x), x), bwd), X) == "OK"


def test_a_loop_that_does_not_end_at_large_inputs_is_not_tried_there() -> None:
    def fixed_point(a: Any) -> Any:
        def goes_on(carry: Any) -> Any:
            return jnp.abs(carry[0] - carry[1]).max() > 1e-6

        def body(carry: Any) -> Any:
            return jnp.cos(a * carry[0]), carry[0]

        return lax.while_loop(goes_on, body, (jnp.zeros_like(a), jnp.ones_like(a)))[0]

    def bwd(res: Any, dy: Any) -> Any:
        a, z = res
        return (-dy * jnp.sin(a * z) * z / (1 + a * jnp.sin(a * z)),)

    f = rule(fixed_point, lambda a: (fixed_point(a), (a, fixed_point(a))), bwd)
    report = fbp.check(f, np.asarray([0.3, 0.4, 0.6], np.float32), budget="fast")
    assert "only inputs near what was given" in str(report.notes)


def test_an_iteration_of_fixed_length_may_not_have_converged_elsewhere() -> None:
    def fixed_point(w: Any, x: Any) -> Any:
        return lax.fori_loop(0, 60, lambda _, z: jnp.tanh(w @ z + x), jnp.zeros_like(x))

    def bwd(res: Any, dy: Any) -> Any:
        w, z = res
        slope = 1 - z * z
        u = jnp.linalg.solve((jnp.eye(3) - slope[:, None] * w).T, dy) * slope
        return u[:, None] * z, u

    w = 0.2 * RNG.normal(size=(3, 3)).astype(np.float32)
    f = rule(fixed_point, lambda w, x: (fixed_point(w, x), (w, fixed_point(w, x))), bwd)
    assert fbp.check(f, w, X[0, :3]).ok


def test_a_product_with_one_zero() -> None:
    def bwd(x: Any, dy: Any) -> Any:
        quotients = (dy * x.prod(-1))[:, None] / jnp.where(x == 0, 1, x)
        return (jnp.where(x == 0, 0, quotients),)

    f = rule(lambda x: x.prod(-1), lambda x: (x.prod(-1), x), bwd)
    assert verdict(f, X) == "WRONG"


def test_a_clip_of_the_cotangent_left_in_the_rule() -> None:
    f = rule(
        jnp.sin, lambda x: (jnp.sin(x), x), lambda x, dy: (jnp.clip(dy, -20, 20) * jnp.cos(x),)
    )
    assert verdict(f, X) == "WRONG"


@pytest.mark.parametrize("n", [np.asarray([4, 4, 4, 4, 4]), np.int32(4)])
def test_lengths_other_than_the_full_one_are_tried(n: Any) -> None:
    def within(n: Any, compare: Any) -> Any:
        return compare(jnp.arange(4), jnp.reshape(n, (-1, 1)))

    def masked(x: Any, n: Any) -> Any:
        return jnp.where(within(n, jnp.less), x, 0)

    def bwd(n: Any, dy: Any) -> Any:
        return jnp.where(within(n, jnp.less_equal), dy, 0), None

    assert verdict(rule(masked, lambda x, n: (masked(x, n), n), bwd), X, n) == "WRONG"


def test_a_label_to_ignore_is_tried_though_none_was_given() -> None:
    def loss(logp: Any, labels: Any) -> Any:
        kept = labels != -100
        picked = jnp.take_along_axis(logp, jnp.maximum(labels, 0)[:, None], 1)[:, 0]
        return -(picked * kept).sum() / jnp.maximum(kept.sum(), 1)

    def bwd(res: Any, dy: Any) -> Any:
        _, labels = res
        one_hot = jnp.arange(4) == jnp.maximum(labels, 0)[:, None]
        return -dy * one_hot / len(labels), None

    f = rule(loss, lambda p, n: (loss(p, n), (p, n)), bwd)
    assert verdict(f, X, np.asarray([0, 3, 1, 2, 2])) == "WRONG"


def test_a_step_that_a_schedule_asks_for_is_tried() -> None:
    f = rule(
        lambda x, step: x * jnp.where(step > 1000, 2, 1),
        lambda x, step: (x * jnp.where(step > 1000, 2, 1), None),
        lambda _, dy: (dy, None),
    )
    assert verdict(f, X, np.int32(0)) == "WRONG"


def test_a_rule_with_a_key_among_its_arguments_is_explained() -> None:
    f = rule(
        lambda x, key, flag: jnp.where(flag, 2 * x, x),
        lambda x, key, flag: (jnp.where(flag, 2 * x, x), flag),
        lambda flag, dy: (dy, None, None),
    )
    report = fbp.check(f, X, jax.random.key(3), jnp.array(False))
    assert report.verdict == "WRONG"
    assert not [note for note in report.notes if "no explanation" in note]


def test_what_is_not_finite_as_given_is_no_proof() -> None:
    f = rule(lambda x: x * x, lambda x: (x * x, x), lambda x, dy: (3 * x * dy,))
    broken = X.copy()
    broken[1, 2] = np.nan
    report = fbp.check(f, broken)
    assert not report.ok
    assert "VACUOUS" not in report.verdict


def test_a_reference_of_other_values_is_told_apart() -> None:
    rounded = rule(
        lambda x: jnp.round(x * 8) / 8, lambda x: (jnp.round(x * 8) / 8, None), lambda _, dy: (dy,)
    )
    assert "the reference's" in str(fbp.check(rounded, X, reference=lambda x: x))
    straight = lambda x: x + lax.stop_gradient(jnp.round(x * 8) / 8 - x)  # noqa: E731
    assert fbp.check(rounded, X, reference=straight).ok


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reference": lambda x, y: x}, "reference of .* raises on these arguments"),
        ({"reference": X}, "expected a function for reference, got ndarray"),
        ({"argnums": "x"}, "expected argnums of integers, got 'x'"),
        ({"seed": -1}, "expected a seed of 0 or more, got -1"),
    ],
)
def test_bad_options_get_one_line(options: Any, said: str) -> None:
    f = rule(lambda x: x * x, lambda x: (x * x, x), lambda x, dy: (2 * x * dy,))
    with pytest.raises((TypeError, ValueError), match=said) as raised:
        fbp.check(f, X, **options)
    assert "\n" not in str(raised.value)


def test_what_one_argument_takes_at_a_tie_the_other_cannot_have() -> None:
    def of(strict: bool) -> Any:
        above = jnp.greater if strict else jnp.greater_equal
        return rule(
            jnp.maximum,
            lambda x, y: (jnp.maximum(x, y), (x, y)),
            lambda res, dy: (dy * (res[0] >= res[1]), dy * above(res[1], res[0])),
        )

    assert verdict(of(strict=True), X, X) == "CONVENTION"
    assert verdict(of(strict=False), X, X) == "WRONG"


@pytest.mark.parametrize("off", [0.0, 0.1])
def test_a_leaf_that_is_masked_where_it_is_zero_hides_nothing_of_another(off: float) -> None:
    def softplus(x: Any) -> Any:
        return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))  # its autodiff at 0 is 0

    def bwd(x: Any, dy: Any) -> Any:
        return (dy * (jax.nn.sigmoid(x) + jnp.where(x == 0, off, 0)),)

    smooth = rule(softplus, lambda x: (softplus(x), x), bwd)
    labels = np.float32([0, 1, 1, 0])
    found = verdict(lambda x, y: smooth(x) + jnp.where(y != 0, y, 0.0), X[0], labels)
    assert found == ("OK" if off == 0 else "WRONG")


def test_a_rule_in_a_rule_is_one_when_constants_are_widened() -> None:
    """The rule of logaddexp calls logaddexp, whose autodiff at a tie has another derivative."""
    assert verdict(lambda x: np.float32([1, 2, 0.5, 3]) * jax.nn.softplus(x), X) == "OK"


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_an_approximation_for_float32_is_one_beside_its_thresholds_too(factor: float) -> None:
    """log_ndtr chooses its series, and where they meet, by dtype; audit takes the traced ones."""

    def bwd(x: Any, dy: Any) -> Any:
        slope = jnp.exp(jax.scipy.stats.norm.logpdf(x) - jax.scipy.special.log_ndtr(x))
        return (factor * dy * slope,)

    log_ndtr = jax.scipy.special.log_ndtr
    mine = rule(lambda x: log_ndtr(x), lambda x: (log_ndtr(x), x), bwd)
    report = fbp.audit(lambda w, x: -mine(x @ w).mean(), X[0], RNG.normal(size=(8, 4)))
    assert (report.verdict == "WRONG") == (factor != 1), report


def test_a_forward_that_gives_other_integers() -> None:
    def best(x: Any) -> Any:
        return x.max(-1), x.argmax(-1)

    def bwd(x: Any, dys: Any) -> Any:
        return (jax.nn.one_hot(x.argmax(-1), x.shape[-1], dtype=x.dtype) * dys[0][:, None],)

    right = rule(best, lambda x: (best(x), x), bwd)
    wrong = rule(best, lambda x: ((x.max(-1), x.argmin(-1)), x), bwd)
    assert verdict(right, X, budget="fast") == "CONVENTION"  # of ties it takes the first
    report = fbp.check(wrong, X, budget="fast")
    assert report.verdict == "STRUCTURE"
    assert "differs from the function's own in" in str(report)
    assert "int32 elements" in str(report)


def test_differences_of_one_element_do_not_drown_in_the_others() -> None:
    def f(x: Any) -> Any:
        return jnp.where(jnp.isnan(0 / x), 1, jnp.exp(x) / x * x)  # its autodiff is NaN at 0

    right = rule(f, lambda x: (f(x), x), lambda x, dy: (dy * jnp.exp(x),))
    wrong = rule(f, lambda x: (f(x), x), lambda x, dy: (dy * jnp.exp(x) * jnp.where(x, 1, 2),))
    x = np.asarray([0.0, 1.0, 40.0, -2.0])  # exp(40) = 2e17 is a sum's whole float64
    assert verdict(right, x) == "OK", fbp.check(right, x)
    assert verdict(wrong, x) == "WRONG", fbp.check(wrong, x)


def test_a_rule_that_holds_dy_fixed_loses_a_second_derivative() -> None:
    """Its gradient is right, and its derivative by x too: what flows through dy is lost."""
    function = jax.custom_vjp(lambda x: x * jnp.sin(x))

    def backward(x: Any, dy: Any) -> Any:
        return (jax.lax.stop_gradient(dy) * (jnp.sin(x) + x * jnp.cos(x)),)

    function.defvjp(lambda x: (x * jnp.sin(x), x), backward)
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    report = fbp.check(function, x)
    assert report.verdict == "VARIANT", report
    assert "grad of grad" in report.hints[0].text
