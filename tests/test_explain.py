"""`fbp.explain`: the numbers of the step that trains, and each rule beside autodiff at them."""

import copy
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, CORE, Case, assert_close, draw, is_float, normal_like, output

import fbp
from fbp._layer import Array, Params, PyTree
from fbp.cli import main
from fbp.explainer._written import written
from fbp.train._members import MeanOfMembers, Members

KEY = jax.random.key(0)
NUMBERS = np.random.default_rng(0)
IDS = NUMBERS.integers(0, 11, (2, 8))
TEXT = IDS[:, :-1], IDS[:, 1:]


class Total(fbp.Loss):
    """The sum of y times the target: dy is the target."""

    def value(self, params: Params, y: PyTree, target: PyTree) -> Array:
        pairs = zip(jax.tree.leaves(jax.tree.map(_float, y)), jax.tree.leaves(target), strict=True)
        return sum((a * t).astype(jnp.float32).sum() for a, t in pairs)

    def value_and_grad(self, params: Params, y: PyTree, target: PyTree) -> tuple[Any, Params, Any]:
        return self.value(params, y, target), (), target


def _float(a: Any) -> Any:
    return a if is_float(a) else None


def gpt(keep: Any = "everything", **options: Any) -> fbp.Layer:
    model = fbp.models.gpt2(vocab=11, context=7, layers=3, heads=2, width=4, **options)
    return fbp.map_layers(
        lambda m: dataclasses.replace(m, keep=keep) if isinstance(m, fbp.Stack) else m, model
    )


def explained(objective: Any, batch: Any, key: Any = None, **options: Any) -> fbp.Explanation:
    """The explanation, whose value and gradients are those of the step."""
    params = objective.init(jax.random.key(1))
    found = fbp.explain(objective, params, batch, key, **options)
    value, grads = jax.jit(objective.value_and_grad)(params, batch, key)
    assert found.value == pytest.approx(float(value), rel=1e-6)
    assert_close(found.grads, grads, 2e-6, floor=1e-9)
    return found


QUICK = ("dense", "serial/cheap", "parallel/recomputed", "noise/stack", "integers/and_floats")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, id=c.name, marks=[] if c.name in QUICK else [pytest.mark.slow])
        for c in CASES
        if c.name in CORE and c.name != "serial/empty"
    ],
)
def test_every_layer_combinator_and_port(case: Case) -> None:
    params, x = draw(case, 0, jnp.float32)
    target = normal_like(1, output(case.layer, params, x))
    objective = fbp.Objective(case.layer, Total())
    key = jax.random.key(7) if case.noisy else None
    given = fbp.ObjectiveParams(params, ())
    found = fbp.explain(objective, given, (x, target), key, prove=case.name in QUICK)
    value, grads = jax.jit(objective.value_and_grad)(given, (x, target), key)
    np.testing.assert_allclose(found.value, value, rtol=1e-5, atol=1e-5)
    assert_close(found.grads, grads, 1e-5, floor=1e-7)
    whole = found.layers[0].passes[0]
    assert_close(whole.dparams, grads.model, 1e-5, floor=1e-7)
    assert_close(whole.dy, target, 0)
    assert not found.wrong
    rows = fbp.summary(case.layer, x, key).rows
    assert [(r.path, r.depth, r.is_leaf) for r in rows] == [
        (layer.path, layer.depth, layer.is_leaf) for layer in found.layers
    ]


def test_an_unknown_layer_is_a_box() -> None:
    def layer(params: Any, x: Any) -> Any:
        return jnp.tanh(x @ params)

    mine = fbp.from_jax(layer, lambda key: jax.random.normal(key, (3, 3)))
    found = explained(
        fbp.Objective(mine, fbp.MeanSquaredError()), (np.ones((2, 3)), np.ones((2, 3)))
    )
    (one,) = found.layers
    assert one.is_leaf
    assert not found.wrong


def test_layers_under_vmap_are_shown_as_one() -> None:
    """The rule inside sees one of many; the layer around it is looked at as it is."""
    inside = fbp.Serial(a=fbp.Dense(3, 4), b=fbp.Relu(), c=fbp.Dense(4, 1))
    model = fbp.Serial(first=fbp.Dense(3, 3), many=MeanOfMembers(inside, 5), last=fbp.Scale())
    found = explained(
        fbp.Objective(model, fbp.MeanSquaredError()), (np.ones((2, 3)), np.ones((2, 1)))
    )
    assert [layer.path for layer in found.layers] == ["", "first", "many", "last"]
    assert not found.wrong
    alone = fbp.Objective(Members(inside, 5), fbp.MeanSquaredError())
    (one,) = explained(alone, (np.ones((2, 5, 3)), np.ones((2, 5, 1)))).layers
    assert one.is_leaf


OBJECTIVES = {
    "gpt2": lambda: (fbp.models.NextToken(gpt()), TEXT),
    "gpt2, inputs": lambda: (fbp.models.NextToken(gpt("inputs")), TEXT),
    "gpt2, 2": lambda: (fbp.models.NextToken(gpt(2)), TEXT),
    "gpt2, all logits": lambda: (fbp.Objective(gpt(), fbp.SoftmaxCrossEntropy()), TEXT),
    "microbatch": lambda: (fbp.Microbatch(fbp.models.NextToken(gpt()), 1), TEXT),
    "llama": lambda: (
        fbp.models.NextToken(
            fbp.models.llama(vocab=11, layers=2, heads=2, kv_heads=1, width=4, hidden=6)
        ),
        TEXT,
    ),
    "lora": lambda: (fbp.models.NextToken(with_lora()), TEXT),
    "bfloat16": lambda: (fbp.models.NextToken(fbp.mixed_precision(gpt())), TEXT),
    "frozen": lambda: (fbp.models.NextToken(fbp.freeze(gpt(), "blocks.*")), TEXT),
    "char_lstm": lambda: (fbp.models.NextToken(fbp.models.char_lstm(11, 5)), TEXT),
    "convnet": lambda: (
        fbp.Objective(fbp.models.convnet(1, 3, widths=(8, 8), blocks=1), fbp.SoftmaxCrossEntropy()),
        (NUMBERS.normal(size=(2, 8, 8, 1)).astype(np.float32), np.array([0, 2])),
    ),
}


def with_lora() -> fbp.Layer:
    model = gpt()
    return fbp.models.with_lora(model, model.init(KEY), KEY, rank=2)[0]


EXHAUSTIVE = "gpt2, inputs", "gpt2, 2", "gpt2, all logits", "frozen", "bfloat16", "microbatch"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.exhaustive] * (n in EXHAUSTIVE)) for n in OBJECTIVES],
)
def test_every_model(name: str) -> None:
    objective, batch = OBJECTIVES[name]()
    found = explained(objective, batch)
    assert not found.wrong
    forward = [e for e in found.events if e.kind == "forward"]
    backward = [e for e in found.events if e.kind == "backward"]
    forward, backward = ([(e.layer, e.run) for e in events] for events in (forward, backward))
    assert sorted(forward) == sorted(backward)
    if name != "convnet":  # whose blocks have two branches
        assert forward == backward[::-1]
    assert str(found)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["inputs", 1, 2, 3])
def test_the_copies_of_a_stack_whatever_it_keeps(keep: Any) -> None:
    whole, other = (
        explained(fbp.models.NextToken(gpt(k)), TEXT, prove=False) for k in ("everything", keep)
    )
    for a, b in zip(whole.layers, other.layers, strict=True):
        assert len(a.passes) == len(b.passes)
        for one, two in zip(a.passes, b.passes, strict=True):
            for what in ("params", "x", "y", "dy", "dparams", "dx"):
                assert_close(getattr(one, what), getattr(two, what), 1e-4, floor=1e-7)
    attend = next(layer for layer in whole.layers if layer.path == "blocks.attention.attend")
    assert len(attend.passes) == 3


def test_what_is_computed_again_is_what_the_summary_says() -> None:
    model = fbp.Serial(
        a=fbp.Dense(3, 5), b=fbp.Relu(), c=fbp.Dense(5, 4), d=fbp.LayerNorm(4), e=fbp.Dense(4, 2)
    )
    x = NUMBERS.normal(size=(6, 3)).astype(np.float32)
    found = explained(fbp.Objective(model, fbp.MeanSquaredError()), (x, np.ones((6, 2))))
    again = {found.layers[e.layer].path for e in found.events if e.kind == "recompute"}
    rows = fbp.summary(model, x).rows[1:]
    read = {r.path: following.input for r, following in itertools.pairwise(rows)}
    assert again == {path for path, how in read.items() if how == "recomputed"} == {"b", "d"}


def test_a_sequence_step_by_step() -> None:
    cell = fbp.GRUCell(2, 3)
    model = fbp.Recurrent(cell)
    x = NUMBERS.normal(size=(4, 5, 2)).astype(np.float32)
    found = explained(fbp.Objective(model, fbp.MeanSquaredError()), (x, np.ones((4, 5, 3))))
    (layer,) = found.layers
    assert not found.wrong
    state = jnp.zeros((4, 3))
    params = found.params.model
    assert len(layer.steps) == 5
    for t, step in enumerate(layer.steps):
        np.testing.assert_allclose(step["state"], state, atol=1e-6)
        (y, state), _ = cell.forward(params, (x[:, t], state))
        np.testing.assert_allclose(step["y"][0], y, atol=1e-6)
    # The state's gradient comes to the last step from nowhere, and passes on to the one before.
    assert not np.any(layer.steps[-1]["dy"][1])
    for before, after in zip(layer.steps, layer.steps[1:], strict=False):
        np.testing.assert_array_equal(before["dy"][1], after["dstate"])


def bad(layer: Any, part: str) -> Any:
    """The same layer, but for a factor 1.5 in dparams or dx."""

    def backward(self: Any, params: Any, x: Any, res: Any, dy: Any) -> Any:
        dparams, dx = type(layer).backward(self, params, x, res, dy)
        if part == "dparams":
            return jax.tree.map(lambda d: (1.5 * d).astype(d.dtype), dparams), dx
        return dparams, jax.tree.map(lambda d: (1.5 * d).astype(d.dtype), dx)

    wrong = object.__new__(type("Wrong", (type(layer),), {"backward": backward}))
    wrong.__dict__.update(layer.__dict__)
    return wrong


PLANTED = {
    "embed": ["dparams"],
    "positions": ["dparams", "dx"],
    "attention.norm": ["dparams", "dx"],
    "attention.qkv": ["dparams", "dx"],
    "attention.split": ["dx"],
    "attention.attend": ["dx"],
    "attention.merge": ["dx"],
    "feed_forward.activation": ["dx"],
    "feed_forward.down": ["dparams", "dx"],
    "feed_forward": ["dx"],  # the residual around it
    "blocks": ["dparams", "dx"],
    "unembed": ["dparams", "dx"],
}


def planted(layer: Any, path: list[str], part: str) -> Any:
    """The layer with a mistake in the one at a path."""
    if not path:
        return bad(layer, part)
    wrong = copy.copy(layer)
    if isinstance(layer, fbp.Serial):
        layers = [
            planted(inner, path[1:], part) if name == path[0] else inner
            for name, inner in zip(layer.names, layer.layers, strict=True)
        ]
        object.__setattr__(wrong, "layers", tuple(layers))
    else:
        object.__setattr__(wrong, "layer", planted(layer.layer, path, part))
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "part"),
    [
        pytest.param(where, part, marks=[pytest.mark.exhaustive] * (i > 0 or number % 2))
        for number, (where, parts) in enumerate(PLANTED.items())
        for i, part in enumerate(parts)
    ],
)
def test_a_wrong_rule_is_blamed_and_no_other(where: str, part: str) -> None:
    path = where.split(".")
    if path[0] in ("attention", "feed_forward"):
        path = ["blocks", *path]
    model = planted(gpt(), path, part)
    found = fbp.explain(
        fbp.Objective(model, fbp.SoftmaxCrossEntropy()),
        fbp.ObjectiveParams(gpt().init(jax.random.key(3)), ()),
        TEXT,
    )
    assert found.wrong == (".".join(path),)
    assert f"WRONG: {'.'.join(path)}: not what autodiff" in str(found)


def test_a_wrong_loss_is_blamed() -> None:
    class Wrong(fbp.MeanSquaredError):
        def value_and_grad(self, *given: Any, **options: Any) -> Any:
            value, dparams, dy = super().value_and_grad(*given, **options)
            return value, dparams, 2 * dy

    objective = fbp.Objective(fbp.models.mlp((3, 4, 2)), Wrong())
    batch = NUMBERS.normal(size=(5, 3)).astype(np.float32), np.ones((5, 2), np.float32)
    assert fbp.explain(objective, objective.init(KEY), batch).wrong == ("the loss",)


@pytest.mark.parametrize("layer", [fbp.Dense(3, 2), fbp.Dense(3, 2, bias=False), fbp.Scale((3,))])
def test_a_number_written_out_is_that_number(layer: Any) -> None:
    x = NUMBERS.normal(size=(4, 3)).astype(np.float32)
    shape = jax.eval_shape(lambda: layer.forward(layer.init(KEY), x)[0]).shape
    target = NUMBERS.normal(size=shape).astype(np.float32)
    found = explained(fbp.Objective(layer, fbp.MeanSquaredError()), (x, target), prove=False)
    one = found.layers[0].passes[0]
    arrays = {"y": one.y, "dx": one.dx}
    grads = one.dparams if isinstance(one.dparams, dict) else {"w": one.dparams}
    arrays |= {f"d{name}": d for name, d in grads.items()}
    for what, a in arrays.items():
        for index in np.ndindex(a.shape):
            text = written(layer, one, what, index)
            assert float(text.rpartition("= ")[2]) == pytest.approx(a[index], rel=1e-4, abs=1e-6)


def test_troubles_are_said() -> None:
    model = fbp.Serial(a=fbp.Dense(2, 3), b=fbp.Relu(), c=fbp.Scale(), d=fbp.Dense(3, 1))
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    params = objective.init(KEY)
    params.model["a"]["b"] = jnp.array([-1e3, 0.0, 0.0])  # one unit that is never above 0
    params.model["c"] = jnp.array(1e-6)
    text = str(fbp.explain(objective, params, (np.ones((4, 2)), np.ones((4, 1)))))
    assert "b: 1 of 3 neurons are 0 for every example: no gradient passes through them" in text or (
        "b: 2 of 3 neurons" in text or "b: 3 of 3 neurons" in text
    )
    assert "a: the gradient vanishes: dx is" in text
    params.model["c"] = jnp.array(jnp.nan)
    assert "c: not finite" in str(
        fbp.explain(objective, params, (np.ones((4, 2)), np.ones((4, 1))))
    )


@pytest.mark.parametrize("objective", [lambda p, b: 0.0, fbp.Dense(2, 2), optax.adam(0.1)])
def test_what_is_no_objective(objective: Any) -> None:
    with pytest.raises(TypeError, match=r"^explain: expected an objective with a model and a loss"):
        fbp.explain(objective, (), ())


# The command line.


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    "adamw": lambda: optax.adamw(0.01),
    "clipped": lambda: fbp.Clipped(optax.adam(0.01), 1e-3),
    "scaled": lambda: fbp.LossScaled(optax.sgd(0.1)),
    "averaged": lambda: fbp.Averaged(optax.sgd(0.1), 0.9),
    "polyak": lambda: optax.polyak_sgd(1.0),
}


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("adamw", 3),
        *(
            pytest.param(name, steps, marks=pytest.mark.slow)
            for name, steps in (("sgd", 0), ("clipped", 3), ("scaled", 0), ("averaged", 3))
        ),
        pytest.param("polyak", 3, marks=[pytest.mark.slow, pytest.mark.exhaustive]),
    ],
)
def test_the_update_is_that_of_a_step(name: str, steps: int) -> None:
    model = fbp.Serial(
        a=fbp.Dense(3, 5), b=fbp.Tanh(), drop=fbp.Dropout(0.5), c=fbp.freeze(fbp.Dense(5, 2))
    )
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    batch = jnp.ones((4, 3)), jnp.zeros((4, 2)) + 0.3
    optimizer = OPTIMIZERS[name]()
    state, key = fbp.state_of(objective.init(KEY), optimizer), jax.random.key(5)
    step = fbp.step_of(objective, optimizer)
    for _ in range(steps):
        state, _ = step(state, batch, key)
    found = fbp.explain(objective, state.params, batch, key, optimizer=optimizer, state=state)
    if not steps:  # the first state is that of the optimizer
        first = fbp.explain(objective, state.params, batch, key, optimizer=optimizer)
        assert_close(first.update.change, found.update.change, 0)
    before = jax.tree.map(np.asarray, state.params)
    noise = jax.random.fold_in(key, state.step)
    after, value = step(state, batch, key)
    assert found.value == float(value)
    assert_close(found.update.params, after.params, 0)
    assert_close(found.update.change, jax.tree.map(np.subtract, after.params, before), 1e-6)
    assert found.update.value == pytest.approx(float(objective.value(after.params, batch, noise)))
    pairs = zip(*map(jax.tree.leaves, (found.grads, found.update.change)), strict=True)
    along = sum(float(np.vdot(d, c)) for d, c in pairs)
    assert found.update.foretold == pytest.approx(found.value + along, rel=1e-5)
    said = str(found)
    assert f"{found.value:.6g} -> {found.update.value:.6g}" in said
    assert "model.c.w" in said


def test_a_small_step_does_what_the_gradient_foretells() -> None:
    model = fbp.Serial(a=fbp.Dense(3, 5), b=fbp.Tanh(), c=fbp.Dense(5, 2))
    objective = fbp.Objective(model, fbp.MeanSquaredError())
    batch = jnp.ones((4, 3)), jnp.zeros((4, 2)) + 0.3
    params = objective.init(KEY)
    off = []
    for rate in (0.02, 0.01):
        update = fbp.explain(objective, params, batch, optimizer=optax.sgd(rate)).update
        off.append(update.value - update.foretold)
    assert off[0] / off[1] == pytest.approx(4, rel=0.2)  # to the second order


def test_without_an_optimizer_there_is_no_update() -> None:
    objective = fbp.Objective(fbp.models.neuron(), fbp.MeanSquaredError())
    one = jnp.ones((1, 1))
    found = fbp.explain(objective, objective.init(KEY), (one, one))
    assert found.update is None
    assert "update" not in str(found)


def failure(capsys: Any, *args: Any) -> str:
    capsys.readouterr()
    assert main(["explain", *map(str, args)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fbp: ")
    assert said.count("\n") == 1
    return said


def test_the_neuron_factor_by_factor(tmp_path: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "neuron"]) == 0
    said = capsys.readouterr().out
    for line in (
        "(2.1 - 4)^2 = 3.61",
        "2 * (2.1 - 4) = -3.8",
        "upstream * local = (-3.8) * 2.1 = -7.98",
        "1 - 0.01 * (-7.98) = 1.0798",
        "3.61 -> 2.87106",
    ):
        assert line in said


@pytest.mark.slow
def test_runs(tmp_path: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "spiral", "--no-check", "--steps", "60", "--eval-every", "30"]) == 0
    assert main(["explain", "runs/spiral", "--rows", "5"]) == 0
    said = capsys.readouterr().out
    assert "runs/spiral, 5 rows" in said
    assert "dense_2" in said
    assert "at step" in said
    assert main(["explain", "runs/spiral", "--step", "0"]) == 0
    assert "the update; root mean squares:" in capsys.readouterr().out
    assert main(["explain", "runs/spiral", "--step", "60"]) == 0
    said = capsys.readouterr().out
    assert "at step 60" in said
    assert "no parameter moves" in said  # the rate has fallen to 0
    assert "expected a checkpoint of step 7, got" in failure(capsys, "runs/spiral", "--step", 7)
    assert "--rows to be 1 or more, got 0" in failure(capsys, "runs/spiral", "--rows", 0)
    assert "--text is of a language model" in failure(capsys, "runs/spiral", "--text", "a")
    assert "expected neuron, or the folder of a run" in failure(capsys, "runs/none")
    (tmp_path / "empty").mkdir()
    failure(capsys, "empty")


@pytest.mark.slow
def test_texts(tmp_path: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text("a small text, again and again. " * 60)
    args = ["train", "gpt", "--preset", "tiny", "--data", "t.txt", "--steps", "20", "--no-check"]
    assert main(args) == 0
    assert main(["explain", "runs/gpt", "--text", "a small text"]) == 0
    said = capsys.readouterr().out
    assert "runs/gpt, 11 tokens" in said
    assert "blocks.attention.attend [1]" in said
    assert "expected --text TEXT" in failure(capsys, "runs/gpt")
    assert "two tokens or more, got 1" in failure(capsys, "runs/gpt", "--text", "a")
    assert "at most 33 tokens" in failure(capsys, "runs/gpt", "--text", "a" * 40)
    assert "expected a checkpoint of step 3" in failure(
        capsys, "runs/gpt", "--text", "ab", "--step", 3
    )
