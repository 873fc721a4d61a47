"""What each layer has, makes, and keeps for the backward."""

import dataclasses

import jax

from fbp._columns import align, size
from fbp._layer import Key, Layer, PyTree
from fbp._tree import count, nbytes
from fbp.explain._probe import Probe, Row, Trace, owned_leaves


@dataclasses.dataclass(frozen=True)
class Summary:
    """A table of layers; `str()` is the table to read.

    Attributes:
      rows: one a layer, in order.
      params: parameters, all together.
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
        """The cells of the table, its first row the head."""
        rows: list[tuple[str, ...]] = [("layer", "output", "params", "input", "kept for backward")]
        above = ""
        for row in self.rows:
            # A wrapper and what it wraps share one path: said once.
            name = f"{row.path.rpartition('.')[2]}: " if row.path not in ("", above) else ""
            name, above = "  " * row.depth + name + row.layer, row.path
            params = f"{row.params:,}" if row.is_leaf else ""
            rows.append((name, row.output, params, row.input, size(row.kept)))
        return rows

    def total(self) -> str:
        """The line below the table."""
        return (
            f"{self.params:,} parameters ({size(self.param_bytes)}); kept for the backward: "
            f"{size(self.kept_bytes)}, and the input x ({size(self.input_bytes)})"
        )

    def __str__(self) -> str:
        return f"{align(self.table())}\n{self.total()}"


def summary(model: Layer, x: PyTree, key: Key = None) -> Summary:
    """Says for every layer its output, its parameters, and the bytes its backward needs kept.

    Nothing is computed: shapes are traced. The bytes are those of the very residual tree that
    `model.forward` returns, leaf by leaf: what crosses from the forward to the backward. Inside one
    jitted program the compiler may still keep what it was asked to compute again, or the reverse.

    Args:
      model: a Layer.
      x: its input, or `jax.ShapeDtypeStruct`s of it.
      key: a key, to count what the noise of training keeps; None is evaluation.

    Raises:
      whatever `model.forward` raises for this x.
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
        if row is not rows[owner]:
            row.input = "kept"
    return Summary(tuple(rows), count(params), nbytes(params), nbytes(x), nbytes(res))
