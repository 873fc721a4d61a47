"""What a page says of the update: each layer's steps, and what became of the loss."""

from typing import Any

import jax
import numpy as np

from fbp._tree import named_leaves
from fbp.explainer._page_arrays import Pool
from fbp.explainer._page_named import Ref
from fbp.explainer._text import update_table
from fbp.explainer._traced import TracedStep, Update

UPDATE = "update"


def with_update(
    explanation: TracedStep, update: Update, rows: list[dict[str, Any]], pool: Pool
) -> dict[str, int]:
    """Adds to each row, the last of them the loss, the steps of its parameters, and returns the
    first row of each parameter by its name.

    What is looked for is a parameter of the step by the layer's path, or of a `Stack` its copy's
    part of one. Where a layer was given other numbers, as in a wrapper that casts or adds to them,
    nothing is added. The loss may have a parameter of the model: it is known by its numbers.
    """
    params = named_leaves(explanation.params)
    grads, changes, after = (
        dict(zip(params, jax.tree.leaves(tree), strict=True))
        for tree in (explanation.grads, update.change, update.params)
    )
    root = "model." if hasattr(explanation.params, "model") else ""
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        if not row["leaf"]:
            continue
        is_loss = row is rows[-1]
        if is_loss:
            given, given_grads = explanation.loss.params, explanation.loss.dparams
        else:
            one = explanation.layers[row["number"]].passes[row["copy"]]
            given, given_grads = one.params, one.dparams
        names = [ref[0] for ref in row["arrays"] if ref[1] == "params"]
        own = named_leaves(given)
        refs: list[Ref] = []
        for last, a in own.items():
            name = last or next(iter(names), "")
            at = f"{root}{row['path']}.{last}".strip(".")
            found = _same(params, a) if is_loss else at if at in params else None
            if name not in names or found is None:
                continue
            copies, copy = row["copies"], row["copy"]
            before, *parts = (
                _part(tree[found], a, copies, copy) for tree in (params, changes, after, grads)
            )
            if before is None or before.dtype != a.dtype or not np.array_equal(before, a):
                continue
            if a.dtype.kind in "iub":  # nothing moves an integer
                continue
            first.setdefault(found, number)
            refs.append(_ref(f"step {name}", parts[0], a, pool))
            refs.append(_ref(f"{name} after", parts[1], a, pool))
            mine = named_leaves(given_grads).get(last)
            if mine is None or parts[2] is None or not np.array_equal(mine, parts[2]):
                # Of a parameter that is used in several places, their gradients added up.
                refs.append(_ref(f"d{name} in all", parts[2], a, pool))
        order = {name: i for i, name in enumerate(names)}
        refs.sort(key=lambda ref: order[_parameter(ref[0])])
        row["arrays"] += refs
    return first


def update_of(explanation: TracedStep, update: Update, first: dict[str, int]) -> dict[str, Any]:
    """What the page says of the whole, with the first row of each parameter."""
    table = update_table(explanation)
    return {
        "table": table,
        "moves": any(np.any(change) for change in jax.tree.leaves(update.change)),
        "before": f"{explanation.value:.6g}",
        "after": f"{update.value:.6g}",
        "foretold": f"{update.foretold:.6g}",
        "rate": _rate(explanation, update),
        "rows": [first.get(line[0], -1) for line in table[1:]],
    }


def update_row(event: int) -> dict[str, Any]:
    """The row of the network for the update."""
    return {
        "path": UPDATE,
        "copy": 0,
        "copies": 1,
        "cls": "the optimizer",
        "depth": 0,
        "leaf": True,
        "rule": [],
        "kind": "",
        "arrays": [],
        "proof": None,
        "forward": event,
        "backward": -1,
        "again": -1,
    }


def _parameter(name: str) -> str:
    """The parameter of "step w", "w after" or "dw in all"."""
    if name.startswith("step "):
        return name.removeprefix("step ")
    if name.endswith(" after"):
        return name.removesuffix(" after")
    return name.removesuffix(" in all").removeprefix("d")


def _same(params: dict[str, Any], a: Any) -> str | None:
    return next((name for name, p in params.items() if np.array_equal(p, a)), None)


def _part(whole: Any, like: Any, copies: int, copy: int) -> np.ndarray | None:
    """What a copy has of a parameter; None if that is not of its shape."""
    whole, shape = np.asarray(whole), np.shape(like)
    if whole.shape == shape:
        return whole
    if whole.size == copies * np.size(like) and whole.shape[whole.ndim - len(shape) :] == shape:
        return whole.reshape(copies, *shape)[copy]
    return None


def _ref(name: str, a: Any, like: Any, pool: Pool) -> Ref:
    return [name, UPDATE, pool.put(a), list(np.shape(a)), str(np.asarray(like).dtype)]


def _rate(explanation: TracedStep, update: Update) -> float | None:
    """The learning rate, where every step is that many times the gradient, but for rounding."""
    trees = explanation.grads, update.change, update.params
    pairs = [
        [np.asarray(a, np.float64).ravel() for a in leaves]
        for leaves in zip(*map(jax.tree.leaves, trees), strict=True)
        if leaves[0].dtype != jax.dtypes.float0
    ]
    d, change, after = (np.concatenate([pair[i] for pair in pairs]) for i in range(3))
    if not np.isfinite(d).all() or not d.any():
        return None
    rate = -float((d * change).sum() / (d * d).sum())
    rounding = 4 * np.finfo(np.float32).eps * (np.abs(after) + np.abs(change))
    # What rounding hides says nothing.
    said = np.abs(change).max() > 100 * rounding.max()
    return rate if said and (np.abs(change + rate * d) <= rounding).all() else None
