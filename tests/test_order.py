"""The order of rows: a permutation of each epoch, any part of it by itself, and well mixed."""

import time

import numpy as np
import pytest

from fbp import _order
from fbp._order import rows_of
from fbp.train._arrays import batches

SIZES = [1, 2, 3, 5, 7, 12, 64, 100, 997, 1024, 4099]


@pytest.fixture(params=["shuffled", "by formula"])
def way(request, monkeypatch):
    if request.param == "by formula":
        monkeypatch.setattr(_order, "FEW", 0)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.usefixtures("way")
def test_each_epoch_is_a_permutation(n):
    rows = rows_of(0, 3 * n, n, seed=5).reshape(3, n)
    for epoch in rows:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))
    if n > 64:
        assert (rows[0] != rows[1]).mean() > 0.9
        assert (rows[0] != rows_of(0, n, n, seed=6)).mean() > 0.9


@pytest.mark.parametrize(("first", "stop"), [(0, 1), (3, 4), (11, 26), (39, 40), (24, 36)])
@pytest.mark.usefixtures("way")
def test_any_part_is_that_of_the_whole(first, stop):
    whole = rows_of(0, 40, 12, seed=1)
    np.testing.assert_array_equal(rows_of(first, stop, 12, seed=1), whole[first:stop])


def test_many_rows_are_mixed_evenly():
    """Each part of the rows comes as often in each part of an epoch, and after each other part."""
    n, parts = 300_000, 20
    assert n > _order.FEW
    for seed in range(3):
        rows = rows_of(0, n, n, seed) * parts // n
        places = np.arange(n) * parts // n
        for a, b in ((rows, places), (rows[1:], rows[:-1]), (rows[2:], rows[:-2])):
            counts = np.bincount(a * parts + b, minlength=parts**2)
            expected = len(a) / parts**2
            chi2 = ((counts - expected) ** 2).sum() / expected
            # Five standard deviations above the mean of a chi-squared distribution.
            assert chi2 < parts**2 + 5 * np.sqrt(2 * parts**2)
    other = rows_of(n, 2 * n, n, 0) * parts // n
    assert abs(np.corrcoef(rows_of(0, n, n, 0), other)[0, 1]) < 0.01


def test_a_batch_of_many_rows_is_quick(tmp_path):
    n = 10_000_000
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(n, 2))
    draw = batches(x, x[:, :1], batch=256, seed=0)
    seconds = []
    for step in (0, 7, 39_062, 1_000_000, 123_456_789):
        began = time.process_time()  # which other processes do not lengthen
        draw(step, step + 1)
        seconds.append(time.process_time() - began)
    assert sorted(seconds)[2] < 0.005, seconds
