"""`fbp.train.fit` for scripts, and the recipe of an update."""

import re
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

import fbp
from fbp._errors import InputError
from fbp.train import Settings
from fbp.train._prepared import prepared
from fbp.train._recipe import RULES, Recipe
from fbp.train.checkpoints import newest_whole
from fbp.train.checkpoints._named import named

X = np.linspace(-1, 1, 24, dtype=np.float32)[:, None]
Y = np.sin(2 * X).astype(np.float32)
OBJECTIVE = fbp.Objective(fbp.models.mlp((1, 8, 1)), fbp.MeanSquaredError())
DRAW = fbp.train.batches(X, Y, batch=8, seed=0)


def fit(folder=None, *, optimizer=None, draw=DRAW, steps=60, objective=OBJECTIVE, **more):
    return fbp.train.fit(
        objective,
        optimizer or optax.adam(0.03),
        draw,
        steps=steps,
        folder=folder,
        say=lambda line: None,
        **more,
    )


def assert_same(a, b):
    a, b = named(a), named(b)
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


def test_a_script_needs_little():
    result = fit()
    assert result.status == 0
    assert result.metrics["loss"] < 0.1
    assert result.last_step == 60


def test_a_folder_has_what_a_run_has(tmp_path):
    result = fit(tmp_path / "mine", config={"mine": 1})
    run = fbp.train.Run(tmp_path / "mine")
    run.require_whole()
    assert run.config()["config"] == {"mine": 1}
    assert [line["step"] for line in run.metrics()] == list(range(0, 61, 3))
    weights = load_file(tmp_path / "mine" / "weights.safetensors")
    np.testing.assert_array_equal(weights["dense_1.w"], result.params.model["dense_1"]["w"])
    taken = "is there already and is kept: choose another folder="
    with pytest.raises(InputError, match=f"{taken}, or go on with it by resume=True$"):
        fit(tmp_path / "mine")
    (tmp_path / "other" / "inside").mkdir(parents=True)
    for resume in (True, False):
        with pytest.raises(InputError, match=f"{taken}$"):
            fit(tmp_path / "other", resume=resume)
    with pytest.raises(InputError, match="cannot go on: config is"):
        fit(tmp_path / "mine", resume=True, config={"mine": 2}, steps=70)


def test_a_script_that_is_run_again_goes_on(tmp_path):
    """The same call, after a signal, after its end, and with more steps."""

    def stopping(start, stop):
        if start == 30:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.05)
        return DRAW(start, stop)

    stopped = fit(tmp_path / "mine", resume=True, draw=stopping)
    assert stopped.status == 143
    assert newest_whole(tmp_path / "mine" / "steps")[0].step == stopped.last_step < 60
    result = fit(tmp_path / "mine", resume=True)
    whole = fit(tmp_path / "whole")
    assert result.status == 0
    assert_same(result.last, whole.last)
    assert_same(result.params, whole.params)
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("mine", "whole")]
    assert lines[0] == lines[1]
    again = fit(tmp_path / "mine", resume=True)
    assert_same(again.params, whole.params)
    assert fit(tmp_path / "mine", resume=True, steps=80).last_step == 80


def test_a_batch_that_changes_on_the_way_keeps_what_was_learned(tmp_path):
    def changing(start, stop):
        x, y = DRAW(start, stop)
        return (x, y) if stop < 30 or start == 59 else (x[:, :4], y[:, :4])

    result = fit(tmp_path / "mine", draw=changing)
    assert result.status == 1
    assert "like the first, stacked" in result.trouble
    assert 0 < result.last_step < 30
    assert newest_whole(tmp_path / "mine" / "steps")[0].step == result.last_step
    assert_same(fit(tmp_path / "mine", resume=True).last, fit(tmp_path / "whole").last)


def test_the_last_batch_is_drawn_first_only_where_it_will_come():
    def draw(start, stop):
        assert stop < 60
        return DRAW(start, stop)

    with pytest.raises(InputError, match=r"fit: draw\(59, 60\) raises AssertionError"):
        fit(draw=draw)
    assert (
        "no better loss" in fit(draw=draw, patience=1, eval_every=1, optimizer=optax.sgd(0.0)).ended
    )


def test_a_loss_that_is_not_finite_at_first_says_why():
    x = X.copy()
    x[7] = np.nan
    with pytest.raises(
        FloatingPointError, match=r"the input of the batch is not finite; .* row 7$"
    ):
        fit(draw=fbp.train.batches(x, Y, batch=24, seed=0))


@pytest.mark.parametrize("few", [1, 3, 7, 100])
def test_few_batches_again_and_again(few):
    """Those of the same steps, of which no more are drawn than are asked for."""
    drawn = []

    def draw(start, stop):
        drawn.append(stop - start)
        return np.arange(start, stop)[:, None] * np.ones(4)

    _, again = prepared(None, draw, 4, Settings(overfit_batches=few))
    for start, stop in ((0, 1), (2, 5), (6, 8), (5, 40), (98, 103)):
        drawn.clear()
        np.testing.assert_array_equal(again(start, stop)[:, 0], np.arange(start, stop) % few)
        assert sum(drawn) <= stop - start


def test_time_is_over(tmp_path):
    result = fit(tmp_path / "mine", steps=10**9, max_seconds=0.5, eval_every=10**6)
    assert result.status == 0
    assert "0.5 seconds are over: ended after step" in result.ended
    assert newest_whole(tmp_path / "mine" / "steps")[0].step == result.last_step


def test_an_average_is_what_is_measured_and_kept(tmp_path):
    seen = []

    def evaluate(params):
        seen.append(params)
        return {"loss": -float(len(seen))}

    optimizer = fbp.Averaged(optax.sgd(0.1), 0.5)
    result = fit(optimizer=optimizer, evaluate=evaluate, eval_every=60)
    assert_same(result.params, result.last.opt_state.average)
    assert_same(seen[-1], result.params)
    assert not np.array_equal(
        result.params.model["dense_1"]["w"], result.last.params.model["dense_1"]["w"]
    )


@pytest.mark.parametrize("name", RULES)
def test_the_rule_of_an_optimizer_is_what_optax_does(name):
    rng = np.random.default_rng(0)
    decay = {"adamw": 0.1, "lion": 0.1}.get(name)
    optimizer = Recipe(name, schedule="constant", weight_decay=decay).made(0.01, 10)
    p = jnp.float32(0.7)
    state = optimizer.init(p)
    b2 = 0.99 if name == "lion" else 0.999
    known = {"b1": 0.9, "b2": b2, "eps": 1e-8, "rate": 0.01, "decay": decay, "m": 0.0, "v": 0.0}
    known |= {"sqrt": np.sqrt, "sign": np.sign}
    for t in range(1, 4):
        d = jnp.float32(rng.normal())
        update, state = optimizer.update(d, state, p)
        known |= {"p": float(p), "d": float(d), "t": t}
        for line in RULES[name]:
            # Products stand side by side.
            exec(re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", line).replace("^", "**"), known)
        assert known["step"] == pytest.approx(float(update), rel=2e-5, abs=2e-8)
        p = optax.apply_updates(p, update)


def test_the_recipe_of_a_step_in_words():
    recipe = Recipe(warmup=2, weight_decay=0.1, clip=1.0)
    line, *rule = recipe.said(0.02, 100, 0)
    assert line == (
        "adamw; the learning rate is 0.00667 here, at most 0.02, weight decay 0.1, a gradient "
        "longer than 1 is cut to that length"
    )
    assert rule == list(RULES["adamw"])
    assert Recipe("sgd", options={"momentum": 0.9}).said(0.1, 9, 1)[1:] == []
    assert Recipe("adafactor", schedule="constant").said(0.1, 9, 1) == [
        "adafactor; the learning rate is 0.1 here"
    ]


def rates(recipe, steps=100, lr=2.0):
    rate = recipe.rate(lr, steps)
    return np.array([rate(i) if callable(rate) else rate for i in range(steps + 1)], float)


def test_schedules():
    np.testing.assert_allclose(rates(Recipe(schedule="constant")), 2)
    cosine = rates(Recipe(end=0.1))
    np.testing.assert_allclose(
        cosine, 0.2 + 0.9 * (1 + np.cos(np.pi * np.arange(101) / 100)), rtol=1e-5
    )
    warm = rates(Recipe(warmup=10))
    assert np.all(np.diff(warm[:11]) > 0)
    assert warm[10] == pytest.approx(2)
    assert warm[100] == pytest.approx(0, abs=1e-6)
    stable = rates(Recipe(schedule="stable-decay", warmup=10, end=0.5))
    np.testing.assert_allclose(stable[10:82], 2)
    assert stable[91] == pytest.approx(1.5)
    assert stable[100] == pytest.approx(1)
    assert len(rates(Recipe(warmup=1000), steps=3)) == 4


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "muon", "adafactor", "lamb", "rmsprop"])
def test_optimizers_by_name(name):
    result = fit(optimizer=Recipe(name, clip=1.0).made(3e-3, 60))
    assert result.trouble is None
    assert result.metrics["loss"] < 0.6


def test_what_decays():
    params = {"dense": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "norm": {"g": jnp.ones(2)}}
    zero = jax.tree.map(jnp.zeros_like, params)
    for decay, kept in (("all", 0), ("matrices", 2)):
        made = Recipe(schedule="constant", weight_decay=0.5, decay=decay).made(1.0, 10)
        updates, _ = made.update(zero, made.init(params), params)
        assert float(updates["dense"]["w"][0, 0]) == -0.5
        assert sum(not u.any() for u in jax.tree.leaves(updates)) == kept


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Recipe("adamv").made(1, 1), "--optimizer adamv: expected one of optax"),
        (lambda: Recipe("chain").made(1, 1), "expected one of optax"),
        (lambda: Recipe("sgd", weight_decay=0.1).made(1, 1), "takes no weight decay"),
        (lambda: Recipe("sgd", options={"b2": 1}).made(1, 1), "it takes no b2"),
        (lambda: Recipe(schedule="step"), "--schedule to be one of"),
        (lambda: Recipe(warmup=-1), "--warmup"),
        (lambda: Recipe(clip=0), "--clip"),
        (lambda: Recipe(average=1), "--average"),
        (lambda: Recipe(weight_decay=-1), "--weight-decay"),
        (lambda: Recipe(weight_decay=float("nan")), "--weight-decay"),
        (lambda: fit(steps=0), "steps of 1 or more"),
        (lambda: fit(steps="6"), "fit: expected steps of 1 or more, a whole number, got '6'"),
        (lambda: fit(steps=6.0), "a whole number, got 6.0"),
        (
            lambda: fit(draw=(X, Y)),
            "got tuple (an array float32[24, 1], an array float32[24, 1]): "
            "of arrays, fbp.train.batches(x, y, batch=32, seed=0)",
        ),
        (lambda: fit(draw=(b for b in [])), "got a generator: a run that goes on must draw any"),
        (lambda: fit(draw=iter([X])), "got a list_iterator: a run that goes on must draw any"),
        (lambda: fit(draw=3), "fit: expected a function draw(start, stop) of the steps, got 3"),
        (lambda: fit(draw=lambda: X), "draw(start, stop) of the steps, got one of ()"),
        (lambda: fit(draw=lambda start, stop: (X, Y)), "stacked, (1, 24, 1), got (24, 1)"),
        (
            lambda: fit(draw=fbp.train.batches(X, Y[:, 0], batch=8, seed=0)),
            "fit: on its batches: MeanSquaredError: expected target to have the shape of y, (8, 1)",
        ),
        (lambda: fit(optimizer=0.001), "fit: expected an optax optimizer, got 0.001: as optax."),
        (lambda: fit(optimizer=optax.adam), "got the function adam: call it, as in optax.adam"),
        (lambda: fit(objective=OBJECTIVE.model), "make one, fbp.Objective(model, loss)"),
        (lambda: fbp.train.batches(X, Y, batch=0, seed=0), "whole number, 1 or more, got 0"),
        (lambda: fbp.train.batches(X, Y, batch=2.0, seed=0), "whole number, 1 or more, got 2.0"),
        (lambda: fbp.train.batches(X, Y[:3], batch=2, seed=0), "got shapes (24, 1) and (3, 1)"),
        (lambda: fbp.train.batches([1.0], Y, batch=2, seed=0), "expected x to be arrays, got list"),
        (lambda: fbp.train.batches(X, Y.astype(str), batch=2, seed=0), "got text of shape (24, 1)"),
    ],
)
def test_mistakes_are_one_line(make, words):
    with pytest.raises(InputError) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line_takes_them(tmp_path, monkeypatch, capsys):
    from fbp.cli import main

    monkeypatch.chdir(tmp_path)
    flags = "--optimizer lion --lr 0.001 --warmup 3 --schedule stable-decay --clip 1 --average 0.9"
    flags += " --accumulate 2 --bf16 --patience 50 --overfit-batches 2 --weight-decay 0.1"
    args = ["train", "curve", "--steps", "20", "--no-check", *flags.split()]
    assert main(args) == 0
    run = fbp.train.Run(tmp_path / "runs/curve")
    config = run.config()
    assert config["recipe"]["optimizer"] == "lion"
    assert (config["accumulate"], config["bf16"], config["overfit_batches"]) == (2, True, 2)
    assert main(["train", "--resume", "runs/curve", "--steps", "25"]) == 0
    assert run.config()["recipe"] == config["recipe"]
    for wrong, words in (("--accumulate 0", "--accumulate"), ("--max-time 0", "--max-time")):
        assert main(["train", "curve", *wrong.split()]) == 2
        assert words in capsys.readouterr().err
