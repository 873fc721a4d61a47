"""Decides which columns of a table are inputs, and how each is encoded."""

import math
import re

import numpy as np

from fbp.train.tables._encoding import Column
from fbp.train.tables._labels import joined, spellings
from fbp.train.tables._table import InputError, Table

MAX_CATEGORIES = 50
# A number this many interquartile ranges away is a slip, or means something else, as -999 does.
FAR = 1e6
_NUMBERING = re.compile(
    r"(.*[_ .])?(id|ids|index|idx|rownames?|row|rows|nr|no|number|num|obs|observation|case)"
    r"|unnamed(: ?\d+)?|x|",
    re.IGNORECASE,
)


def fit_inputs(
    table: Table, target: str, rows: np.ndarray, chosen: tuple[str, ...] | None = None
) -> tuple[tuple[Column, ...], list[str]]:
    """Decides from the training rows how to encode the inputs; returns that and lines to print.

    Numbers are standardized; text becomes one column per category. Left out is what is constant,
    what numbers the rows, and text with more than 50 values, or with more than half as many values
    as there are rows: it is likely a name. A line on what is left out begins with NOT USED.

    Args:
      table: its columns.
      target: the column to predict.
      rows: those to train on.
      chosen: the columns to use, instead of all; of these, numberings are kept.

    Raises:
      InputError: a chosen column cannot be used; numbers are too far apart; no column is left.
    """
    for name in chosen or ():
        table.column(name)
        if name == target:
            raise InputError(f"{table.source}: expected inputs besides the target {target!r}")
    names = [name for name in table.columns if name != target]
    said, columns = [], []
    numbering: list[tuple[str, str]] = []
    together = _same_array(table, target)
    for name in names if chosen is None else chosen:
        if chosen is None and name in together:
            said.append(
                f"NOT USED: column {name!r}: of the array of the target, {table.arrays[name]!r}"
            )
            continue
        said += table.said.get(name, ())
        found, why, lines = _encode(table, name, rows)
        if not found and chosen is not None:
            raise InputError(f"{table.source}: column {name!r} cannot be an input: {why}")
        if found and chosen is None and (what := _numbers_rows(name, table.columns[name])):
            numbering.append((name, what))
        columns += found
        said += lines if found else [f"NOT USED: column {name!r}: {why}"]
    left = {column.name for column in columns} - {name for name, _ in numbering}
    if left:
        columns = [column for column in columns if column.name in left]
        said += [f"NOT USED: column {name!r}: {what}" for name, what in numbering]
        if numbering:
            said.append("to use such a column all the same, name all columns to use with --inputs")
    if not columns:
        raise InputError(
            f"{table.source}: expected a column that varies besides {target!r}, got none: "
            + "; ".join(line.removeprefix("NOT USED: ") for line in said[:3])
        )
    return tuple(columns), said


def _encode(table: Table, name: str, rows: np.ndarray) -> tuple[list[Column], str, list[str]]:
    """The columns of x for one column; or why there is none; and lines to print."""
    train = table.columns[name][rows]
    if train.dtype == np.float64:
        return _number(table, name, train)
    found = spellings(train.tolist())
    categories = sorted(names[0] for names in found.values())
    if categories == [""]:
        return [], "it has no cells", []
    if len(categories) == 1:
        why = "".join(f"; {line.removeprefix('WARNING: ')}" for line in joined(name, found))
        return [], f"constant, {categories[0]!r}{why}", []
    if len(categories) > min(MAX_CATEGORIES, len(train) // 2):
        example = next(category for category in categories if category)
        return [], f"text with {len(categories):,} different values, as {example!r}", []
    columns = [Column(name, category=category) for category in categories]
    return (
        columns,
        "",
        [
            f"column {name!r}: text, one input for each of {len(categories)} values",
            *joined(name, found),
        ],
    )


def _number(table: Table, name: str, train: np.ndarray) -> tuple[list[Column], str, list[str]]:
    there = train[~np.isnan(train)]
    if not there.size:
        return [], "it has no cells", []
    require_near(table, name)
    mean, std = mean_and_spread(table, name, there)
    if not std:
        return [], f"constant, {there[0]:.6g}", []
    low, high = float(there.min()), float(there.max())
    said = []
    if missing := int(np.isnan(table.columns[name]).sum()):
        said.append(f"column {name!r}: {missing:,} missing cells, set to its mean {mean:.4g}")
    return [Column(name, mean, std, low=low, high=high)], "", said


def mean_and_spread(table: Table, name: str, cells: np.ndarray) -> tuple[float, float]:
    """The mean of numbers and their standard deviation, 0 where only rounding makes it more."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(cells.mean()), float(cells.std())
    if not math.isfinite(std):
        raise InputError(f"{table.source}: the numbers in {name!r} are too large to average")
    return mean, std if std > 1e-12 * float(np.abs(cells).max()) else 0.0


def require_near(table: Table, name: str) -> None:
    """Refuses a number so far from all others that standardized ones would be 0 beside it.

    One in a hundred may be a slip, and one number in many cells a code; more of them are how this
    quantity is spread.
    """
    cells = table.columns[name]
    there = cells[~np.isnan(cells)]
    low, middle, high = np.quantile(there, [0.25, 0.5, 0.75])
    distance = np.abs(cells - middle)
    far = np.flatnonzero(distance > FAR * (high - low))
    slips = far.size <= max(1, len(there) // 100) or len(np.unique(cells[far])) == 1
    if high > low and far.size and slips:
        row = int(far[np.argmax(distance[far])])
        raise InputError(
            f"{table.source}: {cells[row]:g} in {name!r}, {table.where(row)}, is far from all "
            f"others, of which half are from {low:g} to {high:g}: correct it, or empty the cell"
        )


def _numbers_rows(name: str, cells: np.ndarray) -> str | None:
    """What is wrong with a column that numbers the rows, or None."""
    if cells.dtype != np.float64 or len(cells) < 3 or np.isnan(cells).any():
        return None
    named = _NUMBERING.fullmatch(name) is not None
    if (np.diff(cells) == 1).all() and (named or cells[0] in (0, 1)):
        return f"it numbers the rows, {cells[0]:g} to {cells[-1]:g}"
    whole = (cells == np.round(cells)).all()
    # R names its row numbers X; other programs call an input so.
    if named and name.lower() != "x" and whole and len(np.unique(cells)) == len(cells):
        return f"by its name and numbers, each once, it identifies the rows, as {cells[0]:g}"
    return None


def _same_array(table: Table, target: str) -> set[str]:
    """The columns that come with the target in one array, if other arrays are left."""
    if target not in table.arrays:
        return set()
    same = {name for name, array in table.arrays.items() if array == table.arrays[target]}
    return same - {target} if set(table.columns) - same else set()
