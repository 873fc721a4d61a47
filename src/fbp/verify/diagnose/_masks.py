"""Switches of masks: comparisons, choices between two values, and masks that are constants."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from fbp.verify.diagnose._switchboard import Switchboard

COMPARISONS = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt"}


class Masks(Switchboard):
    """Evaluates a program with switches at its masks."""

    def constant(self, value: Any) -> Any:
        """A constant mask of the program: one switch acts on all its uses at once."""
        if getattr(value, "dtype", None) != np.bool_ or not value.ndim:
            return value
        settings = [(1.0, "always true: mask dropped,"), (2.0, "never true:"), (3.0, "negate")]
        moved: list[Any] = []
        for axis in range(max(0, value.ndim - 2), value.ndim):
            for by in (1, -1):
                where = f"by one along axis {axis}"
                settings.append((4.0 + 2 * len(moved), f"widen {where} (beside its diagonal):"))
                settings.append((5.0 + 2 * len(moved), f"narrow {where} (its diagonal):"))
                moved.append(_shifted(value, by, axis))
        t = self.switch("choice", "a constant mask (where)", settings)
        if t is None:
            return value
        for n, other in enumerate(moved):
            value = (value | (other & (t == 4 + 2 * n))) & (other | (t != 5 + 2 * n))
        return ((value | (t == 1)) & (t != 2)) ^ (t == 3)

    def comparison(self, eqn: JaxprEqn, ins: list[Any], out: Any) -> Any:
        other = COMPARISONS[eqn.primitive.name]
        settings = [
            *((1.0, f"{other} for"), (2.0, "always true: mask dropped,")),
            *((3.0, "never true:"), (4.0, "negate")),
        ]
        flips = [axis for axis, n in enumerate(out.shape) if n > 2]
        settings += [(5.0 + axis, f"flip along axis {axis} the mask of") for axis in flips]
        t = self.switch("comparison", eqn.primitive.name, settings)
        if t is None:
            return out
        shifted = {"lt": lax.lt, "le": lax.le, "gt": lax.gt, "ge": lax.ge}[other](*ins)
        out = jnp.where(t == 1, shifted, out)
        for axis in flips:
            out = jnp.where(t == 5 + axis, jnp.flip(out, axis), out)
        return ((out | (t == 2)) & (t != 3)) ^ (t == 4)

    def choice(self, eqn: JaxprEqn, which: Any) -> Any:
        settings = [
            (1.0, "always the second:"),
            (2.0, "always the first: mask dropped,"),
            (3.0, "negate"),
        ]
        t = self.switch("choice", "select_n (where)", settings)
        return which if t is None else ((which | (t == 1)) & (t != 2)) ^ (t == 3)


def _shifted(mask: Any, by: int, axis: int) -> Any:
    """The mask moved along an axis; what moves in is false."""
    place = np.arange(mask.shape[axis]).reshape((-1,) + (1,) * (mask.ndim - 1 - axis))
    return jnp.roll(mask, by, axis) & (place >= by if by > 0 else place < mask.shape[axis] + by)
