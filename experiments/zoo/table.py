"""Seventeen research programs in fbp, beside the same in equinox and under jax.grad: a table.

    python experiments/zoo/table.py [NAME ...]

lines     of code, beside those of the same program in equinox: neither counts docstrings, comments,
          blank lines, nor what the other program imports (sizes, data, optimizers)
ms        of one training step, beside that of the same forward differentiated by jax.grad, with the
          same optimizer, and that of the program in equinox: medians of interleaved calls
error     the largest error of a gradient beside jax.grad's in float64, relative to the largest
          number of its array
check     the verdict of fbp.check
summary   its lines and its width
"""

import argparse
import ast
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fbp

FOLDER = Path(__file__).parent
PROGRAMS = [
    *["vae", "unet", "clip", "pinn", "actor_critic", "graph_network", "mixture", "seq2seq"],
    *["state_space", "vit", "gan", "rollout", "maml", "per_example", "distillation"],
    *["multi_task", "optimizers"],
]


def load(name: str) -> Any:
    """A program of the zoo, or its peer, `peers/NAME`."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))  # where a peer finds the program
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trainings(module: Any) -> list[tuple[Any, Any]]:
    """The objectives that a program trains, and their optimizers."""
    if hasattr(module, "turns"):
        return module.turns()
    return [(getattr(module, "trained", module.objective)(), module.OPTIMIZER)]


def objectives(module: Any) -> list[Any]:
    """Those whose gradient is one: K-FAC's is another direction."""
    return [o for o, _ in module.turns()] if hasattr(module, "turns") else [module.objective()]


def by_autodiff(module: Any, objective: Any) -> Callable[..., Any]:
    """What the objective's `value_and_grad` is without any rule written by hand."""
    if hasattr(module, "MAML"):

        def value(params: Any, batch: Any, key: Any) -> Any:
            def one(support: Any, query: Any) -> Any:
                d = jax.grad(objective.inner.value)(params, support)
                adapted = jax.tree.map(lambda p, d: p - module.RATE * d, params, d)
                return objective.inner.value(adapted, query)

            return jax.vmap(one)(*batch).mean()

        return jax.value_and_grad(value)
    return jax.value_and_grad(objective.value)


def error(module: Any, objective: Any) -> float:
    """The largest relative error of a gradient in float64, beside autodiff's."""
    key = jax.random.key(7)
    with jax.enable_x64(True):
        params, batch = jax.tree.map(_wide, (objective.init(key), module.batch(key)))
        _, ours = jax.jit(objective.value_and_grad)(params, batch, key)
        _, theirs = jax.jit(by_autodiff(module, objective))(params, batch, key)
        pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
        return max(float(jnp.abs(a - b).max() / (jnp.abs(b).max() + 1e-300)) for a, b in pairs)


def _wide(a: Any) -> Any:
    return a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a


def natural_gradient() -> Callable[..., Any]:
    """The direction of K-FAC from dy by jax.grad: the gradient of a 0 added to each layer's y."""
    peer = load("peers/per_example")

    def value_and_direction(params: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        names = [name for name in params.model if name.startswith("dense")]
        layers = [(params.model[name]["w"], params.model[name]["b"]) for name in names]
        value, directions = peer.natural(layers, jnp.tanh, batch)
        pairs = zip(names, directions, strict=True)
        made = {name: {"w": w, "b": b} for name, (w, b) in pairs}
        return value, params._replace(model={**params.model, **made})

    return value_and_direction


def autodiff_step(module: Any) -> Callable[..., Any]:
    """The step of `fbp.step_of` or `fbp.step_in_turn`, but its gradients by jax.grad."""
    pairs = trainings(module)
    if hasattr(module, "trained"):
        gradients = [natural_gradient()]
    else:
        gradients = [by_autodiff(module, objective) for objective, _ in pairs]
    updates = [
        (o if isinstance(o, fbp.Averaged) else optax.with_extra_args_support(o)).update
        for _, o in pairs
    ]

    def step(state: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        params, opt_states, number = state
        key, values, after = jax.random.fold_in(key, number), [], []
        for i, (gradient, update, opt_state) in enumerate(
            zip(gradients, updates, opt_states, strict=True)
        ):
            own_key = jax.random.fold_in(key, i) if len(pairs) > 1 else key
            value, d = gradient(params, batch, own_key)
            change, opt_state = update(d, opt_state, params, value=value, grad=d)
            params = optax.apply_updates(params, change)
            values.append(value)
            after.append(opt_state)
        return (params, tuple(after), number + 1), values

    return jax.jit(step, donate_argnums=0)


def steps(module: Any) -> dict[str, tuple[Any, Any]]:
    """The contenders: for each its step and its state."""
    key, pairs = jax.random.key(0), trainings(module)
    if hasattr(module, "turns"):
        step, state = fbp.step_in_turn(pairs), fbp.state_in_turn(pairs, key)
        plain = fbp.state_in_turn(pairs, key)
    else:
        ((objective, optimizer),) = pairs
        step = fbp.step_of(objective, optimizer)
        state = fbp.state_of(objective.init(key), optimizer)
        plain = fbp.state_of(objective.init(key), optimizer)
        plain = plain._replace(opt_state=(plain.opt_state,))
    contenders = {"fbp": (step, state), "jax.grad": (autodiff_step(module), tuple(plain))}
    if importlib.util.find_spec("equinox") and (FOLDER / f"peers/{name_of(module)}.py").exists():
        peer = load(f"peers/{name_of(module)}")
        contenders["equinox"] = (peer.step, peer.start(key))
    return contenders


def milliseconds(module: Any, seconds: float = 4.0) -> dict[str, float]:
    """The median time of a step of each contender, taking turns.

    Every step starts where the first one did: after thousands on one batch, gradients would be
    numbers too small for float32, which take a CPU fifty times as long.
    """
    key, times = jax.random.key(1), {}
    batch = jax.jit(module.batch)(key)
    running = steps(module)

    def timed(name: str) -> float:
        step, start = running[name]
        state = jax.block_until_ready(jax.tree.map(_copied, start))  # it is donated
        begin = time.perf_counter()
        jax.block_until_ready(step(state, batch, key))
        return 1e3 * (time.perf_counter() - begin)

    for name in running:
        timed(name)  # compiles
        times[name] = []
    rng, end = np.random.default_rng(0), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["fbp"]) < 10:
        for name in rng.permutation(list(running)):
            times[name].append(timed(name))
    return {name: statistics.median(ts) for name, ts in times.items()}


def _copied(a: Any) -> Any:
    return a.copy() if isinstance(a, jax.Array) else a


def lines(path: Path, shared: Set[str] = frozenset()) -> int:
    """Lines with code, without docstrings and without what defines a shared name."""
    tree = ast.parse(path.read_text())
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            left_out |= _span(node.body[0])
    for node in tree.body:
        names = {getattr(node, "name", "")} | {
            target.id
            for place in getattr(node, "targets", [])
            for target in ast.walk(place)
            if isinstance(target, ast.Name)
        }
        if names & shared or (isinstance(node, ast.ImportFrom) and node.module in PROGRAMS):
            left_out |= _span(node)
    text = path.read_text().splitlines()
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and i not in left_out
        for i, line in enumerate(text, 1)
    )


def _span(node: Any) -> set[int]:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return set(range(first, node.end_lineno + 1))


def counted_lines(name: str) -> tuple[int, int]:
    """Those of a program and of its peer, neither with what the peer imports from the program."""
    peer = FOLDER / f"peers/{name}.py"
    imports = [
        node
        for node in ast.parse(peer.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module == name
    ]
    shared = {alias.name for node in imports for alias in node.names}
    return lines(FOLDER / f"{name}.py", shared), lines(peer)


def verdict(module: Any, budget: str) -> str:
    key = jax.random.key(3)
    verdicts = [
        fbp.check(o, o.init(key), module.batch(key), key, budget=budget) for o in objectives(module)
    ]
    return ", ".join(str(report.verdict) for report in verdicts)


def summary(module: Any) -> str:
    """The table of layers of a program's model."""
    key = jax.random.key(3)
    objective = objectives(module)[0]
    objective = getattr(objective, "objective", getattr(objective, "inner", objective))
    batch = module.batch(key)
    if hasattr(module, "MAML"):
        batch = jax.tree.map(lambda a: a[0], batch[0])  # the points of one task
    x, _ = objective.prepare(batch, key) if objective.prepare else batch
    return str(fbp.summary(objective.model, x, key))


def name_of(module: Any) -> str:
    return module.__name__


def row(name: str, budget: str, seconds: float) -> list[str]:
    module = load(name)
    own, theirs = counted_lines(name)
    ms = milliseconds(module, seconds)
    worst = max(error(module, objective) for objective in objectives(module))
    table = summary(module).splitlines()
    beside = [
        f"{ms[peer]:.2f} ({ms['fbp'] / ms[peer]:.2f})" if peer in ms else "-"
        for peer in ("jax.grad", "equinox")
    ]
    return [
        name,
        f"{own} / {theirs} = {own / theirs:.2f}",
        f"{ms['fbp']:.2f}",
        *beside,
        f"{worst:.0e}",
        verdict(module, budget),
        f"{len(table)} x {max(map(len, table))}",
    ]


def main(names: list[str], budget: str = "fast", seconds: float = 4.0) -> None:
    if not importlib.util.find_spec("equinox"):
        print("skipped: equinox is not installed")
    print(f"{os.cpu_count()} cores, jax {jax.__version__}; (fbp's time / theirs)")
    header = ["program", "lines fbp / equinox", "fbp ms", "jax.grad ms", "equinox ms"]
    print(" | ".join([*header, "error", "check", "summary"]), flush=True)
    for name in names or PROGRAMS:
        print(" | ".join(row(name, budget, seconds)), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    parser = argparse.ArgumentParser(description="The zoo's table.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--budget", default="fast", help="that of fbp.check")
    parser.add_argument("--seconds", type=float, default=4.0, help="of timing, for each program")
    args = parser.parse_args()
    main(args.names, args.budget, args.seconds)
