"""Compares a mutant with the function that it is a mutant of, while tests run both.

Imported by `_inject`, hence nothing of fbp here. On each call both are traced. They are the same if
their programs are, or if these give the same bits for the arrays of the call, if those are known,
and for arrays drawn at random. The arrays of the tests alone are not enough: where all cotangents
are 1, a mutant that drops them gives the same bits, and is another rule.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

SAME_PROGRAM = "the same program for all shapes that the tests reach"
SAME_BITS = "the same bits for all shapes that the tests reach, of arrays drawn at random"


class Comparison:
    """What is known of a mutant.

    Attributes:
      says: how it is the same so far; "" if it was not called, or is not known to be the same.
    """

    def __init__(self) -> None:
        self.says = ""
        self._seen: set[Any] = set()
        self._differs = False

    def of(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A decorator of the mutant, which takes the place of the original."""

        def decorate(mutant: Any) -> Any:
            @functools.wraps(mutant)
            def both(*args: Any, **options: Any) -> Any:
                if not self._differs:
                    try:
                        self._compare(original, mutant, args, options)
                    except Exception:  # what cannot be traced, or not run, is not known to be same
                        self._differs, self.says = True, ""
                return mutant(*args, **options)

            return both

        return decorate

    def _compare(self, original: Any, mutant: Any, args: Any, options: Any) -> None:
        import jax
        from jax.extend.core import jaxpr_as_fun

        leaves, tree = jax.tree.flatten((args, options))
        arrays = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")]
        if not arrays:
            raise TypeError("nothing to trace")

        def over_arrays(f: Any) -> Any:
            def run(values: Any) -> Any:
                filled = list(leaves)
                for i, value in zip(arrays, values, strict=True):
                    filled[i] = value
                args, options = jax.tree.unflatten(tree, filled)
                return f(*args, **options)

            return run

        given = [leaves[i] for i in arrays]
        runs = [over_arrays(f) for f in (original, mutant)]
        programs = [jax.make_jaxpr(run, return_shape=True)(given) for run in runs]
        trees: list[Any] = [jax.tree.structure(out) for _, out in programs]
        if trees[0] != trees[1]:
            raise ValueError("results of other trees")
        texts = [re.sub(r"0x[0-9a-f]+", "", str(program)) for program, _ in programs]
        consts = [list(map(_identity, program.consts)) for program, _ in programs]
        if texts[0] == texts[1] and consts[0] == consts[1]:
            self.says = self.says or SAME_PROGRAM
            return
        kind = (*texts, str(consts))
        concrete = not any(isinstance(v, jax.core.Tracer) for v in given)
        if kind in self._seen and not concrete:
            return
        self._seen.add(kind)
        with jax.ensure_compile_time_eval():
            pairs = [jax.jit(jaxpr_as_fun(program)) for program, _ in programs]
            for values in _draws(given, concrete):
                if _bits(pairs[0](*values)) != _bits(pairs[1](*values)):
                    raise ValueError("other bits")
        self.says = SAME_BITS


def _identity(const: Any) -> Any:
    import jax
    import numpy as np

    return id(const) if isinstance(const, jax.core.Tracer) else np.asarray(const).tobytes()


def _draws(given: list[Any], concrete: bool) -> list[list[Any]]:
    """Arrays of the dtypes and shapes that are given.

    Ordinary ones, those with zeros and ties, all zeros, large ones, and some that are not finite.
    Integers that are known stay as they are, for they may be places of an array.
    """
    import jax
    import numpy as np

    rng = np.random.default_rng(0)

    def one(a: Any, kind: int) -> Any:
        shape, dtype = np.shape(a), a.dtype
        if jax.dtypes.issubdtype(dtype, np.inexact):
            x = rng.standard_normal(shape)
            x = [x, np.round(2 * x), 0 * x, 1e4 * x, np.where(x < 0.7, x, np.inf * x)][kind]
            return x.astype(dtype)
        if not isinstance(a, jax.core.Tracer):
            return a
        if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
            return (
                jax.random.key(kind) if not shape else jax.random.split(jax.random.key(kind), shape)
            )
        return rng.integers(0, 2 if dtype == np.bool_ else 3, shape).astype(dtype)

    drawn = [[one(a, kind) for a in given] for kind in range(5)]
    return [given, *drawn] if concrete else drawn


def _bits(outs: Any) -> list[Any]:
    import numpy as np

    arrays = [np.asarray(out) for out in outs]
    return [(a.dtype, a.shape, a.tobytes()) for a in arrays]
