"""Layers inside other people's autodiff, and other people's functions as layers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import AddLookup, Cross, Lookup, Noise
from jax import lax
from jax.dtypes import float0

import fbp
from fbp._tree import named_leaves

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (7, 3))


def close(got: Any, wanted: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for (name, a), b in zip(named_leaves(got).items(), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype, name
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)


@dataclasses.dataclass(frozen=True)
class Marked(fbp.Layer):
    """y = x, and a backward that says it was used: dx = 100 dy."""

    def forward(self, params: Any, x: Any, key: Any = None) -> tuple[Any, Any]:
        return x, ()

    def backward(self, params: Any, x: Any, res: Any, dy: Any) -> tuple[Any, Any]:
        return params, 100 * dy


# Out


def test_the_gradient_is_the_layers_own() -> None:
    layer = fbp.Serial(fbp.Dense(3, 5), fbp.Tanh(), fbp.Dense(5, 2))
    params, dy = layer.init(KEY), jax.random.normal(KEY, (7, 2))
    f = fbp.to_jax(layer)
    assert f.__name__ == "Serial"
    y, pull = jax.vjp(f, params, X)
    own, res = layer.forward(params, X)
    close(y, own)
    close(pull(dy), layer.backward(params, X, res, dy))
    assert jax.grad(lambda x: fbp.to_jax(Marked())((), x).sum())(1.0) == 100


def test_under_jit_vmap_and_scan() -> None:
    layer = fbp.Dense(3, 3)
    f = fbp.to_jax(layer)
    params = layer.init(KEY)

    def plain(params: Any, x: Any) -> Any:
        return x @ params["w"] + params["b"]

    def twice(f: Any) -> Any:
        def loss(params: Any, x: Any) -> Any:
            y, _ = lax.scan(lambda x, _: (jnp.tanh(f(params, x)), None), x, length=2)
            return (jax.vmap(f, (None, 0))(params, y) ** 2).sum()

        return jax.jit(jax.grad(loss, (0, 1)))

    close(twice(f)(params, X), twice(plain)(params, X))
    each = jax.vmap(jax.grad(lambda p, x: f(p, x).sum(), (0, 1)), (None, 0))
    wanted = jax.vmap(jax.grad(lambda p, x: plain(p, x).sum(), (0, 1)), (None, 0))
    close(each(params, X), wanted(params, X))


def test_a_key_and_integers_have_no_gradient() -> None:
    noisy = fbp.to_jax(Noise())
    y, pull = jax.vjp(noisy, (), X, KEY)
    close(y, Noise().forward((), X, KEY)[0])
    _, dx, dkey = pull(jnp.ones_like(X))
    close(dx, Noise().backward((), X, KEY, jnp.ones_like(X))[1])
    assert dkey.dtype == float0
    close(noisy((), X), X)
    close(noisy((), X, key=KEY), y)

    table = Lookup(5, 3)
    i = jnp.array([1, 4, 1])
    grad = jax.grad(lambda p, i: fbp.to_jax(table)(p, i).sum(), (0, 1), allow_int=True)
    dparams, di = grad(table.init(KEY), i)
    np.testing.assert_array_equal(dparams["table"][:, 0], [0, 2, 0, 0, 1])
    assert di.dtype == float0
    both = fbp.to_jax(AddLookup(5, 3))
    _, pull = jax.vjp(both, table.init(KEY), (i, X[:3]))
    _, (di, dv) = pull(jnp.ones((3, 3)))
    assert di.dtype == float0
    close(dv, jnp.ones((3, 3)))


def test_a_loss_keeps_its_gradient() -> None:
    loss = fbp.SoftmaxCrossEntropy()
    params, target = loss.init(KEY), jnp.arange(7) % 3
    f = fbp.to_jax(loss)
    assert f.__name__ == "SoftmaxCrossEntropy"
    value, dparams, dy = loss.value_and_grad(params, X, target)
    close(f(params, X, target), value)
    got, gradient = jax.value_and_grad(lambda p, y: f(p, y, target), (0, 1))(params, X)
    close((got, *gradient), (value, dparams, dy))
    # It is scaled by what it moves, and can be one of many.
    close(jax.grad(lambda y: 3 * f(params, y, target))(X), 3 * dy)
    many = jax.vmap(lambda y, t: f(params, y[None], t[None]))
    close(jax.grad(lambda y: many(y, target).mean())(X), dy)


def test_a_target_is_a_constant() -> None:
    f = fbp.to_jax(fbp.MeanSquaredError())
    dtarget = jax.grad(f, 2)((), X, X + 1)
    np.testing.assert_array_equal(dtarget, jnp.zeros_like(X))
    weighted = fbp.Weighted(X + 1, jnp.ones(7).at[0].set(0))
    assert (jax.grad(f, 1)((), X, weighted)[0] == 0).all()


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (fbp.Dense(3, 5), X),
        (Cross(), {"a": X, "b": X + 1}),
        (fbp.from_jax(lambda params, x: jnp.tanh(x)), X),
    ],
    ids=["dense", "cross", "from_jax"],
)
def test_check_finds_nothing(layer: fbp.Layer, x: Any) -> None:
    report = fbp.check(fbp.to_jax(layer), layer.init(KEY), x, budget="fast")
    assert report.verdict == "OK", str(report)


@pytest.mark.slow
@pytest.mark.parametrize("key", [(), (KEY,)], ids=["evaluation", "training"])
def test_check_finds_nothing_in_a_network(key: tuple[Any, ...]) -> None:
    layer = fbp.Serial(fbp.Dense(3, 5), Noise(), fbp.Stack(fbp.Residual(fbp.Dense(5, 5)), 2))
    report = fbp.check(fbp.to_jax(layer), layer.init(KEY), X, *key)
    assert report.verdict == "OK", str(report)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (fbp.MeanSquaredError(), X + 1),
        (fbp.SoftmaxCrossEntropy(), jnp.arange(7) % 3),
        (fbp.UnembedCrossEntropy(3, 11, chunk=2), jnp.arange(7)),
    ],
    ids=["squares", "softmax", "unembed"],
)
def test_check_finds_nothing_in_a_loss(loss: fbp.Loss, target: Any) -> None:
    report = fbp.check(fbp.to_jax(loss), loss.init(KEY), X, target)
    assert report.verdict == "OK", str(report)


def test_neither_a_layer_nor_a_loss() -> None:
    with pytest.raises(
        TypeError, match=r"^to_jax: expected a Layer or a Loss, got the function wave$"
    ):
        fbp.to_jax(wave)  # type: ignore[arg-type]


# In


def wave(params: Any, x: Any) -> Any:
    """Something without a rule of its own."""
    return x + jnp.sin(params["w"] * x)


def draw(key: Any) -> Any:
    """Its parameters."""
    return {"w": jax.random.normal(key, (3,))}


def test_it_says_what_it_is() -> None:
    layer = fbp.from_jax(wave, draw)
    assert repr(layer) == "Autodiff(wave)"
    assert repr(fbp.from_jax(lambda params, x: x, name="identity")) == "Autodiff(identity)"
    assert "by autodiff" in (fbp.from_jax.__doc__ or "")
    assert layer == fbp.from_jax(wave, draw)
    assert hash(layer) == hash(fbp.from_jax(wave, draw))
    table = fbp.summary(fbp.Serial(wave=layer, dense=fbp.Dense(3, 2)), X)
    assert "wave: Autodiff" in str(table)
    # What autodiff keeps, as in `jax.grad`: the cosine and w in its rank; not params and x.
    assert (table.rows[1].params, table.rows[1].kept) == (3, X.nbytes + 12)
    assert fbp.summary(fbp.Remat(layer), X).kept_bytes == 0


def test_its_gradient_is_that_of_jax() -> None:
    layer = fbp.from_jax(wave, draw)
    params, dy = layer.init(KEY), X + 1
    y, res = layer.forward(params, X)
    wanted, pull = jax.vjp(wave, params, X)
    _, cosine = jax.tree.leaves(res)
    close(cosine, jnp.cos(params["w"] * X))
    close(y, wanted)
    close(layer.backward(params, X, res, dy), pull(dy))
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, X))
    dparams, dx = layer.backward(*half, layer.forward(*half)[1], dy)
    assert dparams["w"].dtype == dx.dtype == jnp.bfloat16


@pytest.mark.slow
def test_it_trains_among_layers_with_rules() -> None:
    model = fbp.Serial(
        fbp.Dense(3, 3), fbp.Stack(fbp.from_jax(wave, draw), 4), fbp.Remat(fbp.from_jax(wave, draw))
    )
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    params = objective.init(KEY)
    assert fbp.cross_check(objective, params, (X, X + 1)).ok


def test_a_key_reaches_it_and_comes_back() -> None:
    def drop(params: Any, x: Any, key: Any) -> Any:
        return x if key is None else jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * x, 0)

    layer = fbp.Stack(fbp.from_jax(drop), 3)
    y, res = layer.forward((), X, KEY)
    _, dx = layer.backward((), X, res, jnp.ones_like(X))
    close(dx, jnp.where(y == 0, 0, 8.0))
    close(layer.forward((), X)[0], X)


def test_trees_and_integers() -> None:
    def gather(params: Any, x: Any) -> Any:
        i, v = x
        return {"v": params["table"][i] + v, "i": i + params["by"]}

    layer = fbp.from_jax(gather)
    params = {"table": jnp.ones((5, 3)), "by": jnp.int32(1)}
    i = jnp.array([1, 4, 1])
    _, res = layer.forward(params, (i, X[:3]))
    for di in (None, np.zeros(3, float0)):
        dparams, (none, dv) = layer.backward(
            params, (i, X[:3]), res, {"v": jnp.ones((3, 3)), "i": di}
        )
        np.testing.assert_array_equal(dparams["table"][:, 0], [0, 2, 0, 0, 1])
        assert none is None
        assert dparams["by"] is None
        close(dv, jnp.ones((3, 3)))
    f = fbp.to_jax(layer)
    got = jax.grad(lambda v: f(params, (i, v))["v"].sum())(X[:3])
    close(got, jnp.ones((3, 3)))


def test_what_is_not_a_function() -> None:
    with pytest.raises(TypeError, match=r"^from_jax: expected f to be a function, got 3$"):
        fbp.from_jax(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^from_jax: expected init to be a function, got \{\}$"):
        fbp.from_jax(wave, {})  # type: ignore[arg-type]

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, params: Any, x: Any) -> Any:
            return x

    with pytest.raises(TypeError, match=r"expected f to be hashable, got Unhashable, which is not"):
        fbp.from_jax(Unhashable())
