"""Evaluates a program with a switch at every place where a backward pass can go wrong.

A switch acts on the cotangent of an operand (drops, scales or transposes it), on the derivative of
an elementwise function (replaces it by one) or of a product (leaves a factor out), on a loop (cuts
its backward short), on a constant (drops, halves, doubles or negates it,
replaces it by one), on a comparison (includes or excludes its boundary, makes it always or never
true) or on a mask.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Literal

from fbp.verify.diagnose._loops import SETTINGS, cut
from fbp.verify.diagnose._masks import COMPARISONS, Masks
from fbp.verify.program._interpreter import bind, scanned
from fbp.verify.program._program import dtype_of

_UNARY = (
    *("tanh", "logistic", "exp", "log", "log1p", "expm1", "sin", "cos", "erf", "erfc", "sqrt"),
    *("rsqrt", "integer_pow", "square", "abs", "neg", "cbrt", "sign", "erf_inv", "atan", "asinh"),
)


_REORDERS = ("rev", "gather", "sort", "transpose")


class Switched(Masks):
    """Evaluates a program with the given switches; with None, only lists their places."""

    def scan(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        length = eqn.params["length"]
        t = None
        if length > 2:
            t = self.switch("loop", f"a loop of {length} steps", SETTINGS)
        # The body of a scan may be traced several times; each trace lists the same places.
        start, outer = len(self.places), self.in_loop
        self.in_loop = True

        def again(program: Any, consts: Any, args: Any) -> list[Any]:
            del self.places[start:]
            return self.run(program, consts, args)

        outs = scanned(eqn, ins, again) if t is None else cut(eqn, ins, again, t)
        self.in_loop = outer
        return outs

    def primitive(self, eqn: JaxprEqn, ins: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        changed: list[Any] = []
        for n, (atom, value) in enumerate(zip(eqn.invars, ins, strict=True)):
            twin = next((m for m, a in enumerate(eqn.invars[:n]) if a is atom), None)
            if twin is not None and not isinstance(atom, Literal):
                changed.append(changed[twin])  # x * x is one use of x, not two
            elif not hasattr(atom, "aval") or not hasattr(atom.aval, "dtype"):
                changed.append(value)
            elif isinstance(atom, Literal):
                changed.append(self._constant(eqn, atom, value))
            elif jnp.issubdtype(atom.aval.dtype, jnp.floating):
                changed.append(self._operand(eqn, atom, value))
            else:
                changed.append(value)
        if name == "select_n" and jnp.issubdtype(jnp.result_type(ins[0]), jnp.bool_):
            changed[0] = self.choice(eqn, changed[0])
        outs = super().primitive(eqn, changed)
        if name in COMPARISONS:
            outs = [self.comparison(eqn, changed, outs[0])]
        elif name in _REORDERS:
            outs = [self._unordered(eqn, changed[0], outs[0]), *outs[1:]]
        elif name in _UNARY:
            outs = [self._derivative(eqn, changed[0], outs[0])]
        elif name == "dot_general":
            outs = [self._turned(eqn, changed, outs[0])]
        elif name in ("mul", "div"):
            outs = [self._without_factor(eqn, changed, outs[0])]
        return outs

    def _operand(self, eqn: JaxprEqn, atom: Any, x: Any) -> Any:
        made = self.made_by.get(atom, "an argument")
        settings = [(1.0, "drop")]
        if self.in_loop:  # its share in a gradient is not linear in a change at every step
            settings += [(2.0, "negate"), (0.5, "halve"), (-1.0, "double")]
        turns = x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 1
        if turns:
            settings.append((3.0, "transpose"))
        t = self.switch("operand", f"{made} into {eqn.primitive.name}", settings, atom)
        if t is None:
            return x
        fixed = lax.stop_gradient(x)
        passing = x - fixed
        scaled = jnp.where(t == 3, 0.0, 1 - t) * passing
        if turns:
            scaled += jnp.where(t == 3, 1.0, 0.0) * passing.swapaxes(-1, -2)
        # Where x is infinite, x - fixed is NaN: x itself is passed on, without a switch.
        return jnp.where(jnp.isfinite(fixed), fixed + scaled, x)

    def _derivative(self, eqn: JaxprEqn, x: Any, y: Any) -> Any:
        if jnp.result_type(y) != jnp.result_type(x) or not jnp.issubdtype(x.dtype, jnp.floating):
            return y
        t = self.switch("derivative", eqn.primitive.name, [(1.0, "drop the derivative of")])
        if t is None:
            return y
        fixed, y_fixed = lax.stop_gradient(x), lax.stop_gradient(y)
        return jnp.where(t == 1, y_fixed + (x - fixed), y)

    def _unordered(self, eqn: JaxprEqn, x: Any, y: Any) -> Any:
        """A switch that hands a cotangent back in the order it came in."""
        if jnp.shape(x) != jnp.shape(y) or not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            return y
        t = self.switch("operand", f"the reordering by {eqn.primitive.name}", [(1.0, "leave out")])
        if t is None:
            return y
        return jnp.where(t == 1, lax.stop_gradient(y) + (x - lax.stop_gradient(x)), y)

    def _turned(self, eqn: JaxprEqn, ins: list[Any], out: Any) -> Any:
        """Switches that multiply a cotangent by a square matrix instead of its transpose."""
        for n, x in enumerate(ins):
            matrix = ins[1 - n]
            if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 1:
                continue
            made = self.made_by.get(eqn.invars[n], "an argument")
            what = f"the matrix that the cotangent of {made} goes through, in dot_general"
            t = self.switch("operand", what, [(1.0, "transpose")])
            if t is None or not jnp.issubdtype(x.dtype, jnp.floating):
                continue
            passing = x - lax.stop_gradient(x)
            wrong = lax.stop_gradient(matrix.T - matrix)
            (more,) = bind(eqn, [passing, wrong] if n == 0 else [wrong, passing])
            out = out + jnp.where(t == 1, 1.0, 0.0) * more
        return out

    def _without_factor(self, eqn: JaxprEqn, ins: list[Any], out: Any) -> Any:
        """Switches that leave the other operand of a product or a quotient out of a derivative."""
        is_product = eqn.primitive.name == "mul"
        for n in range(2 if is_product else 1):
            x, other = ins[n], ins[1 - n]
            if any(isinstance(atom, Literal) for atom in eqn.invars) or x is other:
                continue
            if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
                continue
            made, its = (self.made_by.get(eqn.invars[m], "an argument") for m in (n, 1 - n))
            role = "factor" if is_product else "divisor"
            settings = [(1.0, f"drop the {role} {its} from the derivative by")]
            t = self.switch("factor", f"{made} in {eqn.primitive.name}", settings)
            if t is None:
                continue
            passing, fixed = x - lax.stop_gradient(x), lax.stop_gradient(other)
            factor = fixed if is_product else 1 / fixed
            more = jnp.where(jnp.isfinite(factor), passing * (1 - factor), 0)
            out = out + jnp.where(t == 1, 1.0, 0.0) * more
        return out

    def _constant(self, eqn: JaxprEqn, atom: Literal, value: Any) -> Any:
        dtype = dtype_of(atom)
        if jnp.issubdtype(dtype, jnp.floating) and np.all(np.isfinite(value)):
            settings = [(1.0, "drop"), (0.5, "halve"), (-1.0, "double"), (2.0, "negate")]
            if np.ndim(value) == 0 and 0 < abs(float(value)) < 2 and float(value) != 1:
                settings.append((1 - 1 / float(value), "replace by one"))
            number = float(value) if np.ndim(value) == 0 else 0.0
            if number > 1 and number == int(number):  # a count
                settings += [(1 / number, "one less than"), (-1 / number, "one more than")]
            t = self.switch("constant", f"{float(value):.6g} of {eqn.primitive.name}", settings)
            return value if t is None else value * (1 - t)
        if jnp.issubdtype(dtype, jnp.signedinteger) and eqn.primitive.name in (
            *("add", "sub", "lt", "le", "gt", "ge", "mul", "eq"),
        ):
            settings = [(1.0, "one more than"), (-1.0, "one less than")]
            t = self.switch("constant", f"{int(value)} of {eqn.primitive.name}", settings)
            return value if t is None else value + t.astype(dtype)
        return value
