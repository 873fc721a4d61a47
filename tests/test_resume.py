"""A run that is stopped anywhere and resumed is bit for bit the run that was not."""

import dataclasses
import errno
import itertools
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp
from fbp._errors import InputError
from fbp.train._arrays import batches, evaluator
from fbp.train._loop import fit
from fbp.train.checkpoints import Saver, _saver, checkpoints_in, newest_whole
from fbp.train.checkpoints._named import named

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
DATA = X, np.sin(X).sum(-1, keepdims=True).astype(np.float32)
MODEL = fbp.Serial(a=fbp.Dense(3, 8), b=fbp.Dropout(0.2), c=fbp.Relu(), d=fbp.Dense(8, 1))
OBJECTIVE = fbp.Objective(MODEL, fbp.MeanSquaredError())
STEPS, EVERY = 60, 10

OPTIMIZERS = {
    "adamw": optax.adamw(optax.cosine_decay_schedule(0.03, STEPS)),
    "averaged": fbp.Averaged(optax.sgd(0.1, momentum=0.9), decay=0.9),
    "noisy": optax.chain(optax.add_noise(0.01, 0.5, 3), optax.adam(1e-2)),
    "clipped": fbp.Clipped(optax.adamw(1e-2), 0.5, by="previous"),
    "scaled": fbp.LossScaled(optax.adam(1e-2), every=7),
}


@pytest.fixture(autouse=True)
def _saves_as_often_as_asked(monkeypatch):
    monkeypatch.setattr(_saver, "MOST_OF_TIME", np.inf)


class Kill(BaseException):
    """Ends a run as SIGKILL does: nothing more is done."""


def run(steps_folder, lines, *, optimizer="adamw", resume=None, draw=None, evaluate=None, **more):
    own = batches(*DATA, batch=8, seed=3)
    saver = Saver(steps_folder, every=more.pop("every", 0.0)) if steps_folder else None
    if resume:
        resume, damaged = newest_whole(steps_folder)
        assert not damaged
        # As `cut_back` does with the log of a run.
        lines[:] = [line for line in lines if line[0] <= resume.step]
        lines[:] = lines[: sum(line[0] <= resume.content["evaluated"] for line in lines)]
    return fit(
        OBJECTIVE,
        lambda: OBJECTIVE.init(jax.random.key(0)),
        OPTIMIZERS[optimizer],
        (draw or (lambda draw: draw))(own),
        (evaluate or (lambda evaluate: evaluate))(evaluator(OBJECTIVE, DATA, DATA)),
        steps=more.pop("steps", STEPS),
        eval_every=EVERY,
        log=lambda step, metrics: lines.append((step, metrics)),
        key=jax.random.key(7),
        saver=saver,
        resume=resume or None,
        **more,
    )


@pytest.fixture(scope="module")
def uninterrupted():
    found = {}

    def of(optimizer):
        if optimizer not in found:
            lines = []
            found[optimizer] = run(None, lines, optimizer=optimizer), lines
        return found[optimizer]

    return of


def assert_same(a, b):
    (a, a_lines), (b, b_lines) = a, b
    assert a_lines == b_lines
    assert (a.step, a.last_step, a.metrics) == (b.step, b.last_step, b.metrics)
    assert dataclasses.asdict(a.watch) == dataclasses.asdict(b.watch)
    for tree in ("params", "last"):
        ours, theirs = named(getattr(a, tree)), named(getattr(b, tree))
        for name in ours:
            assert ours[name].tobytes() == theirs[name].tobytes(), (tree, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [n if n in ("adamw", "noisy") else pytest.param(n, marks=pytest.mark.slow) for n in OPTIMIZERS],
)
def test_a_run_killed_at_any_call_and_resumed_is_the_same(optimizer, tmp_path, uninterrupted):
    """Killed at a draw of batches again and again, and gone on with, until it ends."""
    lines, kills = [], 0

    def killing(left):
        def of(draw):
            def drawn(start, stop):
                if next(left) == 6:
                    raise Kill
                return draw(start, stop)

            return drawn

        return of

    while True:
        try:
            there = bool(checkpoints_in(tmp_path))
            result = run(
                tmp_path,
                lines,
                optimizer=optimizer,
                resume=there,
                draw=killing(itertools.count()),
            )
            break
        except Kill:
            kills += 1
            # This process lives on, and with it the thread that writes.
            for thread in threading.enumerate():
                if thread.name.startswith("save "):
                    thread.join()
    assert kills
    assert_same((result, lines), uninterrupted(optimizer))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["first evaluation", "draw", "evaluation", "log"])
def test_a_signal_in_each_phase(signum, phase, tmp_path, uninterrupted):
    """The evaluation finishes here, since a library does not end a process."""
    calls = itertools.count()

    def signalled(wanted):
        def of(function):
            def called(*args):
                if wanted and next(calls) == (0 if phase == "first evaluation" else 3):
                    signal.raise_signal(signum)
                    time.sleep(0.05)  # until the thread that listens has heard it
                return function(*args)

            return called

        return of

    lines = []
    stopped = run(
        tmp_path,
        lines,
        draw=signalled(phase == "draw"),
        evaluate=signalled("evaluation" in phase),
    )
    if phase == "log":
        assert stopped.signum is None
        return
    assert stopped.status == 128 + signum
    assert stopped.last_step < STEPS
    assert f"after step {stopped.last_step}, saved in {tmp_path}" in stopped.trouble
    result = run(tmp_path, lines, resume=True)
    assert_same((result, lines), uninterrupted("adamw"))


def test_more_steps_may_be_asked_for(tmp_path):
    lines, once = [], []
    run(tmp_path, lines, optimizer="averaged", steps=35)
    result = run(tmp_path, lines, optimizer="averaged", resume=True)
    whole = run(None, once, optimizer="averaged")
    assert result.last_step == whole.last_step == STEPS
    assert named(result.last).keys() == named(whole.last).keys()
    for name, a in named(result.last).items():
        np.testing.assert_array_equal(a, named(whole.last)[name])
    assert [line for line in lines if line[0] != 35] == once


def test_patience_goes_on_counting(tmp_path):
    values = [5.0, 4.0, 4.5, 4.5, 4.5, 4.5, 3.0]

    def told(first):
        left = iter(values[first:])
        return lambda _: lambda params: {"loss": 1.0, "val_loss": next(left)}

    lines = []
    whole = run(None, [], evaluate=told(0), patience=4)
    assert whole.last_step == 50
    stopped = run(tmp_path, lines, evaluate=told(0), patience=4, steps=30)
    assert stopped.last_step == 30
    result = run(tmp_path, lines, evaluate=told(4), patience=4, resume=True)
    assert (result.last_step, result.step) == (50, 10)
    for name, a in named(result.params).items():
        np.testing.assert_array_equal(a, named(whole.params)[name])


def test_the_checkpoint_of_another_optimizer_is_refused(tmp_path):
    run(tmp_path, [], steps=5)
    with pytest.raises(InputError, match="of another model"):
        run(tmp_path, [], optimizer="averaged", resume=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_disk_that_fails_ends_the_run_with_one_line(code, tmp_path, monkeypatch):
    """It fails from a later checkpoint on, as when it is full; those before are whole."""
    real, calls = os.fsync, itertools.count()

    def failing(file):
        if next(calls) > 9:
            raise OSError(code, os.strerror(code))
        real(file)

    lines = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        result = run(tmp_path, lines)
    assert result.status == 1
    assert os.strerror(code) in result.trouble
    assert "is whole" in result.trouble
    assert "\n" not in result.trouble
    whole, damaged = newest_whole(tmp_path)
    assert whole is not None
    assert not damaged
    result = run(tmp_path, lines, resume=True)
    assert result.status == 0


def test_memory_between_steps_is_four_times_the_parameters():
    """AdamW: the parameters, its two moments, and the best parameters."""
    objective = fbp.Objective(fbp.models.mlp((64, 1024, 1024, 8)), fbp.MeanSquaredError())
    x = np.zeros((16, 64), np.float32)
    size = sum(a.nbytes for a in jax.tree.leaves(objective.init(jax.random.key(0))))
    before = {id(a) for a in jax.live_arrays()}
    live = []

    def log(step, metrics):
        mine = [a for a in jax.live_arrays() if id(a) not in before]
        live.append(sum(a.nbytes for a in mine) / size)

    fit(
        objective,
        lambda: objective.init(jax.random.key(0)),
        optax.adamw(1e-3),
        batches(x, x[:, :8] + 1, 8, 0),
        lambda params: {"loss": float(objective.value(params, (x, x[:, :8] + 1)))},
        steps=4,
        eval_every=1,
        log=log,
    )
    assert len(live) == 5
    assert max(live) <= 4.2
    assert jnp.isfinite(max(live))
