"""Geometry of a window that slides over an image or a sequence, for convolution and pooling."""

import dataclasses
from typing import Any

from fbp._layer import Array, name_of

Pair = int | tuple[int, int]
Padding = str | int | tuple[tuple[int, int], tuple[int, int]]
# Of one axis.
Sides = str | int | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Slide:
    """One axis of an image or a sequence, and the window that slides along it.

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
    """A window over the two axes of an image, or over the one axis of a sequence.

    Args:
      owner: the layer, for the errors.
      size, stride, dilation: one number for all axes, or a pair for an image.
      padding: "SAME" gives ceil(n / stride) positions, with half of the padding, rounded down, in
        front; "VALID" is no padding; a number is the padding of all sides; or
        ((top, bottom), (left, right)). For a sequence (before, after), or "CAUSAL": all in front,
        as much as the window has elements behind its last.
      axes: names of the axes, "HW" or "T".

    Raises:
      ValueError: a size, stride or dilation below 1, a negative padding, or an unknown string.
    """

    owner: Any
    size: Pair
    stride: Pair
    padding: Padding | Sides
    dilation: Pair = 1
    axes: str = "HW"

    def __post_init__(self) -> None:
        one = len(self.axes) == 1
        for name in ("size", "stride", "dilation"):
            value = getattr(self, name)
            if not _are_whole(self.each(value), len(self.axes), least=1):
                raise ValueError(
                    f"{name_of(self.owner)}: expected {name} to be 1 or more"
                    f"{'' if one else ', or two such numbers'}, got {value!r}"
                )
        strings = ("SAME", "VALID", "CAUSAL") if one else ("SAME", "VALID")
        if self.padding in strings:
            return
        sides = self.sides
        if not (
            isinstance(sides, tuple)
            and len(sides) == len(self.axes)
            and all(_are_whole(side, 2) for side in sides)
        ):
            raise ValueError(
                f"{name_of(self.owner)}: expected padding to be {', '.join(strings)}, 0 or more, "
                f"or {'two such numbers' if one else 'two pairs of such numbers'}, "
                f"got {self.padding!r}"
            )

    @property
    def sides(self) -> Any:
        """The padding as ((top, bottom), (left, right)), or ((before, after),) of a sequence; None
        where it depends on the size of x or of the window."""
        if isinstance(self.padding, int):
            return (pair(self.padding),) * len(self.axes)
        if isinstance(self.padding, str):
            return ((0, 0),) * len(self.axes) if self.padding == "VALID" else None
        return (self.padding,) if len(self.axes) == 1 else self.padding

    def over(self, x: Array) -> tuple[Slide, ...]:
        """Returns the slides of the window along the axes of x: (..., H, W, C) or (..., T, C).

        Raises:
          ValueError: x has not these axes, or the window does not fit into the padded x.
        """
        n = len(self.axes)
        if x.ndim <= n:
            raise ValueError(
                f"{name_of(self.owner)}: expected x to have axes (..., {', '.join(self.axes)}, C), "
                f"got shape {x.shape}"
            )
        slides = tuple(self.along(axis, x.shape[axis - n - 1]) for axis in range(n))
        if min(min(slide.n, slide.m) for slide in slides) < 1:
            spans = tuple(slide.span for slide in slides)
            raise ValueError(
                f"{name_of(self.owner)}: expected a window of {spans if n > 1 else spans[0]} to "
                f"fit into x and its padding, got shape {x.shape}"
            )
        return slides

    def along(self, axis: int, n: int) -> Slide:
        """Returns the slide of the window along one axis, of n pixels."""
        k, s, d = (self.each(value)[axis] for value in (self.size, self.stride, self.dilation))
        if self.sides is not None:
            return Slide(n, k, s, d, *self.sides[axis])
        if self.padding == "CAUSAL":
            return Slide(n, k, s, d, d * (k - 1), 0)
        positions = -(-n // s)
        missing = max(0, s * (positions - 1) + d * (k - 1) + 1 - n)
        return Slide(n, k, s, d, missing // 2, missing - missing // 2)

    def each(self, value: Pair) -> tuple[int, ...]:
        """Returns one number for each axis of x."""
        return pair(value) if len(self.axes) == 2 else (value,)  # type: ignore[return-value]


def pair(value: Pair) -> tuple[int, int]:
    """Returns a pair: the value itself, or one number twice."""
    return value if isinstance(value, tuple) else (value, value)


def _are_whole(values: Any, n: int, least: int = 0) -> bool:
    """Whether `values` are n integers, none of them below `least`."""
    return (
        isinstance(values, tuple)
        and len(values) == n
        and all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in values)
    )
