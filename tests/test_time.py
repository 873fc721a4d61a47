"""Layers of times and sequences: Sinusoidal and others, what is particular to each."""

from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import fbp

EPS = float(jnp.finfo(jnp.float64).eps)
ones = jnp.ones


# Sinusoidal.


@pytest.mark.parametrize("kind", [float, int])
def test_sines_and_cosines_beside_fifty_digits(kind: Any, x64: None) -> None:
    n, base, times = 8, 100.0, [0, 1, -3, 17, 1000]
    y, _ = fbp.Sinusoidal(n, base, jnp.float64).forward((), jnp.asarray(times, kind))
    with mpmath.workdps(50):
        frequencies = [mpmath.mpf(base) ** (-mpmath.mpf(2 * i) / n) for i in range(n // 2)]
        want = [
            [float(f(t * w)) for f in (mpmath.sin, mpmath.cos) for w in frequencies] for t in times
        ]
    # The frequency and the product are rounded: some ulp of the angle, which is at most 1000.
    np.testing.assert_allclose(y, want, rtol=0, atol=4 * EPS * 1000)


def test_the_gradient_by_a_time(x64: None) -> None:
    layer = fbp.Sinusoidal(4, base=9.0)
    x, dy = 2.5, np.asarray([1.0, -2.0, 3.0, 0.5])
    f = np.asarray([1.0, 1 / 3])
    want = f @ (np.cos(f * x) * dy[:2] - np.sin(f * x) * dy[2:])
    _, dx = layer.backward((), jnp.asarray(x), (), jnp.asarray(dy))
    np.testing.assert_allclose(dx, want, rtol=16 * EPS)


def test_an_integer_time_has_no_gradient_and_the_given_dtype() -> None:
    for kind in (jnp.int32, jnp.uint8):
        x = jnp.asarray([0, 3, 200], kind)
        layer = fbp.Sinusoidal(6, dtype=jnp.bfloat16)
        y, res = layer.forward((), x)
        assert y.dtype == jnp.bfloat16
        assert layer.backward((), x, res, y) == ((), None)
    wide, _ = fbp.Sinusoidal(6).forward((), x)
    np.testing.assert_array_equal(wide, fbp.Sinusoidal(6).forward((), x.astype(jnp.float32))[0])


def test_a_time_of_few_digits_is_embedded_in_float32() -> None:
    x = jnp.asarray([129.0, 3.03125, -0.5], jnp.bfloat16)
    y, _ = fbp.Sinusoidal(6).forward((), x)
    want, _ = fbp.Sinusoidal(6).forward((), x.astype(jnp.float32))
    np.testing.assert_array_equal(y, want.astype(jnp.bfloat16))
    dy = y * jnp.asarray(1.3, y.dtype)
    _, dx = fbp.Sinusoidal(6).backward((), x, (), dy)
    _, dwide = fbp.Sinusoidal(6).backward((), x.astype(jnp.float32), (), dy.astype(jnp.float32))
    np.testing.assert_array_equal(dx, dwide.astype(jnp.bfloat16))


def test_what_sinusoidal_refuses() -> None:
    for n in (0, 3, -2):
        with pytest.raises(ValueError, match=rf"^Sinusoidal: expected an even n of 2 .* got {n}$"):
            fbp.Sinusoidal(n)
    with pytest.raises(ValueError, match=r"^Sinusoidal: expected base above 0, got 0$"):
        fbp.Sinusoidal(2, base=0)
    for x, got in ((ones(3, bool), "bool"), (ones(3, jnp.complex64), "complex64"), (1.0, "float")):
        message = f"^Sinusoidal: expected x to be an array of floats or integers, got {got}$"
        with pytest.raises(TypeError, match=message):
            fbp.Sinusoidal(2).forward((), x)


# LinearRecurrence.


def line(seed: int, *shape: int, decay: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "a": decay * jnp.asarray(rng.normal(size=shape)),
        "b": jnp.asarray(rng.normal(size=shape)),
    }


def by_steps(x: Any, dy: Any) -> Any:
    """y, da and db, one place after another."""
    a, b, dy = (np.asarray(v) for v in (x["a"], x["b"], dy))
    h, da, dh = np.zeros(a.shape), np.zeros(a.shape), np.zeros(a.shape)
    for t in range(a.shape[-2]):
        h[..., t, :] = b[..., t, :] + (a[..., t, :] * h[..., t - 1, :] if t else 0)
    for t in reversed(range(a.shape[-2])):
        after = a[..., t + 1, :] * dh[..., t + 1, :] if t + 1 < a.shape[-2] else 0
        dh[..., t, :] = dy[..., t, :] + after
        da[..., t, :] = dh[..., t, :] * h[..., t - 1, :] if t else 0
    return h, da, dh


@pytest.mark.parametrize("places", [1, 2, 3, 7, 8, 64, 101])
def test_the_scan_is_the_recurrence(places: int, x64: None) -> None:
    x = line(0, 2, places, 3)
    dy = jnp.asarray(np.random.default_rng(1).normal(size=(2, places, 3)))
    layer = fbp.LinearRecurrence()
    y, res = layer.forward((), x)
    params, dx = layer.backward((), x, res, dy)
    assert params == ()
    for got, want in zip((y, dx["a"], dx["b"]), by_steps(x, dy), strict=True):
        # Terms of alternating sign, of which a product has two roundings a place.
        limit = 4 * places * EPS * np.abs(want).max(initial=1.0)
        np.testing.assert_allclose(got, want, rtol=0, atol=limit)


def test_what_decays_by_nothing_is_a_sum_and_by_all_is_itself() -> None:
    b = jnp.arange(1.0, 13.0).reshape(6, 2)
    layer = fbp.LinearRecurrence()
    y, res = layer.forward((), {"a": ones((6, 2)), "b": b})
    np.testing.assert_array_equal(y, jnp.cumsum(b, 0))
    y, res = layer.forward((), {"a": 0 * b, "b": b})
    np.testing.assert_array_equal(y, b)
    # The first a meets h = 0, and no gradient wraps round from the last place to it.
    _, dx = layer.backward((), {"a": 0 * b, "b": b}, res, b)
    np.testing.assert_array_equal(dx["a"][0], 0)
    np.testing.assert_array_equal(dx["a"][1:], b[1:] * b[:-1])


def test_the_residual_is_y_itself() -> None:
    """One array for the caller and for the backward."""
    y, res = fbp.LinearRecurrence().forward((), line(0, 5, 3))
    assert res is y


def test_a_long_recurrence_of_few_digits_is_added_in_float32() -> None:
    """In bfloat16 256 + 1 is 256."""
    b = jnp.asarray([256, 1, 1, 2], jnp.bfloat16)[:, None]
    x = {"a": jnp.ones_like(b), "b": b}
    layer = fbp.LinearRecurrence()
    y, res = layer.forward((), x)
    assert y.dtype == jnp.bfloat16
    assert y[-1] == 260
    _, dx = layer.backward((), x, res, b[::-1])
    assert dx["b"][0] == 260
    state = layer.start((), jax.tree.map(lambda v: v[0], x), 4)
    assert state.dtype == jnp.float32
    for t in range(4):
        y_t, state = layer.step((), jax.tree.map(lambda v, t=t: v[t], x), state)
        assert (y_t.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    assert state == 260


def test_a_and_b_may_differ_in_dtype() -> None:
    layer, wide = fbp.LinearRecurrence(), line(0, 5, 3)
    for few in "ab":
        x = {name: v.astype(jnp.bfloat16 if name == few else "float32") for name, v in wide.items()}
        y, res = layer.forward((), x)
        assert y.dtype == jnp.float32
        _, dx = layer.backward((), x, res, y)
        assert {name: d.dtype for name, d in dx.items()} == {n: v.dtype for n, v in x.items()}
        first = jax.tree.map(lambda v: v[0], x)
        y_0, _ = layer.step((), first, layer.start((), first, 5))
        assert y_0.dtype == jnp.float32


@pytest.mark.parametrize("cuts", [[9], [4, 1, 4], [1] * 9], ids=str)
def test_a_recurrence_in_parts_is_the_whole(cuts: list[int], x64: None) -> None:
    x = line(0, 9, 2, 3)
    layer = fbp.LinearRecurrence()
    want, _ = layer.forward((), jax.tree.map(lambda v: jnp.moveaxis(v, 0, 1), x))
    one = jax.ShapeDtypeStruct((2, 3), jnp.float64)
    state, ys, at = layer.start((), {"a": one, "b": one}, 9), [], 0
    for part in cuts:
        piece = jax.tree.map(lambda v, at=at, part=part: v[at : at + part], x)
        if part == 1:
            y, state = layer.step((), jax.tree.map(lambda v: v[0], piece), state)
            ys.append(y[None])
        else:
            y, state = layer.steps((), piece, state)
            ys.append(y)
        at += part
    got, want = jnp.concatenate(ys), jnp.moveaxis(want, 1, 0)
    np.testing.assert_allclose(got, want, rtol=0, atol=100 * EPS * float(jnp.abs(want).max()))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            ones((3, 2)),
            'LinearRecurrence: expected x = {"a": ..., "b": ...}, got an array float32[3, 2]',
        ),
        (
            {"a": ones((3, 2)), "b": ones((1, 2))},
            "LinearRecurrence: expected a and b of one shape (..., T, D), got (3, 2) and (1, 2)",
        ),
        (
            {"a": ones(3), "b": ones(3)},
            "LinearRecurrence: expected a and b of one shape (..., T, D), got (3,) and (3,)",
        ),
    ],
)
def test_what_is_no_recurrence_is_refused(x: Any, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        fbp.LinearRecurrence().forward((), x)
    assert str(caught.value) == message


def test_a_recurrence_of_integers_is_refused() -> None:
    x = {"a": ones((3, 2)), "b": ones((3, 2), int)}
    with pytest.raises(TypeError, match=r"^LinearRecurrence: expected b to be a float array, got"):
        fbp.LinearRecurrence().forward((), x)
