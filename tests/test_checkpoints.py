"""Checkpoints: bit for bit, whole or not at all, and every damage named."""

import contextlib
import errno
import json
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp
from fbp._errors import InputError
from fbp.train.checkpoints import (
    SaveError,
    Saver,
    _saver,
    checkpoints_in,
    newest_whole,
    read_checkpoint,
)
from fbp.train.checkpoints._named import like, named
from fbp.train.checkpoints._write import write_checkpoint


def state(seed=0):
    """A state with arrays of many kinds."""
    model = fbp.Serial(a=fbp.Dense(3, 4), b=fbp.LayerNorm(4), c=fbp.Dense(4, 2))
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    params = objective.init(jax.random.key(seed))
    return {
        "state": fbp.state_of(params, fbp.Averaged(optax.adamw(1e-3))),
        "key": jax.random.key(seed + 1),
        "half": jnp.arange(5, dtype=jnp.bfloat16) / 3,
        "odd": [jnp.array(True), jnp.zeros((0, 3)), np.array([1, -(2**31)], np.int32), None],
        "a.b": jnp.ones(1),
        "a": {"b": jnp.zeros(1)},
    }


def assert_same(a, b):
    a, b = named(a), named(b)
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes(), name


def test_a_state_comes_back_bit_for_bit(tmp_path):
    tree = state()
    write_checkpoint(tmp_path, 7, named(tree), {"watch": {"best": float("inf")}})
    found = read_checkpoint(tmp_path / "00000007")
    assert found.step == 7
    assert found.content["watch"]["best"] == float("inf")
    assert found.other_versions() == []
    assert_same(found.tree(jax.eval_shape(lambda: tree)), tree)


def test_another_model_is_refused():
    tree = state()
    arrays = named(tree)
    for shapes, words in (
        ({**tree, "more": jnp.ones(1)}, "expected an array more"),
        ({k: v for k, v in tree.items() if k != "half"}, "expected no array half"),
        ({**tree, "half": jnp.zeros(6, jnp.bfloat16)}, r"expected half to be bfloat16\[6\]"),
        ({**tree, "half": jnp.zeros(5)}, r"expected half to be float32\[5\], got bfloat16\[5\]"),
    ):
        with pytest.raises(InputError, match=words):
            like(jax.eval_shape(lambda shapes=shapes: shapes), arrays, "here")


@pytest.fixture
def two(tmp_path):
    """A folder with two checkpoints, and a function that brings it back to that."""
    steps = tmp_path / "steps"
    write_checkpoint(steps, 3, named(state(0)), {})
    write_checkpoint(steps, 5, named(state(1)), {})
    kept = tmp_path / "kept"
    shutil.copytree(steps, kept)

    def restored():
        shutil.rmtree(steps)
        shutil.copytree(kept, steps)
        return steps

    return restored


def flips(folder, many, seed=0):
    """Pairs of a file and a bit, over all files of a checkpoint."""
    rng = np.random.default_rng(seed)
    files = sorted(folder.iterdir())
    for i in range(many):
        path = files[i % len(files)]
        yield path, int(rng.integers(8 * path.stat().st_size))


@pytest.mark.parametrize(
    "many", [40, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.exhaustive])]
)
def test_every_flipped_bit_is_named_and_none_loaded(two, many):
    steps = two()
    for path, bit in list(flips(steps / "00000005", many)):
        data = bytearray(path.read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(InputError, match="damaged") as caught:
            read_checkpoint(steps / "00000005")
        assert str(path) in str(caught.value)
        found, said = newest_whole(steps)
        assert found.step == 3
        assert len(said) == 1
        assert str(path) in said[0]
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
    assert newest_whole(steps)[0].step == 5


@pytest.mark.parametrize("name", ["state.safetensors", "manifest.json"])
@pytest.mark.parametrize("how", ["cut", "longer", "empty", "missing", "a folder", "of another"])
def test_every_other_damage_is_named(two, name, how):
    steps = two()
    path = steps / "00000005" / name
    data = path.read_bytes()
    if how in ("missing", "a folder"):
        path.unlink()
    if how == "a folder":
        path.mkdir()
    if how in ("cut", "longer", "empty"):
        path.write_bytes({"cut": data[:-1], "longer": data + b" ", "empty": b""}[how])
    if how == "of another":
        path.write_bytes((steps / "00000003" / name).read_bytes())
    with pytest.raises(InputError) as caught:
        read_checkpoint(steps / "00000005")
    assert "\n" not in str(caught.value)
    assert str(steps / "00000005") in str(caught.value)
    assert newest_whole(steps)[0].step == 3


def test_a_checkpoint_under_another_name_is_refused(two):
    steps = two()
    (steps / "00000005").rename(steps / "00000009")
    with pytest.raises(InputError, match="expected the checkpoint of step 5"):
        read_checkpoint(steps / "00000009")


CALLS = ("open", "write", "fsync", "replace", "mkdir", "close")


class Failing:
    """Lets the n-th call of the disk fail."""

    def __init__(self, monkeypatch, at, error=None):
        self.calls, self.at, self.error = 0, at, error
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrapped(getattr(os, name)))

    def wrapped(self, real):
        def call(*args, **options):
            if self.calls == self.at and real.__name__ == "close":
                real(*args)  # a descriptor is closed even where that fails
            self.calls += 1
            if self.calls == self.at + 1:
                raise self.error
            return real(*args, **options)

        return call


def points_of(steps, monkeypatch):
    """How many calls of the disk a checkpoint takes."""
    with monkeypatch.context() as patch:
        counting = Failing(patch, -2)
        write_checkpoint(steps, 9, named(state(2)), {})
    return counting.calls


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_write_that_fails_anywhere_leaves_the_others_whole(two, code, monkeypatch):
    points = points_of(two(), monkeypatch)
    assert points > 12
    for at in range(points):
        steps = two()
        with monkeypatch.context() as patch:
            Failing(patch, at, OSError(code, os.strerror(code)))
            told = None
            try:
                write_checkpoint(steps, 7, named(state(2)), {})
            except SaveError as error:
                told = str(error)
        whole = [read_checkpoint(path).step for path in checkpoints_in(steps)]
        if told is None:  # it failed where something old is removed
            assert whole == [7, 5, 3]
            continue
        assert told.endswith(f"cannot be written: {os.strerror(code)}")
        assert "\n" not in told
        # That the disk has the new name could not be made sure of; what it names is whole.
        assert whole in ([5, 3], [7, 5, 3])
        assert not list(steps.glob(".*"))


def test_a_write_that_ends_anywhere_leaves_the_others_whole(two, monkeypatch):
    """As after SIGKILL: nothing is cleaned up."""

    class Killed(BaseException):
        pass

    points = points_of(two(), monkeypatch)
    for at in range(points):
        steps = two()
        with monkeypatch.context() as patch:
            Failing(patch, at, Killed())
            patch.setattr("fbp.train.checkpoints._write.remove_quietly", lambda path: None)
            with contextlib.suppress(Killed):
                write_checkpoint(steps, 7, named(state(2)), {})
        found, said = newest_whole(steps)
        assert found.step in (5, 7)
        assert not said
        # The next process goes on there.
        saver = Saver(steps)
        saver.save(7, state(2), {}, 7)
        saver.finish()
        assert newest_whole(steps)[0].step == 7
        assert not list(steps.glob(".*"))


def test_the_newest_and_the_best_are_kept(tmp_path):
    saver = Saver(tmp_path, keep=2)
    for step, best in ((0, 0), (2, 2), (4, 2), (6, 2), (8, 2)):
        saver.save(step, state(), {}, best)
        saver.finish()
    assert [int(path.name) for path in checkpoints_in(tmp_path)] == [8, 6, 2]


def test_a_save_does_not_hold_up_the_training_nor_see_what_comes_after(tmp_path, monkeypatch):
    go = threading.Event()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (go.wait(10), real(file))[1])
    monkeypatch.setattr(_saver, "MOST_OF_TIME", np.inf)
    saver = Saver(tmp_path, every=0)
    array = np.zeros(5)
    saver.save(1, {"a": array}, {}, 1)
    assert not saver.is_due()
    array += 1
    go.set()
    saver.finish()
    assert saver.is_due()
    assert not read_checkpoint(tmp_path / "00000001").arrays["a"].any()


def test_too_little_space_is_told_before(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SaveError, match="bytes free on the disk for a checkpoint, got 1,000"):
        write_checkpoint(tmp_path, 1, named(state()), {})
    with pytest.raises(SaveError, match="got 1,000"):
        Saver(tmp_path).require_space(state())
    assert not list(tmp_path.iterdir())


def test_a_manifest_is_json_that_says_what_it_is_of(tmp_path):
    write_checkpoint(tmp_path, 7, named(state()), {"config": {"lr": 0.1}})
    content = json.loads((tmp_path / "00000007" / "manifest.json").read_text())
    assert content["step"] == 7
    assert content["config"] == {"lr": 0.1}
    assert content["versions"]["jax"] == jax.__version__
    (said,) = content["files"].values()
    assert len(said["sha256"]) == 64
