"""Learning rates from too small to divergent, dozens of them and several seeds trained at once.

    python experiments/learning_rates.py

About 20 seconds on 2 CPU cores, for 288 networks in one vmapped program. Expected: with plain
gradient descent on the curve, rates below 0.001 have hardly begun after 2,000 steps, the best lie
between 0.02 and 0.06, and from 0.2 on nearly every network diverges and none learns. Leaves a
picture in runs/learning_rates/.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import fbp
from fbp.train import TASKS, Run


def train_all(rates: jax.Array, seeds: int, steps: int) -> jax.Array:
    """Returns the loss before every step: (rates, seeds, steps)."""
    task = TASKS["curve"]()
    model = fbp.models.mlp((1, 32, 32, 1))
    gradient = fbp.value_and_grad(model, fbp.MeanSquaredError())

    def train(rate: jax.Array, key: jax.Array) -> jax.Array:
        def step(params, _):
            value, dparams = gradient(params, task.train)
            return jax.tree.map(lambda p, d: p - rate * d, params, dparams), value

        _, losses = jax.lax.scan(step, model.init(key), length=steps)
        return losses

    over_seeds = jax.vmap(train, (None, 0))
    keys = jax.random.split(jax.random.key(0), seeds)
    return jax.jit(jax.vmap(over_seeds, (0, None)))(rates, keys)


def main(rates: int = 36, seeds: int = 8, steps: int = 2000, runs: Path = Path("runs")):
    """Trains, prints a table and draws it. Returns the rates and the last losses."""
    grid = jnp.logspace(-4, 0, rates)
    losses = np.asarray(train_all(grid, seeds, steps))
    last = np.where(np.isfinite(losses).all(-1), losses[..., -1], np.inf)
    median, best = np.median(last, 1), np.median(last, 1).min()
    variance = float(np.var(TASKS["curve"]().train[1]))

    print(f"{rates * seeds} networks, {steps} steps each; predicting the mean: loss {variance:.3f}")
    print("     rate   median loss   diverged   verdict")
    for rate, loss, row in zip(grid, median, last, strict=True):
        diverged = int(np.isinf(row).sum())
        # Twice the best is near enough; stuck above a straight line's loss is not learning.
        verdict = (
            "right"
            if loss <= 2 * best
            else "too large"
            if rate > grid[median.argmin()]
            else "too small"
        )
        print(f"{rate:9.5f}   {loss:11.5f}   {diverged:4}/{seeds}     {verdict}")

    figure = Figure(figsize=(10, 3.8), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    shown = np.where(np.isfinite(last), last, np.nan)
    left.plot(grid, shown, ".", color="#8a8a8a", markersize=4)
    left.plot(grid, np.where(np.isfinite(median), median, np.nan), color="#2864a5")
    left.set(xscale="log", yscale="log", xlabel="learning rate", title=f"loss after {steps} steps")
    for i in (rates // 4, int(median.argmin()), int(np.flatnonzero(np.isinf(median))[:1].sum())):
        # A network that has diverged counts as infinitely bad from then on.
        bad = np.where(np.isfinite(losses[i]), losses[i], np.inf)
        right.plot(np.median(bad, 0), label=f"rate {grid[i]:.3g}")
    right.set(
        yscale="log", xlabel="step", title="too small, right, too large", ylim=(best / 2, 1e3)
    )
    right.legend(frameon=False)
    run = Run.create(runs, None, "learning_rates")
    figure.savefig(run.folder / "picture.png")
    print(f"picture in {run.folder}")
    return np.asarray(grid), last


if __name__ == "__main__":
    main()
