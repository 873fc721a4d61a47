"""`SpikesSkipped`: a step whose gradient is far larger than usual is not taken, and counted."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp
from fbp.cli import main

KEY = jax.random.key(0)


def grads(norm, dtype=jnp.float32):
    """A gradient of two leaves with this norm."""
    return {"a": jnp.array([0.6, 0.0], dtype) * norm, "b": jnp.array(-0.8, dtype) * norm}


def walked(norms, **options):
    """Plain SGD of rate 1 through gradients of these norms: each update's norm, and the state."""
    optimizer = fbp.SpikesSkipped(optax.sgd(1.0), **options)
    params = grads(0.0)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    sizes = []
    for norm in norms:
        updates, state = update(grads(norm), state, params)
        sizes.append(float(optax.tree.norm(updates)))
    return np.array(sizes), state


def reference(norms, times, decay, warmup):
    """The same in plain Python."""
    usual, sizes, skipped = 0.0, [], 0
    for i, norm in enumerate(norms):
        if i < warmup:
            sizes.append(norm)
            usual += (norm - usual) / (i + 1)
            continue
        spike = norm > times * usual
        sizes.append(0.0 if spike else norm)
        skipped += spike
        usual = decay * usual + (1 - decay) * min(norm, times * usual)
    return np.array(sizes), usual, skipped


@pytest.mark.parametrize("options", [{}, {"times": 2.0, "decay": 0.5, "warmup": 1}])
def test_it_is_the_rule(options):
    norms = np.exp(np.random.default_rng(0).normal(size=200) * 1.3)
    norms[[50, 51, 120]] *= 1e4
    sizes, state = walked(norms, **options)
    expected, usual, skipped = reference(
        norms, **{"times": 10.0, "decay": 0.99, "warmup": 20, **options}
    )
    np.testing.assert_allclose(sizes, expected, rtol=1e-5)
    assert float(state.norm) == pytest.approx(usual, rel=1e-4)
    assert int(state.skipped) == skipped >= 3


def test_what_stays_large_becomes_usual():
    sizes, state = walked([1.0] * 20 + [1e3] * 200)
    assert sizes[20] == 0
    assert sizes[-1] == pytest.approx(1e3)
    assert 0 < int(state.skipped) < 100


def test_a_skipped_step_changes_nothing():
    """Not even the momentum, nor the step of a schedule; also where the norm overflows."""
    inner = optax.adamw(optax.linear_schedule(1.0, 0.0, 10), weight_decay=0.1)
    optimizer = fbp.SpikesSkipped(inner, warmup=1)
    params = grads(1.0)
    updates, before = optimizer.update(grads(1.0), optimizer.init(params), params)
    for large in (1e3, 1e30):
        spike = jax.tree.map(lambda g, large=large: jnp.full_like(g, large), grads(1.0))
        updates, after = optimizer.update(spike, before, params)
        assert not any(np.any(u) for u in jax.tree.leaves(updates))
        jax.tree.map(np.testing.assert_array_equal, after.state, before.state)
        assert np.isfinite(after.norm)
        assert int(after.skipped) == 1


def test_a_gradient_that_is_not_finite_is_no_spike():
    """A training must stop at it."""
    optimizer = fbp.SpikesSkipped(optax.sgd(1.0), warmup=1)
    params = grads(1.0)
    _, before = optimizer.update(grads(1.0), optimizer.init(params), params)
    for bad in (np.inf, np.nan):
        updates, after = optimizer.update(grads(bad), before, params)
        assert not np.isfinite(optax.tree.norm(updates))
        assert (after.norm, after.seen, after.skipped) == (before.norm, before.seen, 0)


@pytest.mark.parametrize("first", [0.0, np.inf])
def test_where_nothing_is_usual_nothing_is_skipped(first):
    sizes, state = walked([first] * 20 + [1.0] * 50)
    assert (sizes[20:] == 1).all()
    assert int(state.skipped) == 0
    assert 0 < state.norm <= 1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_goes_with_the_other_wrappers(dtype):
    params = grads(1.0, dtype)
    for optimizer in (
        fbp.Averaged(fbp.SpikesSkipped(fbp.Clipped(optax.adam(0.1), 1.0), warmup=1)),
        fbp.LossScaled(fbp.SpikesSkipped(optax.adam(0.1), warmup=1)),
    ):
        state = optimizer.init(params)
        for norm in (1.0, 1e4):
            updates, new = optimizer.update(grads(norm, dtype), state, params)
            same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, new, state)
            assert all(jax.tree.leaves(same))
            state = new
        assert not any(np.any(u) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: fbp.SpikesSkipped(optax.sgd(1), 1.0), "SpikesSkipped: expected times above 1"),
        (lambda: fbp.SpikesSkipped(optax.sgd(1), decay=1.0), r"expected decay in \[0, 1\), got 1"),
        (lambda: fbp.SpikesSkipped(optax.sgd(1), warmup=0), "expected a warmup of 1 or more"),
        (lambda: fbp.SpikesSkipped(fbp.LossScaled(optax.sgd(1))), "the scale outermost"),
    ],
)
def test_mistakes(made, said):
    with pytest.raises((ValueError, TypeError), match=said):
        made()


@pytest.mark.slow
def test_not_inside_a_backward():
    model = fbp.models.gpt2(vocab=16, context=8, layers=2, heads=2, width=8)
    objective = fbp.models.NextToken(model)
    optimizer = fbp.SpikesSkipped(optax.sgd(0.1))
    step = fbp.step_of(objective, optimizer, in_backward=True)
    state = fbp.state_of(objective.init(KEY), optimizer)
    ids = jnp.zeros((2, 8), jnp.int32)
    with pytest.raises((ValueError, TypeError), match=r"^in_backward: expected an optimizer"):
        step(state, (ids, ids))


def test_a_run_counts_them(tmp_path, monkeypatch, capsys):
    """One row of a table is far off: the steps that meet it are left out."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)).astype(np.float32)
    target = x.sum(-1, keepdims=True)
    target[7] = 1e4
    np.savez("rows.npz", x=x, target=target)
    (tmp_path / "far_off.py").write_text(
        "import fbp, numpy as np\n"
        "def make(data):\n"
        "    rows = np.load(data)\n"
        "    return fbp.Dense(2, 1), fbp.MeanSquaredError(), (rows['x'], rows['target'])\n"
    )
    args = ["train", "far_off.py:make", "--data", "rows.npz", "--batch", "8", "--lr", "0.05"]
    args += ["--steps", "400", "--optimizer", "sgd", "--schedule", "constant", "--no-check"]
    assert main([*args, "--name", "with", "--skip-spikes", "10"]) == 0
    lines = (tmp_path / "runs/with/metrics.jsonl").read_text().splitlines()
    assert 3 <= json.loads(lines[-1])["skipped"] <= 8  # one in 50 batches, but for the first 20
    from safetensors.numpy import load_file

    np.testing.assert_allclose(load_file("runs/with/last.safetensors")["w"], 1, atol=0.05)
