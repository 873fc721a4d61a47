"""Geometry of a window that slides over an image, for convolution and pooling."""

import dataclasses
from typing import Any

from fbp._layer import Array, name_of

Pair = int | tuple[int, int]
Padding = str | int | tuple[tuple[int, int], tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Slide:
    """One axis of an image, and the window that slides along it.

    At position o, element k of the window lies on pixel i = s o + d k - lo; pixels outside 0..n-1
    are padding.

    Attributes:
      n: number of pixels.
      k: number of elements of the window.
      s: stride, pixels from one position to the next.
      d: dilation, pixels from one element to the next.
      lo, hi: padding before the first pixel and after the last.
    """

    n: int
    k: int
    s: int
    d: int
    lo: int
    hi: int

    @property
    def span(self) -> int:
        """Pixels from the first element of the window to its last, both included."""
        return self.d * (self.k - 1) + 1

    @property
    def m(self) -> int:
        """Number of positions, the size of the output."""
        return (self.lo + self.n + self.hi - self.span) // self.s + 1

    @property
    def reach(self) -> int:
        """Pixels from the first position to the last, both included: the output dilated by s."""
        return self.s * (self.m - 1) + 1

    def spread(self, k: int) -> tuple[int, int, int]:
        """Padding for `lax.pad` that puts output o on the pixel of element k, s o + d k - lo."""
        low = self.d * k - self.lo
        return low, self.n - low - self.reach, self.s - 1

    @property
    def back(self) -> tuple[int, int]:
        """Padding of dy, dilated by s, over which the flipped window slides to compute dx.

        Pixel i of dx is position i of the flipped window. Its last element reads dilated dy at
        i + lo (k = 0 in the forward), its first at i + lo - (span - 1). So the padding in front is
        span - 1 - lo, and that behind is the one that gives n positions.
        """
        return self.span - 1 - self.lo, self.n - self.reach + self.lo


@dataclasses.dataclass(frozen=True)
class Window:
    """A window over the two axes of an image.

    Args:
      owner: the layer, for the errors.
      size, stride, dilation: one number for both axes, or a pair.
      padding: "SAME" gives ceil(n / stride) positions, with half of the padding, rounded down, in
        front; "VALID" is no padding; a number is the padding of all sides; or
        ((top, bottom), (left, right)).

    Raises:
      ValueError: a size, stride or dilation below 1, a negative padding, or an unknown string.
    """

    owner: Any
    size: Pair
    stride: Pair
    padding: Padding
    dilation: Pair = 1

    def __post_init__(self) -> None:
        for name in ("size", "stride", "dilation"):
            value = getattr(self, name)
            if not _are_whole(pair(value), least=1):
                raise ValueError(
                    f"{name_of(self.owner)}: expected {name} to be 1 or more, or two such numbers, "
                    f"got {value!r}"
                )
        if self.padding in ("SAME", "VALID"):
            return
        sides = self.sides
        if not (isinstance(sides, tuple) and len(sides) == 2 and all(map(_are_whole, sides))):
            raise ValueError(
                f"{name_of(self.owner)}: expected padding to be SAME, VALID, 0 or more, or two "
                f"pairs of such numbers, got {self.padding!r}"
            )

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """The padding as ((top, bottom), (left, right)); None where it depends on the image."""
        if isinstance(self.padding, int):
            return pair(self.padding), pair(self.padding)
        if isinstance(self.padding, str):
            return ((0, 0), (0, 0)) if self.padding == "VALID" else None
        return self.padding

    def over(self, x: Array) -> tuple[Slide, Slide]:
        """Returns the slides of the window over the rows and the columns of x (..., H, W, C).

        Raises:
          ValueError: x has no axes H, W, C, or the window does not fit into the padded image.
        """
        if x.ndim < 3:
            raise ValueError(
                f"{name_of(self.owner)}: expected x to have axes (..., H, W, C), "
                f"got shape {x.shape}"
            )
        rows, columns = (self._along(axis, x.shape[axis - 3]) for axis in (0, 1))
        if min(rows.n, columns.n, rows.m, columns.m) < 1:
            raise ValueError(
                f"{name_of(self.owner)}: expected a window of {(rows.span, columns.span)} to fit "
                f"into x and its padding, got shape {x.shape}"
            )
        return rows, columns

    def _along(self, axis: int, n: int) -> Slide:
        k, s, d = (pair(value)[axis] for value in (self.size, self.stride, self.dilation))
        if self.sides is not None:
            return Slide(n, k, s, d, *self.sides[axis])
        positions = -(-n // s)
        missing = max(0, s * (positions - 1) + d * (k - 1) + 1 - n)
        return Slide(n, k, s, d, missing // 2, missing - missing // 2)


def pair(value: Pair) -> tuple[int, int]:
    """Returns a pair: the value itself, or one number twice."""
    return value if isinstance(value, tuple) else (value, value)


def _are_whole(values: Any, least: int = 0) -> bool:
    """Whether `values` is a pair of integers, neither of them below `least`."""
    return (
        isinstance(values, tuple)
        and len(values) == 2
        and all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in values)
    )
