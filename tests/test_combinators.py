"""What combinators keep, what memory they need, and how they share a key."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Lookup, Noise, assert_close, cast, normal_like, rule

import fbp
from fbp._tree import nbytes

DENSE, TANH = fbp.Dense(3, 3), fbp.Tanh()


def params_of(layer: fbp.Layer, seed: int = 0) -> Any:
    return layer.init(jax.random.key(seed))


def residuals(layer: fbp.Layer, x: Any, key: Any = None) -> Any:
    _, res = layer.forward(params_of(layer), x, key)
    return res


X = jnp.ones((7, 3))


def test_serial_keeps_the_inputs_of_its_layers_but_the_first() -> None:
    layer = fbp.Serial(DENSE, DENSE, DENSE)
    params = params_of(layer)
    _, res = layer.forward(params, X)
    x1, _ = DENSE.forward(params[0], X)
    x2, _ = DENSE.forward(params[1], x1)
    assert jax.tree.structure(res) == jax.tree.structure(((None, ()), (x1, ()), (x2, ())))
    np.testing.assert_array_equal(res[1][0], x1)
    np.testing.assert_array_equal(res[2][0], x2)


def test_serial_does_not_keep_what_is_cheap() -> None:
    scale = fbp.Scale((3,))
    layer = fbp.Serial(a=DENSE, b=TANH, c=scale, d=DENSE, e=TANH)
    res = residuals(layer, X)
    # Kept: the output of a, which b takes; of d, which e takes. The inputs of c and d come again.
    kept = {name: part[0] is not None for name, part in res.items()}
    assert kept == {"a": False, "b": True, "c": False, "d": False, "e": True}
    assert nbytes(res) == 2 * X.nbytes


def test_cheap_chains_keep_nothing() -> None:
    layer = fbp.Serial(TANH, fbp.Serial(fbp.Scale(), TANH), fbp.Residual(TANH), fbp.Bias())
    assert layer.cheap
    assert nbytes(residuals(layer, X)) == 0


def test_what_is_cheap() -> None:
    assert fbp.Serial().cheap
    assert fbp.Serial(TANH, fbp.Bias()).cheap
    assert not fbp.Serial(TANH, DENSE).cheap
    assert fbp.Residual(TANH).cheap
    assert not fbp.Residual(DENSE).cheap
    assert fbp.Parallel(TANH, fbp.Relu()).cheap
    assert not fbp.Parallel(TANH, DENSE).cheap
    assert not fbp.Stack(TANH, 2).cheap
    assert not fbp.Remat(TANH).cheap


def test_remat_keeps_the_key_alone() -> None:
    layer = fbp.Remat(fbp.Serial(DENSE, TANH, DENSE, TANH))
    assert residuals(layer, X) is None
    key = jax.random.key(0)
    assert residuals(layer, X, key) is key
    assert nbytes(residuals(fbp.Serial(layer, DENSE), X)) == X.nbytes


def test_stack_keeps_the_input_of_every_copy() -> None:
    x, res = residuals(fbp.Stack(DENSE, 5), X)
    assert (x.shape, res) == ((5, 7, 3), ())
    np.testing.assert_array_equal(x[0], X)


def test_params_have_the_names_of_the_layers() -> None:
    named = fbp.Serial(first=DENSE, act=TANH, branches=fbp.Parallel(left=DENSE, right=DENSE))
    params = params_of(named)
    assert list(params) == ["first", "act", "branches"]
    assert params["act"] == ()
    assert list(params["branches"]) == ["left", "right"]
    y, _ = named.forward(params, X)
    assert list(y) == ["left", "right"]
    unnamed = params_of(fbp.Serial(DENSE, TANH, fbp.Parallel(DENSE, DENSE)))
    assert isinstance(unnamed, tuple)
    assert isinstance(unnamed[2], tuple)
    # Different layers start differently.
    assert not np.array_equal(unnamed[2][0]["w"], unnamed[2][1]["w"])
    assert not np.array_equal(params_of(named, 0)["first"]["w"], params_of(named, 1)["first"]["w"])


def test_a_combinator_computes_what_it_says() -> None:
    params, other = params_of(DENSE, 1), params_of(DENSE, 2)

    def f(p: Any, x: Any) -> Any:
        return DENSE.forward(p, x)[0]

    def y(layer: fbp.Layer, params: Any) -> Any:
        return layer.forward(params, X)[0]

    serial = f(other, f(params, X))
    np.testing.assert_array_equal(y(fbp.Serial(DENSE, DENSE), (params, other)), serial)
    np.testing.assert_array_equal(y(fbp.Residual(DENSE), params), X + f(params, X))
    left, right = y(fbp.Parallel(DENSE, DENSE), (params, other))
    np.testing.assert_array_equal(left, f(params, X))
    np.testing.assert_array_equal(right, f(other, X))
    np.testing.assert_array_equal(y(fbp.Remat(DENSE), params), f(params, X))
    np.testing.assert_array_equal(y(fbp.Serial(), ()), X)


def stacked(trees: Any) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.parametrize("keep", ["inputs", 3, 9])
def test_what_a_stack_keeps_changes_no_number(keep: Any) -> None:
    block = fbp.Serial(DENSE, Noise(cheap=False))
    stack = fbp.Stack(block, 8, keep)  # of threes, two are left over
    params, key = params_of(stack), jax.random.key(0)
    got, want = (
        jax.jit(functools.partial(rule, layer))(params, X, normal_like(2, X), key)
        for layer in (stack, fbp.Stack(block, 8))
    )
    assert_close(got, want, 1e-6)
    _, ((*inputs,), keys) = stack.forward(params, X, key)
    size = 1 if keep == "inputs" else min(keep, 8)
    assert [len(x) for x in inputs] == ([1] if 8 % size else []) + [8 // size]
    assert keys.shape == (8,)


@pytest.mark.parametrize("key", [None, 0], ids=["no_key", "key"])
@pytest.mark.parametrize("n", [1, 3])
def test_stack_is_the_unrolled_serial(n: int, key: Any, x64: None) -> None:
    block = fbp.Serial(fbp.Dense(3, 3), Noise(), fbp.Tanh(), Noise(cheap=False), fbp.Dense(3, 3))
    stack, serial = fbp.Stack(block, n), fbp.Serial(*[block] * n)
    params = cast(params_of(serial), jnp.float64)
    x, dy = (normal_like(seed, X.astype(jnp.float64)) for seed in (1, 2))
    key = None if key is None else jax.random.key(key)
    dparams, dx = jax.jit(functools.partial(rule, serial))(params, x, dy, key)
    got, dgot = jax.jit(functools.partial(rule, stack))(stacked(params), x, dy, key)
    # The same arithmetic, fused in other ways.
    assert_close(got, stacked(dparams), 1e-12)
    assert_close(dgot, dx, 1e-12)


def test_stack_of_none_is_the_identity() -> None:
    layer = fbp.Stack(DENSE, 0)
    params = params_of(layer)
    assert params["w"].shape == (0, 3, 3)
    y, res = layer.forward(params, X)
    np.testing.assert_array_equal(y, X)
    dparams, dx = layer.backward(params, X, res, 2 * X)
    np.testing.assert_array_equal(dx, 2 * X)
    assert jax.tree.map(jnp.shape, dparams) == jax.tree.map(jnp.shape, params)


def test_copies_of_a_stack_start_differently() -> None:
    w = params_of(fbp.Stack(DENSE, 3))["w"]
    assert len({float(one[0, 0]) for one in w}) == 3


# Keys.


class Recorder(Noise):
    """Noise that shows the factor it drew: y = factor."""

    def forward(self, params: Any, x: Any, key: Any = None) -> Any:
        return self._factor(x, key), key


@pytest.mark.parametrize(
    "layer",
    [
        fbp.Parallel(Recorder(), Recorder(), Recorder()),
        fbp.Parallel(Recorder(), fbp.Serial(Recorder()), fbp.Serial(TANH, Recorder())),
        fbp.Parallel(fbp.Parallel(Recorder(), Recorder()), fbp.Parallel(Recorder(), Recorder())),
        fbp.Parallel(fbp.Residual(Recorder()), fbp.Remat(Recorder())),
    ],
    ids=["parallel", "serial", "nested", "wrappers"],
)
def test_layers_draw_different_noise(layer: fbp.Layer) -> None:
    y, _ = layer.forward(params_of(layer), jnp.zeros(3), jax.random.key(0))
    noises = jax.tree.leaves(y)
    assert len({float(noise[0]) for noise in noises}) == len(noises)


def test_copies_draw_different_noise() -> None:
    """A stack of multiplicative noise on ones: its logarithm is a sum of the copies' draws."""
    layer, key = fbp.Stack(Noise(std=0.1), 2), jax.random.key(0)
    y, (_, keys) = layer.forward((), jnp.ones(3), key)
    factors = [Noise(std=0.1).forward((), jnp.ones(3), k)[0] for k in keys]
    assert not np.array_equal(factors[0], factors[1])
    np.testing.assert_allclose(y, factors[0] * factors[1], rtol=1e-6)


@pytest.mark.parametrize("wrap", [lambda f: f, fbp.Remat, fbp.Residual, lambda f: fbp.Stack(f, 3)])
def test_backward_uses_the_noise_of_the_forward(wrap: Any, x64: None) -> None:
    """These layers are linear in x at a given key: y = A x, so dy . (A x) = (A^T dy) . x."""
    layer = wrap(fbp.Serial(Noise(), fbp.Scale((3,)), Noise(), Noise(cheap=False)))
    params = cast(params_of(layer), jnp.float64)
    x, dy = (normal_like(seed, X.astype(jnp.float64)) for seed in (1, 2))
    forward, backward = jax.jit(layer.forward), jax.jit(layer.backward)
    for seed in range(2):
        y, res = forward(params, x, jax.random.key(seed))
        _, dx = backward(params, x, res, dy)
        # 21 terms, each a few roundings; the terms themselves set the scale.
        scale = float(jnp.abs(dy * y).sum())
        np.testing.assert_allclose((dy * y).sum(), (dx * x).sum(), rtol=0, atol=1e-14 * scale)


def test_a_sum_is_computed_again_with_the_noise_it_had() -> None:
    layer = fbp.Sum(Noise(), TANH, Noise())
    params = params_of(layer)
    y, res = layer.forward(params, X, jax.random.key(0))
    np.testing.assert_array_equal(layer.recompute(params, X, res), y)


def test_integers_have_no_gradient_through_combinators() -> None:
    lookup, x = Lookup(5, 3), jnp.asarray([0, 4, 4])
    for layer in (
        fbp.Serial(lookup, DENSE),
        fbp.Remat(lookup),
        fbp.Parallel(lookup, fbp.Serial(lookup, DENSE)),
        fbp.Serial(fbp.Serial(lookup)),
    ):
        params = params_of(layer)
        y, res = layer.forward(params, x)
        assert layer.backward(params, x, res, y)[1] is None


# Memory, as the compiler plans it.


def temporary_bytes(layer: fbp.Layer, x: Any, how: Any = rule) -> int:
    params = jax.eval_shape(lambda: params_of(layer))
    x = jax.ShapeDtypeStruct(*x)
    dy = jax.eval_shape(lambda p, x: layer.forward(p, x)[0], params, x)
    compiled = jax.jit(functools.partial(how, layer)).lower(params, x, dy).compile()
    return compiled.memory_analysis().temp_size_in_bytes


BLOCK = fbp.Serial(fbp.Dense(8, 64), fbp.Tanh(), fbp.Dense(64, 8))
WIDE = ((512, 8), jnp.float32)
HIDDEN = 512 * 64 * 4


def checkpointed(layer: Any, params: Any, x: Any, dy: Any) -> Any:
    """The same chain by autodiff, each of its layers under `jax.checkpoint`."""

    def f(params: Any, x: Any) -> Any:
        for one, p in zip(layer.layers, params, strict=True):
            x = jax.checkpoint(lambda p, x, one=one: one.forward(p, x)[0])(p, x)
        return x

    return jax.vjp(f, params, x)[1](dy)


def test_remat_needs_less_memory() -> None:
    """As little as `jax.checkpoint`, which has the same barrier around what it computes again.

    Without, the hidden layers of 8 blocks are alive at once; with, that of one, and the few buffers
    a block works with. The CPU compiler of jaxlib 0.10 drops the barriers too early, and shares
    what was to be computed again: there neither of the two saves anything.
    """
    chain = fbp.Serial(*[BLOCK] * 8)
    kept = temporary_bytes(chain, WIDE)
    again = temporary_bytes(fbp.Serial(*[fbp.Remat(BLOCK)] * 8), WIDE)
    control = temporary_bytes(chain, WIDE, checkpointed)
    assert kept >= 8 * HIDDEN
    assert again <= control + HIDDEN / 2
    if control < kept:
        assert again <= kept - 4 * HIDDEN


def test_remat_in_a_stack_needs_less_memory() -> None:
    kept = temporary_bytes(fbp.Stack(BLOCK, 8), WIDE)
    again = temporary_bytes(fbp.Stack(fbp.Remat(BLOCK), 8), WIDE)
    assert kept >= 8 * HIDDEN
    assert again <= kept - 4 * HIDDEN


def test_cheap_outputs_are_not_in_memory_either() -> None:
    """With 3 activations in a row a block holds no more than with one, but for what is in work."""
    one = fbp.Serial(fbp.Dense(8, 64), fbp.Tanh(), fbp.Dense(64, 8))
    three = fbp.Serial(fbp.Dense(8, 64), fbp.Tanh(), fbp.Scale(), fbp.Silu(), fbp.Dense(64, 8))
    more = temporary_bytes(fbp.Stack(three, 8), WIDE) - temporary_bytes(fbp.Stack(one, 8), WIDE)
    assert more <= 3 * HIDDEN


def test_a_stack_compiles_to_one_copy() -> None:
    def size(n: int) -> int:
        layer = fbp.Stack(BLOCK, n)
        params = jax.eval_shape(lambda: params_of(layer))
        x = jax.ShapeDtypeStruct(*WIDE)
        text = jax.jit(functools.partial(rule, layer)).lower(params, x, x).as_text()
        return len(text.splitlines())

    assert size(3) == size(30)
