"""Rules of functions that JAX cannot differentiate, as those that call NumPy: by differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp

X = np.float32([0.3, -1.2, 0.8, 0.1])


def in_numpy(f: Any) -> Any:
    """f of an array, called outside of JAX: neither its derivative nor its comparisons are seen."""
    return lambda x: jax.pure_callback(
        lambda x: f(np.asarray(x)).astype(x.dtype),
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        x,
        vmap_method="sequential",
    )


def with_slope(f: Any, slope: Any) -> Any:
    rule = jax.custom_jvp(f)
    rule.defjvp(lambda p, t: (f(*p), slope(p[0]) * t[0]))
    return rule


@pytest.mark.parametrize(
    ("at_zero", "factor", "wanted"),
    [(0.25, 1.0, "CONVENTION"), (1.5, 1.0, "WRONG"), (0.25, 1.01, "WRONG")],
)
def test_a_kink_outside_of_jax(at_zero: float, factor: float, wanted: str) -> None:
    """Between the slopes to both sides of a kink any is right, beyond them none."""
    f = in_numpy(lambda x: np.where(x > 0, 1, 0.1) * x + np.sin(x))
    rule = with_slope(
        f,
        lambda x: factor * (jnp.where(x == 0, at_zero, jnp.where(x > 0, 1.0, 0.1)) + jnp.cos(x)),
    )
    assert fbp.check(rule, X, budget="fast").verdict == wanted


@pytest.mark.parametrize(("is_lost", "wanted"), [(False, "OK"), (True, "RANGE")])
def test_a_pole_outside_of_jax(is_lost: bool, wanted: str) -> None:
    """Where the function is singular its rule may be; where it is only zero, it may not."""

    def f(x: Any) -> Any:
        return np.square(x) if is_lost else np.log(np.abs(x) + 1e-17 * np.cos(99 * x))

    def slope(x: Any) -> Any:
        return 2 * x * x / x if is_lost else 1 / x

    assert fbp.check(with_slope(in_numpy(f), slope), X, budget="fast").verdict == wanted
