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


def test_a_mean_and_a_variance_may_differ_in_dtype() -> None:
    for few in ("mean", "log_var"):
        x = {n: ones(3, jnp.bfloat16 if n == few else "float32") for n in ("mean", "log_var")}
        y, res = fbp.Sample().forward((), x, jax.random.key(0))
        assert y.dtype == jnp.float32
        _, dx = fbp.Sample().backward((), x, res, y)
        assert {n: d.dtype for n, d in dx.items()} == {n: v.dtype for n, v in x.items()}


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (ones(3), 'Sample: expected x = {"mean": ..., "log_var": ...}, got an array float32[3]'),
        (
            {"mean": ones(3)},
            'Sample: expected x = {"mean": ..., "log_var": ...}, got a dict of mean',
        ),
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


# SegmentSum and Gather.


def matrix(integers: Any, n: int) -> np.ndarray:
    """(n, E), 1 where row e belongs to segment s."""
    return (np.arange(n)[:, None] == np.asarray(integers)).astype(float)


INTEGERS = np.asarray([[2, 0, 2, -1, 1, 3, 7], [3, 3, 0, -4, 0, 0, 4]])


def test_segment_sum_and_gather_are_products_with_a_matrix(x64: None) -> None:
    rng, integers = np.random.default_rng(0), jnp.asarray(INTEGERS)
    rows, nodes = rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 4, 3))
    m = np.stack([matrix(row, 4) for row in INTEGERS])
    close = {"rtol": 0, "atol": 1e-14}  # Sums of at most four numbers of at most 4.
    x = {"values": jnp.asarray(rows), "segments": integers}
    y, res = fbp.SegmentSum(4).forward((), x)
    np.testing.assert_allclose(y, m @ rows, **close)
    params, dx = fbp.SegmentSum(4).backward((), x, res, jnp.asarray(nodes))
    assert (params, dx["segments"]) == ((), None)
    np.testing.assert_array_equal(dx["values"], m.swapaxes(1, 2) @ nodes)
    x = {"values": jnp.asarray(nodes), "index": integers}
    y, res = fbp.Gather().forward((), x)
    np.testing.assert_array_equal(y, m.swapaxes(1, 2) @ nodes)
    params, dx = fbp.Gather().backward((), x, res, jnp.asarray(rows))
    assert (params, dx["index"]) == ((), None)
    np.testing.assert_allclose(dx["values"], m @ rows, **close)


def test_segments_outside_count_as_in_jax() -> None:
    values = jax.random.normal(jax.random.key(0), (7, 3))
    for segments in jnp.asarray(INTEGERS):
        y, _ = fbp.SegmentSum(4).forward((), {"values": values, "segments": segments})
        np.testing.assert_array_equal(y, jax.ops.segment_sum(values, segments, 4))


@pytest.mark.parametrize("kind", [jnp.uint8, jnp.int8])
def test_segments_of_few_bits(kind: Any) -> None:
    """More segments than the integers can name, and more rows of a batch."""
    values = jnp.arange(6.0).reshape(3, 2)
    segments = jnp.asarray([[0, 127], [1, 1], [5, 0]])
    for n in (128, 300):
        x = {"values": values, "segments": segments.astype(kind)}
        wide = {"values": values, "segments": segments}
        y, res = fbp.SegmentSum(n).forward((), x)
        np.testing.assert_array_equal(y, fbp.SegmentSum(n).forward((), wide)[0])
        _, dx = fbp.SegmentSum(n).backward((), x, res, y)
        _, dwide = fbp.SegmentSum(n).backward((), wide, res, y)
        np.testing.assert_array_equal(dx["values"], dwide["values"])
        edges = {"values": y, "index": x["segments"]}
        read, res = fbp.Gather().forward((), edges)
        np.testing.assert_array_equal(read, dx["values"])
        _, dedges = fbp.Gather().backward((), edges, res, values)
        np.testing.assert_array_equal(dedges["values"], y)


def test_segments_add_up_in_float32() -> None:
    """In bfloat16 256 + 1 is 256."""
    rows, zeros = jnp.asarray([256, 1, 1, 2], jnp.bfloat16), jnp.zeros(4, int)
    y, _ = fbp.SegmentSum(1).forward((), {"values": rows, "segments": zeros})
    nodes = {"values": jnp.zeros(1, jnp.bfloat16), "index": zeros}
    _, dx = fbp.Gather().backward((), nodes, (), rows)
    for sums in (y, dx["values"]):
        np.testing.assert_array_equal(sums, jnp.asarray([260], jnp.bfloat16))


def test_what_is_read_outside_is_zero_whatever_is_there() -> None:
    """Also of an example next to one that is not finite."""
    values = jnp.stack([jnp.full((2, 3), jnp.nan), ones((2, 3))])
    x = {"values": values, "index": jnp.asarray([[0, 2], [-1, 1]])}
    y, _ = fbp.Gather().forward((), x)
    np.testing.assert_array_equal(y[0, 1], 0)
    np.testing.assert_array_equal(y[1], [[0] * 3, [1] * 3])
    x = {"values": values, "segments": jnp.asarray([[2, -1], [0, 0]])}
    y, _ = fbp.SegmentSum(2).forward((), x)
    np.testing.assert_array_equal(y, [[[0] * 3] * 2, [[2] * 3, [0] * 3]])


SEGMENTS, EDGES = fbp.SegmentSum(3), fbp.Gather()
five = ones((5, 2))


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (
            SEGMENTS,
            five,
            'SegmentSum: expected x = {"values": ..., "segments": ...}, got an array float32[5, 2]',
        ),
        (
            EDGES,
            {"values": five, "segments": ones(5, int)},
            'Gather: expected x = {"values": ..., "index": ...}, got a dict of segments, values',
        ),
        (
            SEGMENTS,
            {"values": five, "segments": ones(4, int)},
            "SegmentSum: expected values with the first axes of segments, (4,), got shape (5, 2)",
        ),
        (
            SEGMENTS,
            {"values": five, "segments": ones(5)},
            "SegmentSum: expected segments to be an integer array, got float32",
        ),
        (
            SEGMENTS,
            {"values": ones(5, int), "segments": ones(5, int)},
            "SegmentSum: expected values to be a float array, got int32",
        ),
        (
            EDGES,
            {"values": five, "index": ones((), int)},
            "Gather: expected index (..., E), got a scalar",
        ),
        (
            EDGES,
            {"values": ones((3, 5, 2)), "index": ones((2, 4), int)},
            "Gather: expected values (..., N, *D) and index (..., E) with the same batch axes, "
            "got shapes (3, 5, 2) and (2, 4)",
        ),
        (
            EDGES,
            {"values": ones(2), "index": ones((2, 4), int)},
            "Gather: expected values (..., N, *D) and index (..., E) with the same batch axes, "
            "got shapes (2,) and (2, 4)",
        ),
    ],
)
def test_what_is_no_graph_is_refused(layer: fbp.Layer, x: Any, message: str) -> None:
    assert refused(layer, x) == message


def test_there_is_at_least_one_segment() -> None:
    with pytest.raises(ValueError, match=r"^SegmentSum: expected n of 1 or more, got 0$"):
        fbp.SegmentSum(0)
