"""python experiments/step_time.py [--rounds N] [--chunk N] [--json FILE]

About 1 minute on the 2 cores of a 2.6 GHz Xeon (AVX-512), with jax 0.10.2, flax 0.12.8, equinox
0.13.8 and torch 2.13. Expected there: microseconds a step, medians of 30 rounds,

    fbp, scanned              105     fbp, a call a step              155
    jax + optax, scanned      105     jax + optax, a call a step      150
    matrix products alone      73     flax nnx, nnx.cached_partial    245
    flax nnx, nnx.jit         775     equinox, filter_jit             400
    torch eager, fused Adam   390     (1 thread; 2 are as fast, or collapse)

How long one training step of a 64-128-128-10 MLP takes (ReLU, softmax cross-entropy, Adam, batch
64, float32), beside the same step in plain JAX, Flax NNX, Equinox and PyTorch, each written the way
its documentation writes it, and beside the step's matrix products alone, as XLA runs them: in one
thread, like the step itself. Scanning steps is open to every library on JAX: what it wins is the
price of a call.

All variants start from the same parameters, see the same batches in the same order, and must agree
on the first losses before anything is timed. They take turns, a chunk of steps each, so that a
machine that slows down slows all of them; ratios are taken within a round, then the median.
"""

import argparse
import functools
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import fbp

Run = Callable[[], Any]  # a chunk of steps, finished when it returns; gives their losses

SIZES = (64, 128, 128, 10)
BATCH = 64
FBP, FBP_CALL, PRODUCTS = "fbp, scanned", "fbp, a call a step", "matrix products alone"

model = fbp.models.mlp(SIZES)
objective = fbp.Objective(model, fbp.SoftmaxCrossEntropy())
adam = optax.adam(1e-3)


def scanned(steps: Callable, state: Any, batches: Any) -> Run:
    def run() -> Any:
        nonlocal state
        state, losses = jax.block_until_ready(steps(state, batches))
        return losses

    return run


def called(step: Callable, state: Any, batches: Any) -> Run:
    """The same, one call a step; `step` gives the new state and the loss."""
    batches = list(zip(*batches, strict=True))

    def run() -> Any:
        nonlocal state
        losses = []
        for batch in batches:
            state, value = step(state, batch)
            losses.append(value)
        jax.block_until_ready((state, losses))
        return losses

    return run


def start() -> fbp.State:
    return fbp.state_of(objective.init(jax.random.key(0)), adam)


def weights() -> list[tuple[np.ndarray, np.ndarray]]:
    """The parameters that all start from: (w, b) of each dense layer."""
    params = start().params.model
    layers = [params[f"dense_{i}"] for i in range(1, len(SIZES))]
    return [(np.asarray(layer["w"]), np.asarray(layer["b"])) for layer in layers]


def mean_cross_entropy(y: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()


def autodiff(batches: Any, drive: Callable[..., Run]) -> Run:
    """Plain JAX: value_and_grad of a function, and optax."""

    def objective(params: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        *hidden, (w_last, b_last) = params
        for w, b in hidden:
            x = jax.nn.relu(x @ w + b)
        return mean_cross_entropy(x @ w_last + b_last, labels)

    def step(state: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, opt_state = state
        value, grads = jax.value_and_grad(objective)(params, *batch)
        updates, opt_state = adam.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    params = jax.tree.map(jnp.array, weights())
    steps = step if drive is called else functools.partial(lax.scan, step)
    return drive(jax.jit(steps, donate_argnums=0), (params, adam.init(params)), batches)


def flax(batches: Any, cached: bool) -> Run:
    """Flax NNX: nnx.jit over the model and nnx.Optimizer, both kept in place."""
    from flax import nnx

    class MLP(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            pairs = itertools.pairwise(SIZES)
            self.layers = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in pairs])

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers[:-1]:
                x = nnx.relu(layer(x))
            return self.layers[-1](x)

    @nnx.jit
    def train_step(mlp: MLP, optimizer: nnx.Optimizer, x: Any, labels: Any) -> jax.Array:
        def objective(mlp: MLP) -> jax.Array:
            return mean_cross_entropy(mlp(x), labels)

        value, grads = nnx.value_and_grad(objective)(mlp)
        optimizer.update(mlp, grads)
        return value

    mlp = MLP(nnx.Rngs(0))
    for layer, (w, b) in zip(mlp.layers, weights(), strict=True):
        layer.kernel[...], layer.bias[...] = w, b
    optimizer = nnx.Optimizer(mlp, adam, wrt=nnx.Param)
    partial = nnx.cached_partial if cached else functools.partial
    step = partial(train_step, mlp, optimizer)
    # The update is in the same program as the loss: who waits for the one waits for the other.
    return called(lambda _, batch: (None, step(*batch)), None, batches)


def equinox(batches: Any) -> Run:
    """Equinox: filter_jit and filter_value_and_grad over the model, a tree."""
    import equinox as eqx

    def objective(mlp: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        return mean_cross_entropy(jax.vmap(mlp)(x), labels)

    @eqx.filter_jit
    def step(state: Any, batch: Any) -> tuple[Any, jax.Array]:
        mlp, opt_state = state
        value, grads = eqx.filter_value_and_grad(objective)(mlp, *batch)
        updates, opt_state = adam.update(grads, opt_state, eqx.filter(mlp, eqx.is_array))
        return (eqx.apply_updates(mlp, updates), opt_state), value

    mlp = eqx.nn.MLP(SIZES[0], SIZES[-1], SIZES[1], len(SIZES) - 2, key=jax.random.key(0))
    flat = [a for w, b in weights() for a in (jnp.array(w.T), jnp.array(b))]
    mlp = eqx.tree_at(lambda m: [a for d in m.layers for a in (d.weight, d.bias)], mlp, flat)
    return called(step, (mlp, adam.init(eqx.filter(mlp, eqx.is_array))), batches)


def torch_eager(batches: Any, threads: int, how: str) -> Run:
    """PyTorch without a compiler; Adam is `how`, fused or foreach."""
    import torch

    layers: list[torch.nn.Module] = []
    for w, b in weights():
        dense = torch.nn.Linear(*w.shape)
        dense.load_state_dict({"weight": torch.tensor(w.T.copy()), "bias": torch.tensor(b)})
        layers += [dense, torch.nn.ReLU()]
    mlp = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(mlp.parameters(), lr=1e-3, **{how: True})
    xs, labels = (torch.tensor(np.asarray(a)) for a in batches)
    pairs = list(zip(xs, labels.long(), strict=True))

    def run() -> Any:
        torch.set_num_threads(threads)
        losses = []
        for x, target in pairs:
            optimizer.zero_grad()
            value = torch.nn.functional.cross_entropy(mlp(x), target)
            value.backward()
            optimizer.step()
            losses.append(value.detach())
        return losses

    return run


def torch_fastest(batches: Any, notes: list[str]) -> dict[str, Run]:
    """PyTorch with its fastest Adam and number of threads, found in a short try of each."""
    import torch

    few = jax.tree.map(lambda a: a[:50], batches)
    times, builds = {}, {}
    for threads in (1, 2)[: os.cpu_count()]:
        for how in ("fused", "foreach"):
            name = f"torch eager, {how} Adam, {threads} thread{'s'[: threads - 1]}"
            builds[name] = functools.partial(torch_eager, threads=threads, how=how)
            try:
                times[name] = fastest_of([builds[name](few)], len(few[0]))[0]
            except RuntimeError as error:  # a build without this Adam on the CPU
                notes.append(f"skipped: {name}: {error}")
    torch.set_num_threads(1)
    best = min(times, key=times.__getitem__)
    for name, t in times.items():
        verdict = ", kept" if name == best else ", collapsed" if t > 3 * times[best] else ""
        notes.append(f"tried: {name}: {t:.0f} us at best{verdict}")
    return {best: builds[best](batches)}


# The step's eight products, each in the ways it can be written. XLA picks another kernel for a
# transposed factor; the barrier makes it transpose first and use the kernel for plain factors.
FORWARD = {"x @ w": lambda x, w: x @ w, "(w.T @ x.T).T": lambda x, w: (w.T @ x.T).T}
DX = {"dy @ w.T": lambda dy, w: dy @ w.T, "(w @ dy.T).T": lambda dy, w: (w @ dy.T).T}
DW = {
    "x.T @ dy": lambda x, dy: x.T @ dy,
    "(dy.T @ x).T": lambda x, dy: (dy.T @ x).T,
    "copy(x.T) @ dy": lambda x, dy: lax.optimization_barrier(x.T) @ dy,
}


def products(batches: Any, chosen: Sequence[str]) -> Run:
    """The bare products of each step: y = x w forward, then dw and dx from a given dy.

    Nothing can be left out: every product needs the step's own batch, and its result is carried.
    """
    n = len(SIZES) - 1
    forward, dx, dw = (chosen[:n], chosen[n : 2 * n - 1], chosen[2 * n - 1 :])

    def step(carry: Any, batch: Any) -> tuple[Any, None]:
        ws, _, _ = carry
        x, dy = batch
        xs = [x]
        for way, w in zip(forward, ws, strict=True):
            xs.append(FORWARD[way](xs[-1], w))
        y, dws = xs.pop(), list(ws)
        for i in reversed(range(n)):
            dws[i] = DW[dw[i]](xs[i], dy)
            if i:
                dy = DX[dx[i - 1]](dy, ws[i])
        return (ws, dws, y), None

    xs, _ = batches
    dys = jax.random.normal(jax.random.key(2), (*xs.shape[:2], SIZES[-1])) / BATCH
    ws = [jnp.array(w) for w, _ in weights()]
    carry = (ws, jax.tree.map(jnp.zeros_like, ws), jnp.zeros((BATCH, SIZES[-1])))
    steps = jax.jit(functools.partial(lax.scan, step), donate_argnums=0)
    compiled = steps.lower(carry, (xs, dys)).compile()
    count = compiled.as_text().count(" dot(")
    if count != 3 * n - 1:
        raise RuntimeError(f"expected {3 * n - 1} products in the compiled program, found {count}")
    return scanned(compiled, carry, (xs, dys))


def fastest_products(batches: Any, notes: list[str]) -> Run:
    """The products in the fastest ways, found one product at a time: the limit."""
    n = len(SIZES) - 1
    ways = [FORWARD] * n + [DX] * (n - 1) + [DW] * n
    chosen = [next(iter(way)) for way in ways]
    run = products(batches, chosen)
    for i, options in enumerate(ways):
        for way in list(options)[1:]:
            trial = [*chosen[:i], way, *chosen[i + 1 :]]
            other = products(batches, trial)
            before, after = fastest_of([run, other], len(batches[0]))
            if after < before:
                chosen, run = trial, other
    notes.append(f"products: {', '.join(chosen)}")
    return run


def fastest_of(runs: Sequence[Run], chunk: int, repeats: int = 7) -> list[float]:
    """The least time of each, taking turns; the first turn compiles."""
    turns = [[timed(run, chunk) for run in runs] for _ in range(repeats + 1)]
    return [min(times) for times in zip(*turns[1:], strict=True)]


def timed(run: Run, chunk: int) -> float:
    """Microseconds a step."""
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) / chunk * 1e6


def variants(batches: Any, notes: list[str]) -> dict[str, Run]:
    runs = {
        FBP: scanned(fbp.steps_of(objective, adam), start(), batches),
        FBP_CALL: called(fbp.step_of(objective, adam), start(), batches),
        "jax + optax, scanned": autodiff(batches, scanned),
        "jax + optax, a call a step": autodiff(batches, called),
    }
    peers: dict[str, Callable[[], dict[str, Run]]] = {
        "flax": lambda: {
            "flax nnx, nnx.jit": flax(batches, cached=False),
            "flax nnx, nnx.cached_partial": flax(batches, cached=True),
        },
        "equinox": lambda: {"equinox, filter_jit": equinox(batches)},
        "torch": lambda: torch_fastest(batches, notes),
    }
    for name, build in peers.items():
        try:
            runs |= build()
        except ModuleNotFoundError:
            notes.append(f"skipped: {name} is not installed")
    return runs


def check_losses(runs: dict[str, Run]) -> None:
    """Runs every variant once; raises unless their first losses are the same."""
    expected = np.asarray(runs[FBP]())[:10]
    for name, run in list(runs.items())[1:]:
        losses = np.asarray(run())[:10]
        tolerance = 1e-4 if name.startswith("torch") else 1e-5
        if not np.abs(losses - expected).max() < tolerance:
            raise RuntimeError(f"{name}: expected the losses {expected}, got {losses}")


def table(times: dict[str, list[float]]) -> str:
    columns = {f"/ {FBP}": FBP, f"/ {FBP_CALL}": FBP_CALL, f"/ {PRODUCTS}": PRODUCTS}
    rows = [["us a step", "median", "min", "max", *columns]]
    for name, ts in times.items():
        row = [name, *(f"{f(ts):.1f}" for f in (statistics.median, min, max))]
        for other in columns.values():
            ratios = [t / u for t, u in zip(ts, times[other], strict=True)]
            row.append(f"{statistics.median(ratios):.2f}")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def main(rounds: int = 30, chunk: int = 400, json_file: str | None = None) -> str:
    """Times every variant and returns the table, with a line for each peer that is missing."""
    x_key, label_key = jax.random.split(jax.random.key(1))
    batches = (
        jax.random.normal(x_key, (chunk, BATCH, SIZES[0])),
        jax.random.randint(label_key, (chunk, BATCH), 0, SIZES[-1]),
    )
    notes: list[str] = []
    runs = variants(batches, notes)
    check_losses(runs)
    runs[PRODUCTS] = fastest_products(batches, notes)

    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        # Forwards, then backwards: nobody always comes after the same neighbour.
        for name in list(runs)[:: -1 if i % 2 else 1]:
            times[name].append(timed(runs[name], chunk))
    for name, ts in times.items():
        if collapsed := sum(t > 3 * statistics.median(ts) for t in ts):
            notes.append(f"collapsed: {name}, in {collapsed} of {rounds} rounds")
    if json_file:
        Path(json_file).write_text(json.dumps({"us": times, "notes": notes}, indent=1))
    where = f"{os.cpu_count()} cores, jax {jax.__version__}, {rounds} rounds of {chunk} steps"
    return "\n".join([*notes, where, "", table(times)])


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    parser = argparse.ArgumentParser(description="Times a training step beside its peers.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--chunk", type=int, default=400)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    print(main(args.rounds, args.chunk, args.json))
