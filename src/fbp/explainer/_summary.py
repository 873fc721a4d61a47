"""A summary of a model: the output, the parameters and the kept bytes of each layer."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import jax

from fbp._columns import align, size
from fbp._html import lines, shown, table
from fbp._layer import Key, Layer, PyTree
from fbp._tree import count, nbytes
from fbp.explainer._probe import Probe, Row, Trace, owned_leaves


@dataclasses.dataclass(frozen=True)
class Summary:
    """A table of layers; `str()` is the table as text.

    Attributes:
      rows: one for each layer, in order.
      params: the number of parameters.
      param_bytes: their bytes.
      input_bytes: bytes of x, which the caller keeps.
      kept_bytes: bytes of the residual tree that `forward` returns: the sum of the rows' `kept`.
    """

    rows: tuple[Row, ...]
    params: int
    param_bytes: int
    input_bytes: int
    kept_bytes: int

    def table(self) -> list[tuple[str, ...]]:
        """The cells of the table; the first row is the header. Three or more equal layers in a row
        are shown once, with the numbers of one of them."""
        rows: list[tuple[str, ...]] = [("layer", "output", "params", "input", "kept")]
        above = ""
        for row, last in _folded(self.rows):
            # A wrapper and its layer have the same path, which is shown once.
            name = row.path.rpartition(".")[2] if row.path not in ("", above) else ""
            above = row.path
            if last is not None:
                name += f" to {last.path.rpartition('.')[2]}"
            name = "  " * row.depth + (f"{name}: " if name else "") + row.layer
            params = f"{row.params:,}" if row.is_leaf else ""
            rows.append((name, _shortened(row.output), params, row.input, size(row.kept)))
        return rows

    def total(self) -> str:
        """The line below the table."""
        return (
            f"{self.params:,} parameters ({size(self.param_bytes)}); kept for the backward: "
            f"{size(self.kept_bytes)}, and the input x ({size(self.input_bytes)})"
        )

    def __str__(self) -> str:
        return f"{align(self.table())}\n{self.total()}"

    def _repr_html_(self) -> str:
        return shown(table(self.table()), lines(self.total()))


def _folded(rows: Sequence[Row]) -> Iterator[tuple[Row, Row | None]]:
    """The rows to show; with the last of the equal layers that follow, where these are left out."""
    if not rows:
        return
    whole = _subtree(rows)
    alike = [whole]
    while len(alike) * len(whole) < len(rows):
        following = _subtree(rows[len(alike) * len(whole) :])
        if list(map(_figures, following)) != list(map(_figures, whole)):
            break
        alike.append(following)
    many = len(alike) > 2 and rows[0].depth > 0
    yield whole[0], alike[-1][0] if many else None
    yield from _folded(whole[1:])
    yield from _folded(rows[len(alike) * len(whole) if many else len(whole) :])


def _subtree(rows: Sequence[Row]) -> Sequence[Row]:
    """The first row and those of the layers inside it."""
    inside = itertools.takewhile(lambda row: row.depth > rows[0].depth, rows[1:])
    return rows[: 1 + len(list(inside))]


def _figures(row: Row) -> Row:
    return dataclasses.replace(row, path="")


def _shortened(output: str) -> str:
    """The arrays of an output, or the first and how many more."""
    first, *others = output.split("] ")
    return output if len(output) <= 40 or not others else f"{first}] and {len(others)} more"


def summary(model: Layer, x: PyTree, key: Key = None) -> Summary:
    """Returns a table of every layer's output, parameters, and bytes kept for its backward.

    Nothing is computed; only shapes are traced. The bytes are those of the residual tree that
    `model.forward` returns, counted leaf by leaf. Inside one jitted program the compiler may still
    keep a value that the rule recomputes, or recompute one that it keeps.

    Args:
      model: a Layer.
      x: its input, or `jax.ShapeDtypeStruct`s of it.
      key: a key, to include what dropout keeps in training; None is evaluation.

    Raises:
      Exception: whatever `model.forward` raises for this x.
    """
    trace = Trace()
    probe = Probe.around(model, "", 0, trace)
    params = jax.eval_shape(lambda: probe.init(jax.random.key(0)))
    _, res = jax.eval_shape(probe.forward, params, x, key)

    rows = trace.rows
    for owner, _, leaf in owned_leaves(params):
        rows[owner].params += count(leaf)
    for owner, keys, leaf in owned_leaves(res):
        row = rows[trace.keeper(owner, keys)]
        row.kept += nbytes(leaf)
        if row is not rows[owner] and owner not in trace.graphs:
            row.input = "kept"
    return Summary(tuple(rows), count(params), nbytes(params), nbytes(x), nbytes(res))
