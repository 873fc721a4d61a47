"""A number that is not finite is found in the layer, and the direction, where it arises."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp
from fbp.layers import Unembed
from fbp.models import NextToken
from fbp.train._arrays import batches, evaluator
from fbp.train._fault import first_fault
from fbp.train._loop import fit


@dataclasses.dataclass(frozen=True)
class Faulty(fbp.Layer):
    """A layer that makes a NaN, forward or backward, in one of its numbers."""

    layer: Any
    where: str

    @property
    def cheap(self):
        return self.layer.cheap

    def init(self, key):
        return self.layer.init(key)

    def forward(self, params, x, key=None):
        y, res = self.layer.forward(params, x, key)
        return (spoilt(y) if self.where == "forward" else y), res

    def backward(self, params, x, res, dy):
        dparams, dx = self.layer.backward(params, x, res, dy)
        if self.where == "backward":
            dparams, dx = spoilt((dparams, dx))
        return dparams, dx

    def recompute(self, params, x, res):
        return self.layer.recompute(params, x, res)


def spoilt(tree):
    leaves, form = jax.tree.flatten(tree)
    for i, a in enumerate(leaves):
        if jnp.issubdtype(a.dtype, jnp.floating) and a.size:
            leaves[i] = a.ravel().at[a.size // 2].set(jnp.nan).reshape(a.shape)
            break
    return jax.tree.unflatten(form, leaves)


def with_fault(model, number, where):
    """The model with a fault in the layer of this number, and that layer."""
    target = []
    numbers = iter(range(1000))

    def replace(layer):
        held = [v[0] if isinstance(v, tuple | list) and v else v for v in vars(layer).values()]
        inside = any(isinstance(v, fbp.Layer) and not isinstance(v, fbp.Cell) for v in held)
        if inside or isinstance(layer, Unembed | fbp.Cell) or next(numbers) != number:
            return layer
        target.append(layer)
        return Faulty(layer, where)

    return fbp.map_layers(replace, model), target


def objectives():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 5)).astype(np.float32)
    images = rng.normal(size=(4, 8, 8, 1)).astype(np.float32)
    ids = rng.integers(11, size=(2, 8)).astype(np.int32)
    yield "mlp", fbp.models.mlp((5, 6, 6, 3)), fbp.SoftmaxCrossEntropy(), (x, np.arange(4) % 3)
    yield (
        "convnet",
        fbp.models.convnet(1, 3, (8, 8), 1),
        fbp.SoftmaxCrossEntropy(),
        (images, np.arange(4) % 3),
    )
    yield "gpt", fbp.models.gpt2(vocab=11, context=8, width=8, heads=2, layers=2), None, (ids, ids)
    yield "lstm", fbp.models.char_lstm(vocab=11, width=8, layers=1), None, (ids, ids)


def cases():
    for name, model, loss, batch in objectives():
        number = 0
        while with_fault(model, number, "forward")[1]:
            for where in ("forward", "backward"):
                slow = [pytest.mark.slow] if name in ("convnet", "gpt", "lstm") else []
                case = f"{name}-{number}-{where}"
                yield pytest.param(model, loss, batch, number, where, id=case, marks=slow)
            number += 1


@pytest.mark.parametrize(("model", "loss", "batch", "number", "where"), cases())
def test_each_layer_forward_and_backward(model, loss, batch, number, where):
    faulty, (layer,) = with_fault(model, number, where)
    made = NextToken if loss is None else lambda model: fbp.Objective(model, loss)
    params = made(model).init(jax.random.key(0))
    assert first_fault(made(model), params, batch, None) == ""
    said = first_fault(made(faulty), params, batch, None)
    assert said.startswith(f"{where} of ")
    assert said.endswith(", Faulty")
    assert layer is not None


def test_a_run_names_step_rows_layer_and_direction():
    x = np.linspace(1, 2, 12, dtype=np.float32)[:, None]
    x[7] = 100

    class Log(fbp.Layer):
        def forward(self, params, x, key=None):
            return jnp.log(50 - x), ()

        def backward(self, params, x, res, dy):
            return (), -dy / (50 - x)

    model = fbp.Serial(log=Log(), dense=fbp.Dense(1, 1))
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    good = x.copy()
    good[7] = 1
    draw = batches(x, x, 3, seed=0)
    step = next(s for s in range(4) if 7 in draw.rows(s))
    result = fit(
        objective,
        objective.init(jax.random.key(0)),
        optax.sgd(0.01),
        draw,
        evaluator(objective, (good, good), None),
        steps=8,
        eval_every=8,
        log=lambda step, metrics: None,
    )
    rows = ", ".join(map(str, draw.rows(step).tolist()))
    assert result.last_step == step
    assert result.trouble.startswith(
        f"step {step + 1}: the loss is nan: stopped before its update; first in forward of log, "
        f"Log; training rows {rows}; the weights after step 0, the best by loss, are kept"
    )


def test_a_batch_that_is_not_finite_names_the_row():
    x = np.linspace(1, 2, 12, dtype=np.float32)[:, None]
    good = x.copy()
    x[7] = np.inf
    objective = fbp.Objective(fbp.Dense(1, 1), fbp.MeanSquaredError())
    result = fit(
        objective,
        objective.init(jax.random.key(0)),
        optax.sgd(0.01),
        batches(x, good, 3, seed=0),
        evaluator(objective, (good, good), None),
        steps=8,
        eval_every=8,
        log=lambda step, metrics: None,
    )
    assert "first in the input of the batch is not finite; training row 7;" in result.trouble


def test_a_model_of_one_layer_is_named():
    objective = fbp.Objective(Faulty(fbp.Dense(5, 2), "backward"), fbp.MeanSquaredError())
    params = objective.init(jax.random.key(0))
    batch = np.ones((3, 5), np.float32), np.ones((3, 2), np.float32)
    assert first_fault(objective, params, batch, None) == "backward of the model, Faulty"


@pytest.mark.slow
def test_windows_of_a_text_are_named_by_their_tokens():
    tokens = np.arange(200) % 7
    model = fbp.models.gpt2(vocab=7, context=8, layers=1, heads=1, width=4)
    objective = fbp.models.NextToken(model)
    params = objective.init(jax.random.key(0))
    params["positions"] = jax.tree.map(lambda a: a * np.inf, params["positions"])
    draw = fbp.text.random_windows(tokens, 3, 8, 0)
    with pytest.raises(FloatingPointError, match="before the first update"):
        fit(objective, params, optax.sgd(0.1), draw, lambda p: {"loss": np.nan}, **ENDS)
    result = fit(objective, params, optax.sgd(0.1), draw, lambda p: {"loss": 1.0}, **ENDS)
    places = ", ".join(map(str, draw.rows(0).tolist()))
    assert f"positions, Positions; windows at tokens {places};" in result.trouble


ENDS = {"steps": 2, "eval_every": 2, "log": lambda step, metrics: None}
