"""The result of `fbp.cross_check`, as a value."""

import dataclasses

from fbp._columns import align
from fbp._html import shown, table


class WrongGradientError(Exception):
    """A hand-written gradient disagrees with its reference."""


@dataclasses.dataclass(frozen=True)
class LeafCheck:
    """One leaf of the gradient. `cross_check` says what its errors are relative to.

    Attributes:
      path: the leaf, as in `model.dense_1.w`.
      shape: its shape.
      dtype: its dtype, the working dtype.
      error64: the rule's error when it runs in float64.
      error: the rule's error in the working dtype.
      control: jax.grad's error in the working dtype.
      ok: whether both errors are within what rounding explains.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    error64: float
    error: float
    control: float
    ok: bool


@dataclasses.dataclass(frozen=True)
class CrossCheck:
    """The result of `cross_check`; `str()` formats it as a table, one row per leaf."""

    leaves: tuple[LeafCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every leaf agrees."""
        return all(leaf.ok for leaf in self.leaves)

    def raise_if_wrong(self) -> None:
        """Raises WrongGradientError, naming the leaves that disagree."""
        wrong = [leaf for leaf in self.leaves if not leaf.ok]
        if wrong:
            said = "; ".join(
                f"{leaf.path} {list(leaf.shape)} by {leaf.error64:.1e} of its size in float64, "
                f"{leaf.error:.1e} in {leaf.dtype}"
                for leaf in wrong
            )
            raise WrongGradientError(
                f"the hand-written gradient differs from jax.grad: {said}. "
                "The mistake is in the rule of that leaf, or in the dx of a layer after it"
            )

    def table(self) -> list[list[str]]:
        """The cells of the table; the first row is the header."""
        rows = [["gradient", "shape", "float64", "working", "jax.grad", "verdict"]]
        for leaf in self.leaves:
            shape = "x".join(map(str, leaf.shape)) or "scalar"
            errors = [f"{error:.1e}" for error in (leaf.error64, leaf.error, leaf.control)]
            rows.append([leaf.path, shape, *errors, "ok" if leaf.ok else "WRONG"])
        return rows

    def __str__(self) -> str:
        return align(self.table())

    def _repr_html_(self) -> str:
        return shown(table(self.table(), ("WRONG",)))
