"""What is said of a run that had to stop: the step, the place, the rows, and what is kept."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fbp._layer import Key, PyTree
from fbp.train._at import At
from fbp.train._fault import bad_rows, first_fault
from fbp.train._watch import FAR, IN_A_ROW


def refused(
    at: At, loss: float, objective: Any, draw: Callable[[int, int], PyTree], key: Key
) -> str:
    """Why the step after the state was not taken: what is not finite, where, and in which rows."""
    batch = jax.tree.map(lambda a: a[0], draw(at.step, at.step + 1))
    step_key = None if key is None else jax.random.fold_in(key, at.step)
    where = first_fault(objective, at.state.params, batch, step_key)
    what = "gradient is not finite" if math.isfinite(loss) else f"loss is {loss}"
    rows = np.asarray(draw.rows(at.step)) if hasattr(draw, "rows") else None
    of = ""
    if rows is not None:
        bad = bad_rows(batch)
        named = rows[bad] if bad else rows
        shown = ", ".join(map(str, named[:8].tolist())) + (", ..." if len(named) > 8 else "")
        unit = getattr(draw, "unit", "training row")
        of = f"; {unit}{'' if len(named) == 1 else 's'} {shown}"
    return (
        f"step {at.step + 1}: the {what}: stopped before its update; first in "
        f"{where or 'a place that could not be told'}{of}{kept(at)}"
        f"{'' if where.endswith('batch is not finite') else '; a lower --lr may help'}"
    )


def diverges(at: At) -> str:
    return (
        f"step {at.step}: {at.watch.name} has been more than {FAR:g} times the first one's size "
        f"above the best, {at.watch.best:.3g}, at {IN_A_ROW} evaluations in a row: stopped"
        f"{kept(at)}; a lower --lr may help"
    )


def kept(at: At) -> str:
    return f"; the weights after step {at.watch.best_step}, the best by {at.watch.name}, are kept"
