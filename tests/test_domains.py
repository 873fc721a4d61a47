"""`domain=` of a check: every input that is tried is in it, and rules may be right in it only."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fbp
from fbp.verify import domains
from fbp.verify.registry import _registry

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4)).astype(np.float32)
SHARES = np.exp(X) / np.exp(X).sum(-1, keepdims=True)
UNITS = X / np.linalg.norm(X, axis=-1, keepdims=True)
SQUARE = RNG.normal(size=(2, 3, 3)).astype(np.float32)
DEFINITE = SQUARE @ np.swapaxes(SQUARE, 1, 2) + np.eye(3, dtype=np.float32)
SORTED = np.sort(X, -1)
ORDER = np.int32([3, 1, 0, 4, 2])


def ruled(primal: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    """primal with a backward of its arguments and dy."""
    f = jax.custom_vjp(primal)
    f.defvjp(lambda *args: (primal(*args), args), lambda args, dy: backward(*args, dy))
    return f


def share(scale: float) -> Any:
    def backward(p: Any, dy: Any) -> Any:
        return (scale * (dy - (dy * p).sum(-1, keepdims=True)),)

    return ruled(lambda p: p / p.sum(-1, keepdims=True), backward)


def normalised(scale: float) -> Any:
    def backward(x: Any, dy: Any) -> Any:
        return (scale * (dy - x * (dy * x).sum(-1, keepdims=True)),)

    return ruled(lambda x: x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True)), backward)


def log_determinant(scale: float) -> Any:
    def backward(a: Any, dy: Any) -> Any:
        return (scale * dy[:, None, None] * jnp.linalg.inv(a),)

    return ruled(lambda a: jnp.linalg.slogdet(a)[1], backward)


def sort(scale: float) -> Any:
    return ruled(lambda x: jnp.sort(x, -1), lambda x, dy: (scale * dy,))


def permuted(scale: float) -> Any:
    def backward(x: Any, order: Any, dy: Any) -> Any:
        return scale * dy[jnp.argsort(order)], None

    return ruled(lambda x, order: x[order], backward)


def distance(scale: float) -> Any:
    def backward(low: Any, x: Any, high: Any, dy: Any) -> Any:
        return -scale * dy, scale * dy * (1 - 1), scale * dy

    return ruled(lambda low, x, high: jnp.abs(x - low) + jnp.abs(high - x), backward)


def logit(scale: float) -> Any:
    def backward(p: Any, dy: Any) -> Any:
        return (scale * dy / (p * jnp.abs(1 - p)),)

    return ruled(lambda p: jnp.log(p) - jnp.log(jnp.abs(1 - p)), backward)


LOW, HIGH = X - 1 - np.abs(X), X + 0.5
INSIDE = {
    "simplex": (share, (SHARES,), {"p": domains.simplex()}),
    "simplex, of one's own": (share, (SHARES,), lambda p: np.abs(p) / np.abs(p).sum(-1)[:, None]),
    "unit": (normalised, (UNITS,), {"x": domains.unit()}),
    "symmetric": (log_determinant, (DEFINITE,), {"a": domains.symmetric()}),
    "definite": (log_determinant, (DEFINITE,), {"a": domains.positive_definite()}),
    "sorted": (sort, (SORTED,), {"x": domains.ascending()}),
    "apart": (sort, (SORTED,), {"x": domains.ascending(1e-4)}),
    "permutation": (permuted, (X, ORDER), {"order": domains.permutation()}),
    "in order": (
        distance,
        (LOW, X, HIGH),
        {("low", "x", "high"): domains.ascending_arguments()},
    ),
    "in order, as a question": (distance, (LOW, X, HIGH), lambda a, x, b: (a < x) & (x < b)),
    "in order, as several": (distance, (LOW, X, HIGH), lambda a, x, b: (a < x, x < b)),
    "between": (logit, (SHARES,), {"p": domains.between(0, 1)}),
    "between, as a question": (logit, (SHARES,), {"p": lambda p: (p > 0) & (p < 1)}),
}


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("budget", ["fast", pytest.param("default", marks=pytest.mark.slow)])
def test_a_rule_that_is_right_in_its_domain(name: str, budget: Any) -> None:
    make, args, domain = INSIDE[name]
    for seed in range(2 if budget == "fast" else 1):
        report = fbp.check(make(1.0), *args, domain=domain, budget=budget, seed=seed)
        assert report.verdict == "OK", str(report)
        assert "in the domain that was declared" in str(report)
    report = fbp.check(make(1.0), *args, budget=budget)
    assert not report.ok or name.startswith(("between", "permutation")), str(report)


@pytest.mark.parametrize("name", INSIDE)
def test_a_rule_that_is_wrong_in_its_domain(name: str) -> None:
    make, args, domain = INSIDE[name]
    report = fbp.check(make(1.001), *args, domain=domain)
    assert report.verdict == "WRONG", str(report)


def halves(x: Any) -> Any:
    return jnp.where(x > 0.5, 3 * x, x)  # a kink inside, so that limits are taken


def looped(x: Any) -> Any:
    return jax.lax.fori_loop(0, jnp.int32(x[0, 0] > -9) + 3, lambda _, y: y + jnp.sin(y), x)


def called(x: Any) -> Any:
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@pytest.mark.parametrize(
    ("f", "slope"),
    [(halves, lambda x: jnp.where(x > 0.5, 3.0, jnp.where(x == 0.5, 2.0, 1.0))), (called, jnp.cos)],
)
@pytest.mark.parametrize("form", ["projection", "question"])
def test_no_input_that_is_tried_is_outside(f: Any, slope: Any, form: str) -> None:
    low, high = 0.25, 2.0
    seen: list[np.ndarray] = []

    def watched(x: Any) -> Any:
        jax.debug.callback(lambda x: seen.append(np.array(x)), x)
        return f(x)

    forms = {"projection": domains.between(low, high), "question": lambda x: (low < x) & (x < high)}
    x = (0.5 + 0.2 * X**2 / (1 + X**2)).astype(np.float32)
    x[0, :2] = 0.5
    report = fbp.check(ruled(watched, lambda x, dy: (slope(x) * dy,)), x, domain=forms[form])
    jax.effects_barrier()
    assert report.ok, str(report)
    assert len(seen) > 20
    assert all(((low <= x) & (x <= high)).all() for x in seen if np.isfinite(x).all())


def test_the_domain_of_a_tree_of_a_layer_and_of_a_loss() -> None:
    layer = fbp.FixedBatchNorm(4)
    params = jax.tree.map(lambda a: np.abs(np.asarray(a)) + 1, layer.init(jax.random.key(0)))
    for name in ("params.var", "params"):
        report = fbp.check(layer, params, X, domain={name: domains.between(0.5, 3)})
        assert report.ok, str(report)
    loss, target = fbp.SoftmaxCrossEntropy(), np.int32([0, 1, 2, 3, 0])
    assert fbp.check(loss, X, target, domain=lambda y, target: np.abs(y) < 99).ok


@pytest.mark.parametrize(
    ("domain", "error", "says"),
    [
        ({"q": domains.unit()}, ValueError, "expected names of arguments, got 'q' of p"),
        ({("p", "q"): domains.unit()}, ValueError, "expected names of arguments"),
        (3, TypeError, "domain: expected a function or a dict of functions, got int"),
        ({"p": 3}, TypeError, "domain of p: expected a function, got int"),
        (lambda p: p[:2], ValueError, r"domain of <lambda>: .* of shapes \[\(5, 4\)\]"),
        (lambda p: p @ p, ValueError, "domain of <lambda>: on these arguments, "),
        (lambda p: p < 0, ValueError, "expected arguments in their domain, got p outside of it"),
        ({"p": domains.unit()}, ValueError, "expected arguments in their domain, got p outside"),
    ],
)
def test_what_is_no_domain_of_the_arguments(domain: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        fbp.check(share(1.0), SHARES, domain=domain)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: domains.between(1, 1), "low below high"),
        (lambda: domains.positive_definite(1), "a condition above 1"),
    ],
)
def test_domains_that_hold_nothing(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


IS_IN: dict[str, tuple[Any, Callable[[np.ndarray], Any]]] = {
    "between": (domains.between(-0.5, 1), lambda x: (x > -0.5) & (x < 1)),
    "above": (domains.between(low=0.5), lambda x: x > 0.5),
    "below": (domains.between(high=0.5), lambda x: x < 0.5),
    "ends": (domains.between(-0.5, 1, ends=True), lambda x: (x >= -0.5) & (x <= 1)),
    "unit": (domains.unit(), lambda x: np.isclose((x * x).sum(-1), 1)),
    "simplex": (domains.simplex(0), lambda x: (x >= 0) & np.isclose(x.sum(0), 1)),
    "symmetric": (domains.symmetric(), lambda x: x == x.T),
    "definite": (
        domains.positive_definite(),
        lambda x: np.isclose(x, x.T).all() & (np.linalg.eigvalsh(x) > 0),
    ),
    "ascending": (domains.ascending(), lambda x: np.diff(x) >= 0),
    "apart": (domains.ascending(0.1, axis=0), lambda x: np.diff(x, axis=0) > 0.0999),
    "permutation": (domains.permutation(), lambda x: np.sort(x) == np.arange(x.shape[-1])),
}


@pytest.mark.parametrize("name", IS_IN)
@given(st.lists(st.floats(-100, 100) | st.sampled_from([0.0, -0.5, 1.0]), min_size=9, max_size=9))
@settings(max_examples=50, deadline=None)
def test_what_is_moved_is_inside_and_then_stays(name: str, numbers: list[float]) -> None:
    move, is_inside = IS_IN[name]
    moved = move(np.reshape(numbers, (3, 3)))
    assert np.all(is_inside(moved)), moved
    np.testing.assert_allclose(move(moved), moved, rtol=1e-9, atol=1e-12)


@given(st.lists(st.floats(-100, 100), min_size=9, max_size=9), st.permutations([(), (3,), (1, 3)]))
@settings(max_examples=50, deadline=None)
def test_arguments_in_order_of_any_shapes(numbers: list[float], shapes: Any) -> None:
    arrays = [
        np.asarray(numbers[:1]).reshape(()),
        np.asarray(numbers[1:4]),
        np.asarray(numbers[4:7]),
    ]
    arrays = [np.resize(a, shape) for a, shape in zip(arrays, shapes, strict=True)]
    moved = domains.ascending_arguments(0.5)(*arrays)
    assert [a.shape for a in moved] == [a.shape for a in arrays]
    for low, high in itertools.pairwise(moved):
        assert np.all(low + 0.499 < high)
    for a, b in zip(moved, domains.ascending_arguments(0.5)(*moved), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def tried(*args: Any, **options: Any) -> list[list[np.ndarray]]:
    """The values of all integer arguments that a check tries, one list for each argument."""
    seen: list[list[np.ndarray]] = [[] for _ in args]

    def f(x: Any, *others: Any) -> Any:
        def watch(*values: Any) -> None:
            for held, value in zip(seen, values, strict=True):
                held.append(np.array(value))

        jax.debug.callback(watch, *others)
        return x * sum(jnp.sum(a * jnp.arange(1, a.size + 1).reshape(a.shape)) for a in others)

    fbp.check(f, X, *args, **options)
    jax.effects_barrier()
    return seen


def test_a_permutation_that_was_given_stays_one_and_its_partners_follow() -> None:
    inverse = np.argsort(ORDER).astype(np.int32)
    first, same, back, labels = tried(ORDER, ORDER.copy(), inverse, np.int32([3, 3, 1, 0, 2]))
    assert len({a.tobytes() for a in first}) >= 3
    for a, b, c in zip(first, same, back, strict=True):
        assert (np.sort(a) == np.arange(5)).all()
        assert (a == b).all()
        assert (a[c] == np.arange(5)).all()
    assert any(len(set(a.tolist())) < 3 for a in labels)


def test_indices_that_are_no_order_of_any_argument_may_repeat() -> None:
    (ids,) = tried(np.int32([2, 0, 1, 3, 5, 4]))  # six of them: no argument has six rows
    assert any(len(set(a.tolist())) < 4 for a in ids)


def test_ascending_integers_stay_so_and_repeat() -> None:
    (ids,) = tried(np.int32([0, 1, 1, 3, 4]))
    ordinary = [a for a in ids if (a >= 0).all()]
    assert all((np.diff(a) >= 0).all() for a in ordinary)
    assert len({a.tobytes() for a in ordinary}) >= 3


@pytest.mark.parametrize("dtype", [bool, np.int32])
def test_rows_with_a_single_one_keep_it(dtype: Any) -> None:
    (rows,) = tried(np.eye(4, dtype=dtype)[[0, 2, 2, 1, 3]])
    assert len({a.tobytes() for a in rows}) >= 3
    assert all((a.astype(int).sum(-1) == 1).all() for a in rows)
    (masks,) = tried(np.eye(4, dtype=bool)[[0, 2]] | np.array([[True], [False]]))
    assert any(not a.any() for a in masks)


def test_shares_stay_shares_when_shuffled() -> None:
    def backward(p: Any, dy: Any) -> Any:
        return (dy - (dy * p).sum(-1, keepdims=True),)

    seen: list[str] = []

    def watched(p: Any) -> Any:
        jax.debug.callback(lambda p: seen.append(np.array2string(p.sum(-1), precision=3)), p)
        return p / p.sum(-1, keepdims=True)

    fbp.check(ruled(watched, backward), SHARES)
    jax.effects_barrier()
    ones = np.array2string(np.ones(5), precision=3)
    assert seen.count(ones) >= 6  # in both dtypes: as given, near what was given, and shuffled


def test_a_rule_of_an_order_is_right_and_its_card_says_what_was_not_tried() -> None:
    report = fbp.check(permuted(1.0), X, ORDER)
    assert report.verdict == "OK", str(report)
    assert "order is a permutation as given: no other order was tried" in report.notes
    assert fbp.check(permuted(1.1), X, ORDER).verdict == "WRONG"


def test_a_rule_is_registered_with_its_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_RULES", {})
    domain = {"p": domains.simplex()}
    fbp.register(name="share", make=lambda: (SHARES,), domain=domain)(share(1.0))
    fbp.register(share(1.0), SHARES, name="undeclared", budget="fast")
    assert [rule.check().verdict for rule in _registry.rules()] == ["OK", "WRONG"]
