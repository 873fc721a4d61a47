"""A last row that is the sum of the others, as sheets end with."""

import numpy as np

from fbp.train.tables._table import Table

# Numbers of few digits add up to this; fewer rows might add up by chance.
CLOSE, LEAST_ROWS = 1e-6, 5


def summed(table: Table) -> list[str]:
    """The columns whose last number is the sum of all others."""
    found = []
    for name, cells in table.columns.items():
        if len(table) < LEAST_ROWS or cells.dtype != np.float64:
            continue
        *above, last = cells[np.isfinite(cells)] if np.isfinite(cells[-1]) else (0.0,)
        total = float(np.sum(above))
        if len(above) >= LEAST_ROWS - 1 and total and abs(last - total) <= CLOSE * abs(total):
            found.append(name)
    return found
