"""The loop: what it keeps, when it ends, and that its numbers do not depend on how it is cut."""

import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp
from fbp.train import _loop, _steps
from fbp.train._arrays import batches, evaluator
from fbp.train._loop import fit
from fbp.train._watch import Watch

X = np.linspace(-1, 1, 12, dtype=np.float32)[:, None]
DATA = X, (2 * X + 1).astype(np.float32)
OBJECTIVE = fbp.Objective(fbp.models.mlp((1, 8, 1)), fbp.MeanSquaredError())


def train(optimizer, *, steps, eval_every, data=DATA, objective=OBJECTIVE, evaluate=None, **more):
    lines = []
    result = fit(
        objective,
        objective.init(jax.random.key(0)),
        optimizer,
        more.pop("draw", batches(*data, batch=4, seed=0)),
        evaluate or evaluator(objective, data, None),
        steps=steps,
        eval_every=eval_every,
        log=lambda step, metrics: lines.append((step, metrics)),
        **more,
    )
    return result, lines


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_learns_and_measures():
    result, lines = train(optax.adam(0.03), steps=200, eval_every=50)
    assert result.trouble is None
    assert [step for step, _ in lines] == [0, 50, 100, 150, 200]
    assert result.metrics["loss"] < 0.01 < lines[0][1]["loss"]
    assert result.last_step == 200


@pytest.mark.parametrize("scan", [True, False])
def test_where_it_is_cut_does_not_change_a_bit(scan, monkeypatch):
    one, _ = train(optax.adam(0.03), steps=70, eval_every=70, scan=scan)
    many, _ = train(optax.adam(0.03), steps=70, eval_every=1, scan=scan)
    monkeypatch.setattr(_loop, "SECONDS_A_CALL", 0)
    single, _ = train(optax.adam(0.03), steps=70, eval_every=70, scan=scan)
    for other in (many, single):
        assert_same(one.last, other.last)


def test_evaluates_by_the_clock(monkeypatch):
    """And where it is cut by it changes no number."""
    clock = iter(np.arange(0.0, 1e6))
    monkeypatch.setattr(_loop.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(_loop, "SECONDS_A_CALL", 0)
    one, lines = train(optax.adam(0.03), steps=40, eval_every=40, eval_seconds=5.5)
    at = [step for step, _ in lines]
    assert (at[0], at[-1]) == (0, 40)
    assert 5 < len(at) < 20
    monkeypatch.undo()
    other, lines = train(optax.adam(0.03), steps=40, eval_every=40)
    assert [step for step, _ in lines] == [0, 40]
    assert_same(one.last, other.last)


def test_it_is_what_bare_steps_are():
    result, _ = train(optax.adam(0.03), steps=70, eval_every=7)
    optimizer = optax.adam(0.03)
    state = fbp.state_of(OBJECTIVE.init(jax.random.key(0)), optimizer)
    draw = batches(*DATA, batch=4, seed=0)
    state, _ = fbp.steps_of(OBJECTIVE, optimizer)(state, draw(0, 70))
    assert_same(result.last, state)


def poisoned(step, what, value=np.nan):
    """Batches of which one has a number that is not finite, in its input or its target."""
    draw = batches(*DATA, batch=4, seed=0)

    def of(start, stop):
        x, target = (np.array(a) for a in draw(start, stop))
        if start <= step < stop:
            (x if what == "x" else target)[step - start, 1] = value
        return x, target

    return of


# A state that is copied before each call, one that is not, and steps one by one.
WAYS = {"copied": (2**25, True), "guarded": (0, True), "one by one": (0, False)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("step", [0, 1, 4, 5, 19])
def test_stops_before_the_bad_update(step, way, monkeypatch):
    small, scan = WAYS[way]
    monkeypatch.setattr(_steps, "SMALL", small)
    good, _ = train(optax.adam(0.03), steps=20, eval_every=5, scan=scan)
    bad, lines = train(
        *(optax.adam(0.03),), steps=20, eval_every=5, scan=scan, draw=poisoned(step, "x")
    )
    assert good.trouble is None
    assert bad.trouble.startswith(f"step {step + 1}: the loss is nan: stopped before its update")
    assert bad.last_step == step
    assert [at for at, _ in lines] == list(range(0, step + 1, 5))
    exact, _ = train(optax.adam(0.03), steps=step, eval_every=100, scan=scan)
    if way == "copied":  # taken again by a program that looks, which may round differently
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            bad.last,
            exact.last,
        )
    else:
        assert_same(bad.last, exact.last)


class Backward(fbp.Layer):
    """y = x, whose gradient is NaN where x is large."""

    def forward(self, params, x, key=None):
        return x, ()

    def backward(self, params, x, res, dy):
        return (), jnp.where(abs(x) > 1e3, jnp.nan, dy)


@pytest.mark.parametrize("way", WAYS)
def test_a_gradient_that_is_not_finite_stops_too(way, monkeypatch):
    small, scan = WAYS[way]
    monkeypatch.setattr(_steps, "SMALL", small)
    model = fbp.Serial(a=fbp.Dense(1, 4), b=Backward(), c=fbp.Dense(4, 1))
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    result, _ = train(
        *(optax.sgd(1e-12),),
        steps=20,
        eval_every=5,
        scan=scan,
        objective=objective,
        draw=poisoned(7, "x", 1e5),
    )
    assert result.trouble.startswith("step 8: the gradient is not finite: stopped before its")
    assert result.last_step == 7
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(result.last))


def test_a_loss_that_is_not_finite_at_once_is_an_error():
    data = np.full_like(X, np.nan), DATA[1]
    with pytest.raises(FloatingPointError, match="before the first update"):
        train(optax.sgd(0.1), steps=3, eval_every=1, data=data)


def told(values):
    """An evaluation that gives these values of val_loss, one after another."""
    left = iter(values)
    return lambda params: {"loss": 1.0, "val_loss": next(left)}


def test_the_best_is_kept_and_the_last_too():
    values = [5.0, 4.0, 2.0, 3.0, 2.5]
    result, lines = train(optax.sgd(0.1), steps=8, eval_every=2, evaluate=told(values))
    assert (result.step, result.metrics["val_loss"]) == (4, 2.0)
    assert result.last_step == 8
    assert [metrics["val_loss"] for _, metrics in lines] == values
    shorter, _ = train(optax.sgd(0.1), steps=4, eval_every=2)
    assert_same(result.params, shorter.last.params)


@pytest.mark.parametrize(("patience", "last"), [(1, 6), (2, 8), (3, 12), (None, 12)])
def test_patience(patience, last):
    values = [5.0, 4.0, 2.0, 3.0, 2.5, 1.0, 2.0]
    result, _ = train(
        optax.sgd(0.1), steps=12, eval_every=2, evaluate=told(values), patience=patience
    )
    assert result.last_step == last
    assert result.trouble is None
    assert (result.ended is not None) == (last < 12)
    assert result.step == (4 if last < 12 else 10)


def test_divergence_is_noticed_and_the_best_kept():
    result, _ = train(optax.sgd(1e3), steps=200, eval_every=1)
    assert result.trouble is not None
    assert result.last_step < 20
    assert result.step == 0


@pytest.mark.parametrize(
    ("values", "diverges"),
    [
        ([2.3, 1.0, 25.0, 25.0, 25.0], True),
        ([2.3, 1.0, 25.0, 1.5, 25.0], False),
        ([2.3, 0.001, 2.3, 2.3, 2.3], False),
        ([-5.0, -9.0, 200.0, 200.0, 200.0], True),
        ([-5.0, -9.0, 1.0, 1.0, 1.0], False),
    ],
)
def test_what_divergence_is(values, diverges):
    watch = Watch("loss")
    for step, value in enumerate(values):
        watch = watch.seen(step, {"loss": value})
    assert watch.diverges == diverges


def test_noise_is_drawn_from_the_key_and_the_step():
    model = fbp.Serial(a=fbp.Dense(1, 8), b=fbp.Dropout(0.5), c=fbp.Dense(8, 1))
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    once, again, other = (
        train(
            *(optax.sgd(0.1),),
            steps=9,
            eval_every=every,
            objective=objective,
            key=jax.random.key(seed),
        )[0]
        for every, seed in ((9, 1), (2, 1), (9, 2))
    )
    assert_same(once.last, again.last)
    assert not np.array_equal(once.last.params.model["a"]["w"], other.last.params.model["a"]["w"])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_call_at_hand(signum):
    draw = batches(*DATA, batch=4, seed=0)

    def interrupted(start, stop):
        if start == 10:
            signal.raise_signal(signum)
            time.sleep(0.1)  # until the thread that listens has heard it
        return draw(start, stop)

    result, lines = train(optax.sgd(0.1), steps=20, eval_every=5, draw=interrupted)
    assert result.signum == signum
    assert result.status == 128 + signum
    assert result.last_step == 10
    assert result.step == lines[-1][0] == 5
    assert signal.getsignal(signum) in (signal.default_int_handler, signal.SIG_DFL)


def test_batches_are_epochs_and_a_function_of_the_step():
    x = np.arange(10)
    draw = batches(x, x, batch=4, seed=3)
    whole, _ = draw(0, 5)
    assert sorted(whole.ravel()) == sorted([*x, *x])
    assert sorted(whole.ravel()[:10]) == list(x)
    np.testing.assert_array_equal(whole[2:4], draw(2, 4)[0])
    assert not np.array_equal(whole, batches(x, x, batch=4, seed=4)(0, 5)[0])
