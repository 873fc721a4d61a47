"""Linear neurons make straight lines, however many; with ReLU the same network bends.

    python experiments/lines_and_curves.py

About 8 seconds on 2 CPU cores. Expected: on the curve the linear network's loss (about 0.44)
stays more than a hundred times the ReLU network's (about 0.001); on the two spirals the linear
network gets about 70 % of the held-out points right, the ReLU network all. Leaves a picture in
runs/lines_and_curves/.
"""

from pathlib import Path

import jax
import matplotlib
import numpy as np
import optax
from matplotlib.figure import Figure

import fbp
from fbp.train import TASKS, Run, batches


def train(task, activation: fbp.Layer | None, steps: int):
    """Returns the trained network's forward, and its loss on the held-out rows."""
    sizes = (len(task.encoding.columns), *task.hidden, task.encoding.outputs)
    model = fbp.models.mlp(sizes, activation)
    objective = fbp.Objective(model, task.loss())
    optimizer = optax.adam(optax.cosine_decay_schedule(task.lr, steps))
    state = fbp.state_of(objective.init(jax.random.key(0)), optimizer)
    draw = batches(*task.train, task.batch, seed=0)
    state, _ = fbp.steps_of(objective, optimizer)(state, draw(0, steps))

    def predict(x):
        return np.asarray(model.forward(state.params.model, x)[0])

    x, target = task.held_out
    return predict, float(objective.loss.value((), predict(x), target))


def main(steps: int = 2000, runs: Path = Path("runs")) -> dict[str, float]:
    """Trains all four, prints and draws them. Returns the numbers."""
    figure = Figure(figsize=(9, 7.5), layout="constrained", dpi=120)
    axes = figure.subplots(2, 2)
    numbers = {}
    for column, (name, activation) in enumerate((("linear", None), ("ReLU", fbp.Relu()))):
        curve = TASKS["curve"]()
        predict, loss = train(curve, activation, steps)
        numbers[f"curve {name}"] = loss
        print(f"curve    {name:6}  held-out loss {loss:.5f}")
        ax, order = axes[0, column], curve.train[0][:, 0].argsort()
        x, y = curve.train[0][order], curve.train[1][order]
        ax.plot(x, y, ".", color="#8a8a8a", markersize=3)
        ax.plot(x, predict(x), color="#2864a5")
        ax.set(title=f"{name}: loss {loss:.4f}", ylim=(-1.6, 1.6))

        spiral = TASKS["spiral"]()
        predict, _ = train(spiral, activation, steps)
        x, target = spiral.held_out
        accuracy = float((predict(x).argmax(-1) == target).mean())
        numbers[f"spiral {name}"] = accuracy
        print(f"spiral   {name:6}  held-out points right {accuracy:.1%}")
        ax = axes[1, column]
        a, b = np.meshgrid(np.linspace(-1.2, 1.2, 200), np.linspace(-1.2, 1.2, 200))
        grid = np.stack([a.ravel(), b.ravel()], -1).astype(np.float32)
        colors = matplotlib.colormaps["coolwarm"]
        ax.pcolormesh(a, b, predict(grid).argmax(-1).reshape(a.shape), cmap=colors, alpha=0.35)
        ax.scatter(*spiral.train[0].T, c=spiral.train[1], s=8, cmap=colors)
        ax.set(title=f"{name}: {accuracy:.0%} right")
    ratio = numbers["curve linear"] / numbers["curve ReLU"]
    print(f"on the curve the linear network's loss is {ratio:.0f} times the ReLU network's")
    run = Run.create(runs, None, "lines_and_curves")
    figure.savefig(run.folder / "picture.png")
    print(f"picture in {run.folder}")
    return numbers


if __name__ == "__main__":
    main()
