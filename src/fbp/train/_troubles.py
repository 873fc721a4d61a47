"""What is said of a run that had to stop: the step, the place, the rows, and what is kept."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fbp._layer import Key, Params, PyTree
from fbp.train._at import At
from fbp.train._fault import bad_rows, first_fault, is_of_data
from fbp.train._watch import FAR, IN_A_ROW

# Of a loss that is not finite at the start, the batches among which the reason is looked for.
LOOKED_AT = 64


def refused(
    at: At, loss: float, objective: Any, draw: Callable[[int, int], PyTree], key: Key
) -> str:
    """Why the step after the state was not taken: what is not finite, where, and in which rows."""
    where, of = _place(objective, at.state.params, draw, at.step, key)
    what = "gradient is not finite" if math.isfinite(loss) else f"loss is {loss}"
    return (
        f"step {at.step + 1}: the {what}: stopped before its update; first in "
        f"{where or 'a place that could not be told'}{of}{kept(at)}"
        f"{'' if is_of_data(where) else '; a lower --lr may help'}"
    )


def from_the_start(
    objective: Any, params: Params, draw: Callable[[int, int], PyTree], steps: int, key: Key
) -> str:
    """Of a loss that is not finite before the first update: why, as ": first in ...", or "".

    Looks at the batches of the first steps. Where rows are drawn, all steps can be.
    """
    value = jax.jit(objective.value)
    for step in range(LOOKED_AT if hasattr(draw, "rows") else min(LOOKED_AT, steps)):
        if not math.isfinite(float(value(params, _batch(draw, step)))):
            where, of = _place(objective, params, draw, step, key)
            return f": {'' if is_of_data(where) else 'first in '}{where}{of}" if where else of
    return ""


def _place(
    objective: Any, params: Params, draw: Callable[[int, int], PyTree], step: int, key: Key
) -> tuple[str, str]:
    """Where a step is first not finite, and of which rows its batch is, or those at fault."""
    batch = _batch(draw, step)
    step_key = None if key is None else jax.random.fold_in(key, step)
    where = first_fault(objective, params, batch, step_key)
    if not hasattr(draw, "rows"):
        return where, ""
    rows, bad = np.asarray(draw.rows(step)), bad_rows(batch)
    if not bad and is_of_data(where):
        bad = _rows_at_fault(objective, params, batch, len(rows))
    named = rows[bad] if bad else rows
    shown = ", ".join(map(str, named[:8].tolist())) + (", ..." if len(named) > 8 else "")
    unit = getattr(draw, "unit", "training row")
    return where, f"; {unit}{'' if len(named) == 1 else 's'} {shown}"


def _rows_at_fault(objective: Any, params: Params, batch: PyTree, n: int) -> list[int]:
    """The places in a batch of which each alone has a loss that is not finite."""
    value = jax.jit(objective.value)
    alone = [jax.tree.map(lambda a, i=i: a[i : i + 1], batch) for i in range(n)]
    return [i for i, one in enumerate(alone) if not math.isfinite(float(value(params, one)))]


def _batch(draw: Callable[[int, int], PyTree], step: int) -> PyTree:
    return jax.tree.map(lambda a: a[0], draw(step, step + 1))


def diverges(at: At) -> str:
    return (
        f"step {at.step}: {at.watch.name} has been more than {FAR:g} times the first one's size "
        f"above the best, {at.watch.best:.3g}, at {IN_A_ROW} evaluations in a row: stopped"
        f"{kept(at)}; a lower --lr may help"
    )


def kept(at: At) -> str:
    return f"; the weights after step {at.watch.best_step}, the best by {at.watch.name}, are kept"
