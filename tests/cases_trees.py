"""Rows of the table of cases: layers whose x or y is a tree, and what goes with these."""

from collections.abc import Callable
from typing import Any

import numpy as np
from _case import Case

import fbp


def _normal(*shape: int) -> Callable[[np.random.Generator], Any]:
    """A mean and the logarithm of a variance."""
    return lambda rng: {"mean": rng.normal(size=shape), "log_var": rng.normal(size=shape)}


def _by_integers(
    name: str, n: int, integers: tuple[int, ...], values: tuple[int, ...]
) -> Callable[[np.random.Generator], Any]:
    """Values, and integers of which some repeat and some are outside 0..n-1."""

    def draw(rng: np.random.Generator) -> Any:
        return {
            "values": rng.normal(size=values),
            name: rng.integers(-1, n + 1, size=integers, dtype=np.int32),
        }

    return draw


def _segments(n: int, *values: int, batch: int = 0) -> Callable[[np.random.Generator], Any]:
    return _by_integers("segments", n, values[: batch + 1], values)


def _index(edges: int, *values: int, batch: int = 0) -> Callable[[np.random.Generator], Any]:
    shape = (*values[:batch], edges)
    return _by_integers("index", values[batch], shape, values)


def make_cases() -> list[Case]:
    """Builds these rows; two calls build equal layers."""
    return [
        Case("sample", fbp.Sample(), _normal(7, 5), noisy=True),
        Case("sample/no_batch", fbp.Sample(), _normal(5), batch=0, noisy=True),
        Case("sample/scalar", fbp.Sample(), _normal(), batch=0, noisy=True),
        Case("sample/two_batch_axes", fbp.Sample(), _normal(3, 3, 3), batch=2, noisy=True),
        Case(
            "sample/recomputed",
            fbp.Serial(fbp.Sample(), fbp.Dense(3, 2)),
            _normal(7, 3),
            noisy=True,
        ),
        Case("segment_sum", fbp.SegmentSum(5), _segments(5, 11, 3), batch=0),
        Case("segment_sum/batch", fbp.SegmentSum(3), _segments(3, 2, 7, 5, batch=1)),
        Case(
            "segment_sum/two_batch_axes",
            fbp.SegmentSum(2),
            _segments(2, 2, 3, 5, batch=2),
            batch=2,
            notes="rows that are numbers",
        ),
        Case("segment_sum/matrices", fbp.SegmentSum(3), _segments(3, 7, 2, 5), batch=0),
        Case("segment_sum/equal", fbp.SegmentSum(3), _segments(3, 3, 3), batch=0),
        Case("segment_sum/one", fbp.SegmentSum(1), _segments(1, 1, 1), batch=0),
        Case("gather", fbp.Gather(), _index(11, 5, 3), batch=0),
        Case("gather/batch", fbp.Gather(), _index(7, 2, 3, 5, batch=1)),
        Case("gather/two_batch_axes", fbp.Gather(), _index(5, 2, 3, 2, batch=2), batch=2),
        Case("gather/matrices", fbp.Gather(), _index(7, 3, 2, 5), batch=0),
        Case("gather/equal", fbp.Gather(), _index(3, 3, 3), batch=0),
        Case("gather/one", fbp.Gather(), _index(1, 1, 1), batch=0),
        *_routers(),
    ]


def _routers() -> list[Case]:
    router = fbp.TopKRouter
    return [
        Case("top_k_router", router(3), (7, 5)),
        Case("top_k_router/no_batch", router(2), (5,), batch=0),
        Case("top_k_router/two_batch_axes", router(2), (2, 3, 3), batch=2),
        Case("top_k_router/all", router(3), (3, 3)),
        Case("top_k_router/one_of_one", router(1), (2, 1)),
        Case("top_k_router/switch", router(1, renormalise=False), (7, 5)),
        Case("top_k_router/not_renormalised", router(3, renormalise=False), (2, 3, 5), batch=2),
        Case("top_k_router/serial", fbp.Serial(fbp.Dense(3, 5), router(2)), (7, 3)),
    ]


CORE = {
    "top_k_router",
    "top_k_router/not_renormalised",
    "sample",
    "segment_sum/batch",
    "gather/batch",
}
