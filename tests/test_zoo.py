"""Every program of the zoo, small: its gradients are autodiff's, its loss falls."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp

FOLDER = Path(__file__).parent.parent / "experiments/zoo"
_spec = importlib.util.spec_from_file_location("zoo_table", FOLDER / "table.py")
table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(table)

# Rounding of sums of thousands of terms in float64, beside the largest number of an array.
CLOSE = 1e-10
SMALL = {
    "vae": {"steps": 60},
    "unet": {"steps": 25},
    "clip": {"steps": 100},
    "pinn": {"steps": 100},
    "actor_critic": {"rounds": 12, "epochs": 2},
    "graph_network": {"steps": 40},
    "mixture": {"steps": 60},
    "seq2seq": {"steps": 40},
    "state_space": {"steps": 30},
    "vit": {"steps": 30},
    "gan": {"steps": 50},
    "rollout": {"steps": 60},
    "maml": {"steps": 200},
    "per_example": {"steps": 30},
    "distillation": {"steps": 100},
    "multi_task": {"steps": 60},
    "optimizers": {"steps": 30, "names": ("muon", "adam, averaged", "lbfgs")},
}


def test_all_programs_are_here():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"table"}
    assert files == set(SMALL) == set(table.PROGRAMS)
    assert {path.stem for path in (FOLDER / "peers").glob("*.py")} == files


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_is_autodiffs(name):
    module = table.load(name)
    for objective in table.objectives(module):
        assert table.error(module, objective) < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.exhaustive] * (i % 2)) for i, n in enumerate(SMALL)],
)
def test_the_loss_falls(name, capsys):
    losses = table.load(name).main(**SMALL[name])
    for curve in losses.values() if isinstance(losses, dict) else [losses]:
        # The turns of a GAN fight over theirs: that of the critic falls first.
        curve = np.asarray(curve if name != "gan" else curve[:, 1])
        assert np.isfinite(curve).all()
        assert curve[-5:].mean() < curve[:5].mean()
    assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_summary(name):
    assert "kept for the backward" in table.summary(table.load(name)).splitlines()[-1]


@pytest.mark.slow
def test_the_norms_are_those_of_single_gradients(x64):
    module = table.load("per_example")
    objective, batch = module.objective(), module.batch(jax.random.key(1), 16)
    params = objective.init(jax.random.key(0))
    params, batch = jax.tree.map(table._wide, (params, batch))
    single = jax.vmap(jax.grad(objective.value), (None, 0))(params, batch)
    squares = jax.tree.map(lambda d: (d**2).reshape(16, -1).sum(-1), single)
    expected = jnp.sqrt(sum(jax.tree.leaves(squares)))
    np.testing.assert_allclose(module.norms(params, batch), expected, rtol=CLOSE)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_peers_lose_as_much(capsys):
    pytest.importorskip("equinox")
    for name in SMALL:
        module, peer = table.load(name), table.load(f"peers/{name}")
        key = jax.random.key(0)
        state, _ = peer.step(peer.start(key), module.batch(key), key)
        _, value = peer.step(state, module.batch(key), key)
        assert np.isfinite(np.asarray(jax.tree.leaves(value))).all(), name


def test_losses_without_parameters_have_the_same():
    """So that objectives which read different parts of an output can take turns."""
    square = fbp.MeanSquaredError()
    one, two = fbp.Losses(a=(1.0, square)), fbp.Losses(a=(1.0, square), b=(2.0, square))
    assert one.init(jax.random.key(0)) == two.init(jax.random.key(0)) == ()
