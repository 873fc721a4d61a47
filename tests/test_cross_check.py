"""cross_check passes right rules and finds wrong ones, by leaf."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Lookup, Noise, cast

import fbp
from fbp.verify import WrongGradientError

MSE = fbp.MeanSquaredError()


def batch(seed: int, n: int, n_in: int, n_out: int, dtype: Any = jnp.float32) -> Any:
    rng = np.random.default_rng(seed)
    return cast((rng.normal(size=(n, n_in)), rng.normal(size=(n, n_out))), dtype)


def objective(model: fbp.Layer, loss: fbp.Loss = MSE) -> fbp.Objective:
    return fbp.Objective(model, loss)


def checked(model: fbp.Layer, data: Any, loss: fbp.Loss = MSE, key: Any = None) -> Any:
    whole = objective(model, loss)
    params = whole.init(jax.random.key(0))
    # Biases start at 0; at random ones nothing is right by being 0.
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda p: p + np.asarray(0.3 * rng.normal(size=p.shape), p.dtype), jax.device_get(params)
    )
    return fbp.cross_check(whole, params, data, key)


RIGHT = {
    "neuron": (fbp.Serial(fbp.Scale((3,)), fbp.Bias((3,))), batch(0, 7, 3, 3), MSE),
    "mlp": (fbp.models.mlp([3, 5, 2], fbp.Tanh()), batch(0, 7, 3, 2), fbp.Huber()),
    "deep": (fbp.models.mlp([5] * 6, fbp.Gelu()), batch(0, 5, 5, 5), MSE),
    "bfloat16": (
        fbp.Serial(a=fbp.Dense(3, 5, dtype=jnp.bfloat16), b=fbp.Silu()),
        batch(0, 7, 3, 5, jnp.bfloat16),
        MSE,
    ),
    "stack": (fbp.Stack(fbp.Remat(fbp.Residual(fbp.Dense(3, 3))), 3), batch(0, 7, 3, 3), MSE),
    "classes": (
        fbp.models.mlp([3, 5, 4], fbp.Relu()),
        (batch(0, 7, 3, 1)[0], jnp.asarray([0, 1, 2, 3, -1, 0, -1])),
        fbp.SoftmaxCrossEntropy(label_smoothing=0.1, ignore=-1),
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_rules_pass(name: str) -> None:
    model, data, loss = RIGHT[name]
    check = checked(model, data, loss)
    assert check.ok, str(check)
    check.raise_if_wrong()
    assert "WRONG" not in str(check)
    assert all(np.isfinite([leaf.error64, leaf.error, leaf.control]).all() for leaf in check.leaves)


def test_the_table_has_every_leaf() -> None:
    check = checked(fbp.models.mlp([3, 5, 2]), batch(0, 7, 3, 2))
    paths = ["model.dense_1.b", "model.dense_1.w", "model.dense_2.b", "model.dense_2.w", "x"]
    assert [leaf.path for leaf in check.leaves] == paths
    assert [leaf.shape for leaf in check.leaves] == [(5,), (3, 5), (2,), (5, 2), (7, 3)]
    assert {leaf.dtype for leaf in check.leaves} == {"float32"}
    for path in paths:
        assert path in str(check)
    assert len(str(check).splitlines()) >= 1 + len(paths)


@dataclasses.dataclass(frozen=True)
class Wrong(fbp.Layer):
    """A Dense with a mistake planted in its backward."""

    dense: fbp.Dense
    mistake: Callable[[Any, Any, Any, Any], Any]

    def init(self, key: Any) -> Any:
        return self.dense.init(key)

    def forward(self, params: Any, x: Any, key: Any = None) -> Any:
        return self.dense.forward(params, x, key)

    def backward(self, params: Any, x: Any, res: Any, dy: Any) -> Any:
        return self.mistake(params, x, dy, self.dense.backward(params, x, res, dy))


def changed(leaf: str, f: Callable[[Any], Any]) -> Callable[..., Any]:
    def mistake(params: Any, x: Any, dy: Any, right: Any) -> Any:
        dparams, dx = right
        return ({**dparams, leaf: f(dparams[leaf])}, dx)

    return mistake


def saturated(params: Any, x: Any, dy: Any, right: Any) -> Any:
    dparams, dx = right
    return dparams, jnp.where(x > 1, 0, dx)


# A mistake, and the leaves it makes wrong. `first` feeds `second`, which has the mistake.
MISTAKES = {
    "sign_dw": (changed("w", lambda d: -d), {"second.w"}),
    "sign_db": (changed("b", lambda d: -d), {"second.b"}),
    "db_halved": (changed("b", lambda d: d / 2), {"second.b"}),
    "db_dropped": (changed("b", jnp.zeros_like), {"second.b"}),
    "dw_transposed": (changed("w", lambda d: d.T), {"second.w"}),
    "dw_off_by_a_millionth": (changed("w", lambda d: d * (1 + 1e-6)), {"second.w"}),
    "one_element_of_dw": (changed("w", lambda d: d.at[1, 2].mul(1.001)), {"second.w"}),
    "mean_for_sum": (changed("b", lambda d: d / 7), {"second.b"}),
    "nan_in_dw": (changed("w", lambda d: d.at[0, 0].set(jnp.nan)), {"second.w"}),
    "inf_in_db": (changed("b", lambda d: d.at[0].set(jnp.inf)), {"second.b"}),
    "dx_without_transpose": (
        lambda params, x, dy, right: (right[0], dy @ params["w"]),
        {"first.w", "first.b"},
    ),
    "dx_sign": (lambda params, x, dy, right: (right[0], -right[1]), {"first.w", "first.b"}),
    "dx_dropped": (
        lambda params, x, dy, right: (right[0], jnp.zeros_like(x)),
        {"first.w", "first.b"},
    ),
    "dx_saturated": (saturated, {"first.w", "first.b"}),
    "everything_nan": (
        lambda params, x, dy, right: jax.tree.map(lambda d: d * jnp.nan, right),
        {"first.w", "first.b", "second.w", "second.b"},
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_wrong_rule_is_found(name: str) -> None:
    mistake, wrong = MISTAKES[name]
    # Square weights: a transposed gradient fits.
    model = fbp.Serial(first=fbp.Dense(3, 5), second=Wrong(fbp.Dense(5, 5), mistake))
    check = checked(model, batch(0, 7, 3, 5))
    assert not check.ok
    found = {leaf.path for leaf in check.leaves if not leaf.ok}
    # What is wrong on the way to `first` is wrong on the way to x.
    beyond = {"x"} if "first.w" in wrong else set()
    assert found == {f"model.{path}" for path in wrong} | beyond
    with pytest.raises(WrongGradientError, match=r"^the hand-written gradient differs") as caught:
        check.raise_if_wrong()
    for leaf in check.leaves:
        assert (f" {leaf.path} [" in str(caught.value)) == (leaf.path in found)
    assert str(check).count("WRONG") == len(found)


def test_a_rule_wrong_in_the_working_precision_alone_is_found() -> None:
    """Right in float64, and in float32 summed in bfloat16."""

    def coarse(d: Any) -> Any:
        return d if d.dtype == jnp.float64 else d.astype(jnp.bfloat16).astype(d.dtype)

    model = Wrong(fbp.Dense(5, 5), changed("w", coarse))
    check = checked(model, batch(0, 7, 5, 5))
    assert {leaf.path for leaf in check.leaves if not leaf.ok} == {"model.w"}
    wrong = next(leaf for leaf in check.leaves if leaf.path == "model.w")
    assert wrong.error64 < 1e-12 < wrong.error


def test_a_wrong_loss_is_found() -> None:
    @dataclasses.dataclass(frozen=True)
    class Half(fbp.MeanSquaredError):
        def element(self, y: Any, target: Any) -> Any:
            loss, slope = super().element(y, target)
            return loss, slope / 2

    check = checked(fbp.Dense(3, 5), batch(0, 7, 3, 5), Half())
    assert not any(leaf.ok for leaf in check.leaves)


@pytest.mark.parametrize(("size", "keyed"), [(3, False), (3, True), (100, True)])
def test_microbatches_and_keys(size: int, keyed: bool) -> None:
    model = fbp.Serial(Noise(), fbp.Dense(3, 2), Noise(cheap=False))
    whole = objective(model)
    params = whole.init(jax.random.key(0))
    key = jax.random.key(1) if keyed else None
    check = fbp.cross_check(fbp.Microbatch(whole, size), params, batch(0, 7, 3, 2), key)
    assert check.ok, str(check)


def test_a_wrong_rule_is_found_in_parts() -> None:
    mistake, _ = MISTAKES["db_halved"]
    whole = objective(Wrong(fbp.Dense(3, 2), mistake))
    params = whole.init(jax.random.key(0))
    check = fbp.cross_check(fbp.Microbatch(whole, 3), params, batch(0, 7, 3, 2))
    assert {leaf.path for leaf in check.leaves if not leaf.ok} == {"model.b"}


def test_a_batch_that_proves_nothing_is_refused() -> None:
    model = objective(fbp.Dense(3, 2))
    params = model.init(jax.random.key(0))
    x, target = batch(0, 7, 3, 2)
    with pytest.raises(FloatingPointError, match=r"^the loss is nan on the batch"):
        fbp.cross_check(model, params, (x.at[0].set(jnp.nan), target))
    with pytest.raises(FloatingPointError, match=r"^the loss is inf on the batch"):
        fbp.cross_check(model, params, (x, target.at[0].set(jnp.inf)))


def test_zero_gradients_pass_and_must_be_zero() -> None:
    whole = objective(fbp.Dense(3, 2))
    params = whole.init(jax.random.key(0))
    x, _ = batch(0, 7, 3, 2)
    y, _ = whole.model.forward(params.model, x)
    target = fbp.Weighted(y, jnp.zeros(7))
    assert fbp.cross_check(whole, params, (x, target)).ok

    def biased(params: Any, x: Any, dy: Any, right: Any) -> Any:
        return jax.tree.map(lambda d: d + 1e-9, right)

    wrong = objective(Wrong(fbp.Dense(3, 2), biased))
    assert not fbp.cross_check(wrong, params, (x, target)).ok


@dataclasses.dataclass(frozen=True)
class Rule(fbp.Layer):
    """A layer from functions, with one parameter p that starts at `first`."""

    first: float
    f: Callable[[Any, Any], Any]
    df: Callable[[Any, Any, Any], Any]

    def init(self, key: Any) -> Any:
        return {"p": jnp.asarray(self.first)}

    def forward(self, params: Any, x: Any, key: Any = None) -> Any:
        return self.f(params["p"], x), ()

    def backward(self, params: Any, x: Any, res: Any, dy: Any) -> Any:
        dp, dx = self.df(params["p"], x, dy)
        return {"p": dp}, dx


# Each is right at the parameter it starts from, or for all that training looks at.
HIDDEN = {
    "w_forgotten_in_dx": Rule(1.0, lambda p, x: p * x, lambda p, x, dy: ((x * dy).sum(), dy)),
    "b_squared_forgotten": Rule(0.0, lambda p, x: x + p + p**2, lambda p, x, dy: (dy.sum(), dy)),
    "branch_forgotten_in_dx": Rule(
        0.0, lambda p, x: x + p * jnp.tanh(x), lambda p, x, dy: ((jnp.tanh(x) * dy).sum(), dy)
    ),
    "dx_of_the_first_layer": Rule(
        1.0, lambda p, x: p * x, lambda p, x, dy: ((x * dy).sum(), 100 * p * dy)
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_the_first_parameters_hide_is_found(name: str) -> None:
    whole = objective(HIDDEN[name])
    data = batch(0, 7, 3, 3)
    assert not fbp.cross_check(whole, whole.init(jax.random.key(0)), data).ok


@pytest.mark.parametrize(
    ("dparams", "words"),
    [
        (
            lambda dp: None,
            "Rule.backward: expected dparams to be like params, an array float32[] at",
        ),
        (lambda dp: {"p": dp, "q": dp}, "an array float32[] at ['p'], got a dict of p, q"),
        (lambda dp: dp.astype(jnp.bfloat16), "expected float32[] for model.p, got bfloat16[]"),
        (lambda dp: jnp.stack([dp, dp]), "got an array float32[2]"),
    ],
)
def test_a_gradient_of_another_form_is_told(dparams: Any, words: str) -> None:
    def df(p: Any, x: Any, dy: Any) -> Any:
        return dparams((x * dy).sum()), p * dy

    whole = objective(Rule(1.0, lambda p, x: p * x, df))
    with pytest.raises(WrongGradientError) as error:
        fbp.cross_check(whole, whole.init(jax.random.key(0)), batch(0, 7, 3, 3))
    assert words in str(error.value)


def test_an_input_of_integers_has_no_gradient_to_check() -> None:
    x = jnp.arange(6) % 4
    whole = objective(Lookup(4, 2))
    check = fbp.cross_check(whole, whole.init(jax.random.key(0)), (x, jnp.ones((6, 2))))
    assert check.ok
    assert [leaf.path for leaf in check.leaves] == ["model.table"]


def test_noise_does_not_hide_a_rule_wrong_in_the_working_precision() -> None:
    def coarse(d: Any) -> Any:
        return d if d.dtype == jnp.float64 else 2 * d

    noisy = fbp.Serial(first=Noise(), second=Wrong(fbp.Dense(3, 2), changed("w", coarse)))
    check = checked(noisy, batch(0, 7, 3, 2), key=jax.random.key(1))
    assert {leaf.path for leaf in check.leaves if not leaf.ok} == {"model.second.w"}


# Right at the largest parameter whose square float32 holds; beside it the square overflows.
EDGE = 0.9999 * float(jnp.finfo(jnp.float32).max) ** 0.5


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_what_overflows_beside_the_parameters_does_not_count(factor: float) -> None:
    # y = (p^2 / EDGE^2) x, written so that p^2 is formed.
    def f(p: Any, x: Any) -> Any:
        return p**2 / EDGE**2 * x

    def df(p: Any, x: Any, dy: Any) -> Any:
        return factor * 2 * p / EDGE**2 * (x * dy).sum(), p**2 / EDGE**2 * dy

    whole = objective(Rule(EDGE, f, df))
    check = fbp.cross_check(whole, whole.init(jax.random.key(0)), batch(0, 7, 3, 3))
    assert check.ok == (factor == 1.0)


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("size", [None, 3])
def test_the_input_is_what_prepare_makes(size: int | None, wrong: bool) -> None:
    """Of a batch that is no pair; the noise is that of the key, in both gradients."""

    def noised(x: Any, key: Any) -> Any:
        noise = 0 if key is None else jax.random.normal(key, x.shape)
        return {"x": x + noise}, x[:, :2]

    def change(d: Any) -> Any:
        return 2 * d if wrong else d

    model = fbp.Serial(fbp.Pick("x"), Wrong(fbp.Dense(3, 2), changed("w", change)))
    whole: Any = fbp.Objective(model, fbp.MeanSquaredError(), noised)
    params, x = whole.init(jax.random.key(0)), jnp.ones((7, 3))
    if size is not None:
        whole = fbp.Microbatch(whole, size)
    check = fbp.cross_check(whole, params, x, jax.random.key(1))
    assert {leaf.path for leaf in check.leaves} >= {"x.x"}
    assert {leaf.path for leaf in check.leaves if not leaf.ok} == (
        {"model.1.w"} if wrong else set()
    )
