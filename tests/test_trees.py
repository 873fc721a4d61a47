"""Layers whose x or y is a tree: what is particular to each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp._tree import nbytes

ones = jnp.ones


def refused(layer: fbp.Layer, x: Any) -> str:
    """The message of the error, one line."""
    with pytest.raises((ValueError, TypeError)) as caught:
        layer.forward(layer.init(jax.random.key(0)), x)
    (line,) = str(caught.value).splitlines()
    return line


# Sample.


def test_a_sample_has_the_mean_and_the_variance() -> None:
    n, mean, var = 100_000, 3.0, 0.25
    x = {"mean": jnp.full(n, mean), "log_var": jnp.full(n, np.log(var))}
    y, res = fbp.Sample().forward((), x, jax.random.key(0))
    # Five standard deviations of a mean, and of a variance, of n normal numbers.
    assert abs(float(y.mean()) - mean) < 5 * (var / n) ** 0.5
    assert abs(float(y.var()) - var) < 5 * var * (2 / n) ** 0.5
    assert nbytes(res) <= 16


def test_the_gradients_of_a_sample_are_those_of_its_noise(x64: None) -> None:
    rng, key = np.random.default_rng(0), jax.random.key(1)
    mean, log_var, dy = rng.normal(size=(3, 5, 7))
    x = {"mean": jnp.asarray(mean), "log_var": jnp.asarray(log_var)}
    y, res = fbp.Sample().forward((), x, key)
    eps = (np.asarray(y) - mean) / np.exp(log_var / 2)
    params, dx = fbp.Sample().backward((), x, res, jnp.asarray(dy))
    assert params == ()
    np.testing.assert_array_equal(dx["mean"], dy)
    # y - mean loses what y has rounded: some ulp of numbers of at most 10.
    np.testing.assert_allclose(
        dx["log_var"], dy * np.exp(log_var / 2) * eps / 2, rtol=1e-12, atol=1e-13
    )


def test_a_sample_without_a_key_is_the_mean() -> None:
    x = {"mean": jnp.arange(3.0), "log_var": ones(3)}
    y, res = fbp.Sample().forward((), x)
    np.testing.assert_array_equal(y, x["mean"])
    _, dx = fbp.Sample().backward((), x, res, 3 * ones(3))
    np.testing.assert_array_equal(dx["mean"], 3)
    np.testing.assert_array_equal(dx["log_var"], 0)


def test_a_sample_of_few_digits_is_computed_in_float32() -> None:
    """256 + 3 + noise: in bfloat16 it is rounded once."""
    key = jax.random.key(0)
    x = {"mean": jnp.full(64, 1.0, jnp.bfloat16), "log_var": jnp.full(64, -1.0, jnp.bfloat16)}
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), x)
    want, _ = fbp.Sample().forward((), wide, key)
    y, _ = fbp.Sample().forward((), x, key)
    np.testing.assert_array_equal(y, want.astype(jnp.bfloat16))
    dy = jnp.full(64, 1 + 2**-7, jnp.bfloat16)
    _, dx = fbp.Sample().backward((), x, key, dy)
    _, dwide = fbp.Sample().backward((), wide, key, dy.astype(jnp.float32))
    np.testing.assert_array_equal(dx["log_var"], dwide["log_var"].astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (ones(3), 'Sample: expected x = {"mean": ..., "log_var": ...}, got ArrayImpl'),
        ({"mean": ones(3)}, 'Sample: expected x = {"mean": ..., "log_var": ...}, got [\'mean\']'),
        (
            {"mean": ones(3), "log_var": ones(1)},
            "Sample: expected mean and log_var of one shape, got (3,) and (1,)",
        ),
        (
            {"mean": ones(3), "log_var": ones(3, int)},
            "Sample: expected log_var to be a float array, got int32",
        ),
    ],
)
def test_what_is_no_distribution_is_refused(x: Any, message: str) -> None:
    assert refused(fbp.Sample(), x) == message
