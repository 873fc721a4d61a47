"""Pictures of a step and of a run: what they show, and that nothing is overwritten."""

import re
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp._errors import InputError
from fbp.cli import main

TEXT = jnp.array([[3, 1, 4, 1, 5]]), jnp.array([[1, 4, 1, 5, 9]])
FAST = "--no-check", "--steps", "4"


@pytest.fixture(scope="module")
def step():
    model = fbp.models.gpt2(vocab=10, context=8, width=8, heads=2, layers=2)
    objective = fbp.models.NextToken(model)
    return fbp.explain(objective, objective.init(jax.random.key(0)), TEXT, prove=False)


def kind(made):
    if made.startswith(b"\x89PNG"):
        return "png"
    assert ElementTree.fromstring(made).tag == "{http://www.w3.org/2000/svg}svg"
    return "svg"


def test_the_sizes_of_gradients(step):
    (axes,) = step.plot().figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) == {"y, forward", "dy, backward", "dparams"}
    names = [label.get_text() for label in axes.get_yticklabels()]
    leaves = [e for e in step.events if e.kind == "forward"]
    assert len(names) == len(leaves)
    assert names[0] == "embed"
    for at, event in enumerate(leaves):
        one = step.layers[event.layer].passes[event.run]
        for label, array in (("y, forward", one.y), ("dy, backward", one.dy)):
            x, y = lines[label].get_data()
            floats = [np.asarray(a) for a in jax.tree.leaves(array) if a.dtype != np.int32]
            if at in y and floats:
                whole = np.concatenate([a.ravel() for a in floats]).astype(np.float64)
                size = np.sqrt((whole**2).mean())
                np.testing.assert_allclose(x[list(y).index(at)], size, rtol=1e-6)


def test_what_attention_looks_at(step):
    axes = step.plot("attention", tokens=["a$b", " ", "\n", "d", "e", "f"]).figure.axes
    assert len(axes) == 4
    assert [ax.get_title() for ax in axes[:2]] == [
        f"blocks.attention.attend [0], head {i}" for i in (0, 1)
    ]
    for ax in axes:
        p = ax.images[0].get_array()
        assert p.shape == (5, 5)
        np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
        np.testing.assert_array_equal(np.triu(p, 1), 0)
        assert [t.get_text() for t in ax.get_yticklabels()] == [r"a\$b", "␣", r"\n", "d", "e"]


@pytest.mark.parametrize("form", ["png", "svg"])
def test_it_is_written_once(step, tmp_path, form):
    picture = step.plot()
    path = tmp_path / f"p.{form}"
    picture.save(path)
    assert kind(path.read_bytes()) == form
    assert kind(picture._repr_svg_().encode()) == "svg"
    with pytest.raises(InputError, match=r"p\.\w+ is there already and is kept"):
        picture.save(path)
    for name, said in (("p.pdf", "ends in .png or .svg"), ("none/p.png", "cannot be written")):
        with pytest.raises(InputError, match=said):
            picture.save(tmp_path / name)


def test_what_cannot_be_drawn(step, monkeypatch):
    with pytest.raises(InputError, match="expected 'gradients' or 'attention', got 'loss'"):
        step.plot("loss")
    objective = fbp.Objective(fbp.models.neuron(), fbp.MeanSquaredError())
    one = jnp.ones((1, 1))
    neuron = fbp.explain(objective, objective.init(jax.random.key(0)), (one, one))
    with pytest.raises(InputError, match="expected a model with Attention"):
        neuron.plot("attention")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"needs matplotlib: pip install 'fbp\[train\]'"):
        step.plot()


def test_a_name_is_no_formula(step):
    svg = step.plot(title=r"$\frac{1}{0}$ </svg> \u2028").bytes("svg")
    assert kind(svg) == "svg"


@pytest.mark.slow
def test_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "spiral", *FAST]) == 0
    for what in ("metrics", "answers", "gradients"):
        assert main(["plot", "runs/spiral", "--what", what]) == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *("spiral.png", "spiral-answers.png", "spiral-gradients.png")
    }
    capsys.readouterr()
    assert main(["plot", "runs/spiral", "--out", "p.svg"]) == 0
    assert kind((tmp_path / "p.svg").read_bytes()) == "svg"
    for args, said in (
        (["runs/spiral"], "spiral.png is there already and is kept"),
        (["runs/spiral", "--out", "a.jpg"], "expected a name that ends in .png or .svg"),
        (["runs/spiral", "--what", "attention"], "expected a model with Attention"),
        (["runs/spiral", "--what", "gradients", "--step", "99", "--out", "q.png"], "of step 99"),
        (["runs/none", "--what", "answers"], "expected the folder of a run"),
    ):
        capsys.readouterr()
        assert main(["plot", *args]) == 2
        failure = capsys.readouterr().err
        assert re.search(said, failure), failure
        assert failure.count("\n") == 1
    assert not (tmp_path / "q.png").exists()
