"""Layers of times and sequences: Sinusoidal and others, what is particular to each."""

from typing import Any

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
