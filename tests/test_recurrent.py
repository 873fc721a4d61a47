"""Cells and `Recurrent`: truncation, PyTorch beside them, one step beside many, bad input."""

import dataclasses
import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import assert_close, auto, cast, normal_like, rule

import fbp

CELLS = {"lstm": fbp.LSTMCell(3, 5), "gru": fbp.GRUCell(3, 5)}
ROUNDING = 1e-12


def drawn(cell: Any, steps: int = 7, batch: int = 2) -> tuple[Any, Any]:
    """Random params and x in float64."""
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), shapes)
    return params, jnp.asarray(rng.normal(size=(batch, steps, cell.n_in)))


def unrolled(cell: Any, cuts: set[int], params: Any, x: Any) -> Any:
    """A Python loop over the cell's own forward, its state a constant where it is cut."""
    state, ys = cell.initial(params, x[:, 0]), []
    for t in range(x.shape[1]):
        if t in cuts:
            state = jax.lax.stop_gradient(state)
        (y, state), _ = cell.forward(params, (x[:, t], state))
        ys.append(y)
    return jnp.stack(ys, 1)


@pytest.mark.parametrize(("truncate", "cuts"), [(None, ()), (2, (2, 4)), (4, (4,))])
@pytest.mark.parametrize("name", CELLS)
def test_truncation_is_a_stop_gradient_at_its_multiples(
    name: str, truncate: int | None, cuts: tuple[int, ...], x64: None
) -> None:
    cell = CELLS[name]
    params, x = drawn(cell, steps=5)
    layer = fbp.Recurrent(cell, truncate)
    reference = functools.partial(unrolled, cell, set(cuts))
    y, _ = layer.forward(params, x)
    assert_close(y, reference(params, x), ROUNDING)
    dy = normal_like(1, y)
    want = jax.jit(lambda params, x: jax.vjp(reference, params, x)[1](dy))(params, x)
    assert_close(jax.jit(functools.partial(rule, layer))(params, x, dy), want, ROUNDING)


def test_truncation_changes_gradients_and_no_values(x64: None) -> None:
    params, x = drawn(CELLS["lstm"])
    whole, cut = fbp.Recurrent(CELLS["lstm"]), fbp.Recurrent(CELLS["lstm"], truncate=2)
    y, _ = jax.jit(whole.forward)(params, x)
    np.testing.assert_array_equal(y, jax.jit(cut.forward)(params, x)[0])
    # Of the last step alone: x of the steps before the last cut gets nothing.
    dy = jnp.zeros_like(y).at[:, -1].set(1.0)
    _, dx = jax.jit(functools.partial(rule, cut))(params, x, dy)
    dx = np.asarray(dx)
    assert np.abs(dx[:, 6]).min() > 0
    np.testing.assert_array_equal(dx[:, :6], 0)
    _, dx = jax.jit(functools.partial(rule, whole))(params, x, dy)
    assert np.abs(dx).min() > 0


def test_long_sequences_keep_their_precision() -> None:
    """float32 beside jax.vjp in float32, after 200 steps: both err by rounding alone."""
    cell = fbp.LSTMCell(3, 5)
    with jax.enable_x64(True):
        params, x = drawn(cell, steps=200)
    params, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, x))
    layer = fbp.Recurrent(cell)
    dy = normal_like(1, layer.forward(params, x)[0])
    got = jax.jit(functools.partial(rule, layer))(params, x, dy)
    want = jax.jit(functools.partial(auto, layer))(params, x, dy)
    assert_close(got, want, 1e-4)


def test_an_empty_sequence_has_no_gradient() -> None:
    layer = fbp.Recurrent(CELLS["gru"])
    params = layer.init(jax.random.key(0))
    x = jnp.ones((2, 0, 3))
    y, res = jax.jit(layer.forward)(params, x)
    assert y.shape == (2, 0, 5)
    dparams, dx = jax.jit(layer.backward)(params, x, res, y)
    assert dx.shape == x.shape
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(dparams))


@pytest.mark.parametrize("name", CELLS)
def test_what_a_step_owes_is_rounded_once(name: str, x64: None) -> None:
    """To what the products with the parameters take; the state's gradient not at all."""
    cell = dataclasses.replace(CELLS[name], dtype=jnp.bfloat16)
    x_t = jax.ShapeDtypeStruct((2, 7, 3), jnp.bfloat16)
    params = normal_like(0, jax.eval_shape(cell.init, jax.random.key(0)))
    state = normal_like(1, jax.eval_shape(cell.initial, params, x_t))
    z = jax.eval_shape(cell.project, params, x_t)
    y, res = jax.eval_shape(cell.forward_step, params, z, state)
    # Any numbers are gates to the backward.
    args = params, state, normal_like(2, res), normal_like(3, y)
    da, dstate = cell.backward_step(*args)
    want, _ = jax.jit(cell.backward_step)(*cast(args, jnp.float64))
    for got, exact in zip(jax.tree.leaves(da), jax.tree.leaves(want), strict=True):
        assert got.dtype == jnp.bfloat16
        # Half an ulp; and where 1 - g^2 and the like cancel, what float32 loses.
        lost = 2.0**-20 * float(abs(exact).max())
        np.testing.assert_allclose(cast(got, jnp.float64), exact, rtol=2.0**-8, atol=lost)
    assert {leaf.dtype for leaf in jax.tree.leaves(dstate)} == {jnp.dtype("float32")}
    program = jax.make_jaxpr(cell.backward_step)(*args)
    (product,) = [eqn for eqn in program.eqns if eqn.primitive.name == "dot_general"]
    assert product.outvars[0].aval.dtype == jnp.float32


def test_the_memory_of_an_lstm_is_wide_whatever_x_is() -> None:
    cell = fbp.LSTMCell(3, 5, dtype=jnp.bfloat16)
    params = cell.init(jax.random.key(0))
    x_t = jnp.ones((2, 3), jnp.bfloat16)
    state = cell.initial(params, x_t)
    (y, after), _ = cell.forward(params, (x_t, state))
    assert (y.dtype, after.h.dtype, after.c.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, after)


def test_a_new_lstm_remembers() -> None:
    params = fbp.LSTMCell(3, 5).init(jax.random.key(0))
    np.testing.assert_array_equal(params["b"], np.repeat([0.0, 1.0, 0.0, 0.0], 5))
    u = params["u"][:, :5]
    np.testing.assert_allclose(u @ u.T, np.eye(5), atol=1e-5)


TORCH = [
    pytest.mark.torch,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed"),
]


@pytest.mark.parametrize("name", [pytest.param(name, marks=TORCH) for name in CELLS])
def test_beside_pytorch(name: str, x64: None) -> None:
    import torch

    cell = CELLS[name]
    params, x = drawn(cell)
    p = jax.tree.map(np.array, params)
    n = cell.n
    b_hh = np.zeros(len(p["b"]))
    if name == "gru":
        b_hh[2 * n :] = p["c"]
    theirs = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[name](3, 5, batch_first=True).double()
    with torch.no_grad():
        for parameter, value in (
            (theirs.weight_ih_l0, p["w"].T),
            (theirs.weight_hh_l0, p["u"].T),
            (theirs.bias_ih_l0, p["b"]),
            (theirs.bias_hh_l0, b_hh),
        ):
            parameter.copy_(torch.tensor(value))
    layer = fbp.Recurrent(cell)
    y, _ = layer.forward(params, x)
    dy = normal_like(1, y)
    dparams, dx = rule(layer, params, x, dy)

    x_t = torch.tensor(np.array(x), requires_grad=True)
    y_t, _ = theirs(x_t)
    y_t.backward(torch.tensor(np.array(dy)))
    assert_close(y, y_t.detach().numpy(), ROUNDING)
    assert_close(dx, x_t.grad.numpy(), ROUNDING)
    assert_close(dparams["w"], theirs.weight_ih_l0.grad.numpy().T, ROUNDING)
    assert_close(dparams["u"], theirs.weight_hh_l0.grad.numpy().T, ROUNDING)
    assert_close(dparams["b"], theirs.bias_ih_l0.grad.numpy(), ROUNDING)
    if name == "gru":
        assert_close(dparams["c"], theirs.bias_hh_l0.grad.numpy()[2 * n :], ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_fbp_check_finds_nothing(name: str) -> None:
    rng = np.random.default_rng(0)
    layer = fbp.Recurrent(CELLS[name])
    params = layer.init(jax.random.key(0))
    x = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
    report = fbp.check(layer, params, x)
    assert report.verdict == "OK", str(report)


def test_a_summary_shows_a_recurrent_layer_as_one() -> None:
    model = fbp.models.char_lstm(7, width=5, layers=2)
    summary = fbp.summary(model, jnp.zeros((2, 3), jnp.int32))
    assert [row.layer for row in summary.rows] == [
        *("Serial", "Embedding", "Recurrent", "Recurrent", "Unembed"),
    ]
    assert summary.rows[2].params == 2 * 5 * 20 + 20


@pytest.mark.parametrize(
    ("error", "make", "message"),
    [
        (TypeError, lambda: fbp.Recurrent(fbp.Tanh()), "Recurrent: expected a Cell, got Tanh()"),
        (
            ValueError,
            lambda: fbp.Recurrent(CELLS["gru"], truncate=0),
            "Recurrent: expected truncate to be 1 or more, got 0",
        ),
        (
            ValueError,
            lambda: fbp.models.char_lstm(0),
            "char_lstm: expected vocab, width and layers of 1 or more, got 0, 256, 2",
        ),
    ],
)
def test_wrong_arguments_are_refused(error: Any, make: Any, message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize("name", CELLS)
def test_wrong_input_is_refused(name: str) -> None:
    cell = CELLS[name]
    title, gates = type(cell).__name__, {"lstm": 4, "gru": 3}[name]
    params, layer = cell.init(jax.random.key(0)), fbp.Recurrent(cell)

    def refused(error: Any, owner: Any, params: Any, x: Any) -> str:
        with pytest.raises(error) as caught:
            owner.forward(params, x)
        return str(caught.value)

    ones = jnp.ones
    expected = f"{title}: expected last axis of x_t to be 3, got shape (7, 2, 4)"
    assert refused(ValueError, layer, params, ones((2, 7, 4))) == expected
    assert refused(ValueError, layer, params, ones(3)) == (
        "Recurrent: expected x (..., T, n_in), got shape (3,)"
    )
    assert refused(TypeError, layer, params, ones((7, 3), jnp.int32)) == (
        "Recurrent: expected x to be a float array, got int32"
    )
    assert refused(ValueError, layer, {"w": params["w"]}, ones((7, 3))).startswith(
        f"{title}: expected params of shapes {{'w': (3, {5 * gates}), 'u': (5, {5 * gates}), "
    )
    assert refused(TypeError, cell, params, ones((7, 3))).startswith(
        f"{title}: expected x to be a pair (x_t, state), got "
    )
    short = jax.tree.map(lambda a: a[..., :4], cell.initial(params, ones((2, 3))))
    assert refused(ValueError, cell, params, (ones((2, 3)), short)) == (
        f"{title}: expected last axis of h to be 5, got shape (2, 4)"
    )
