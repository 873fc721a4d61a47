"""Stack: copies of one layer in sequence, each with parameters of its own."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._layer import Array, Key, Layer, Params, PyTree, name_of
from fbp._require import require_layer
from fbp.combinators._residual import require_same

EVERYTHING, INPUTS = "everything", "inputs"


@dataclasses.dataclass(frozen=True)
class Stack(Layer):
    """n copies of a layer, one after another: y = f(p_n, ... f(p_2, f(p_1, x))).

    The forward is one `lax.scan` over the copies and the backward one reverse scan, so that f is
    compiled once, for any n. Every leaf of params has a leading axis of size n.

    `keep`, which selects what is kept for the backward, trades memory for time:

        keep          kept                            recomputed
        "everything"  n inputs, n residuals           nothing
        "inputs"      n inputs, 1 residual            every forward
        k             n / k inputs, then k inputs     every forward
                      and k residuals

    where an input is the x of one copy and a residual the res of one copy. With k, the k inputs and
    residuals are those of one group of k copies at a time, recomputed from the input of the group.

    Args:
      layer: f, whose y has the shape and dtype of x.
      n: number of copies.
      keep: "everything", "inputs", or a number k for the input of every k-th copy.

    Raises:
      ValueError: f changes the shape or dtype of x; n is negative; params do not hold n copies;
        keep is none of these.

    Source: Chen, Xu, Zhang and Guestrin, "Training Deep Nets with Sublinear Memory Cost",
    arXiv:1604.06174.
    """

    layer: Layer
    n: int
    keep: str | int = EVERYTHING

    def __post_init__(self) -> None:
        require_layer(self, self.layer)
        if self.n < 0:
            raise ValueError(f"Stack: expected n to be 0 or more, got {self.n}")
        counts = isinstance(self.keep, int) and not isinstance(self.keep, bool) and self.keep > 0
        if not (counts or self.keep in (EVERYTHING, INPUTS)):
            raise ValueError(
                f'Stack: expected keep of "everything", "inputs" or 1 or more, got {self.keep!r}'
            )

    def init(self, key: Array) -> Params:
        return jax.vmap(self.layer.init)(jax.random.split(key, self.n))

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        self._require_copies(params)
        keys = None if key is None else jax.random.split(key, self.n)
        if self.keep == EVERYTHING or not self.n:
            return self._run((params, keys), x, self.n)
        kept = []
        for first, size, groups in self._groups():

            def group(x: PyTree, start: Array, size: int = size) -> tuple[PyTree, PyTree]:
                y, _ = self._run(_part((params, keys), start, size), x, size)
                return y, x

            x, xs = lax.scan(group, x, first + size * jnp.arange(groups))
            kept.append(xs)
        return x, (tuple(kept), keys)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        def take(walked: PyTree, i: Array, p: Params, dparams: Params) -> tuple[PyTree, Params]:
            return walked, dparams

        if not self.n:
            return params, dy
        _, dparams, dx = self.walk_back(lambda _: params, res, dy, (), take)
        return dparams, dx

    def walk_back(
        self,
        params_of: Callable[[PyTree], Params],
        res: PyTree,
        dy: PyTree,
        walked: PyTree,
        take: Callable[[PyTree, Array, Params, Params], tuple[PyTree, PyTree]],
    ) -> tuple[PyTree, PyTree, PyTree]:
        """Runs the backward and passes the gradient of each copy to `take`, from last to first.

        Args:
          params_of: `params_of(walked)` returns the stacked params.
          res: residuals from `forward`.
          dy: gradient with respect to y.
          walked: initial carry of the scan from the last copy to the first.
          take: `take(walked, i, params_i, dparams_i)` returns the new `walked`, and an output to
            stack.

        Returns:
          The final `walked`, the stacked outputs of `take`, and dx. n must be at least 1.
        """

        def one(state: tuple[PyTree, PyTree], copy: tuple[Array, PyTree]) -> tuple[Any, PyTree]:
            dy, walked = state
            i, (x, res) = copy
            p = jax.tree.map(
                lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), params_of(walked)
            )
            dparams, dx = self.layer.backward(p, x, res, dy)
            walked, out = take(walked, i, p, dparams)
            return (dx, walked), out

        state = dy, walked
        if self.keep == EVERYTHING:
            copies = jnp.arange(self.n), res
            (dx, walked), out = lax.scan(one, state, copies, length=self.n, reverse=True)
            return walked, out, dx

        kept, keys = res
        outs: list[PyTree] = []
        for (first, size, groups), xs in reversed(list(zip(self._groups(), kept, strict=True))):

            def group(
                state: tuple[PyTree, PyTree], begin: tuple[Array, PyTree], size: int = size
            ) -> tuple[Any, PyTree]:
                # As in `Remat`: the second forward must not start before dy is known.
                state, (start, x) = lax.optimization_barrier((state, begin))
                copies = _part((params_of(state[1]), keys), start, size)
                _, again = self._run(copies, x, size)
                return lax.scan(one, state, (start + jnp.arange(size), again), reverse=True)

            begins = first + size * jnp.arange(groups), xs
            state, out = lax.scan(group, state, begins, reverse=True)
            out = jax.tree.map(lambda a, n=groups * size: a.reshape(n, *a.shape[2:]), out)
            outs.insert(0, out)
        dx, walked = state
        return walked, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outs), dx

    def _run(self, copies: tuple[Params, Key], x: PyTree, n: int) -> tuple[PyTree, PyTree]:
        """Runs the forward through n copies; returns y and the x and res of each copy."""

        def one(x: PyTree, copy: tuple[Params, Key]) -> tuple[PyTree, PyTree]:
            p, k = copy
            y, res = self.layer.forward(p, x, k)
            require_same(self, x, y)
            return y, (x, res)

        return lax.scan(one, x, copies, length=n)

    def _groups(self) -> list[tuple[int, int, int]]:
        """Returns (first copy, copies per group, number of groups); a partial group comes first."""
        size = 1 if self.keep == INPUTS else min(int(self.keep), self.n)
        groups, rest = divmod(self.n, size)
        return [(0, rest, 1)] * (rest > 0) + [(rest, size, groups)]

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        def one(p: Params) -> PyTree:
            return self.layer.start(p, x, length)

        return jax.vmap(one, axis_size=self.n)(params)

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        def one(x: PyTree, copy: tuple[Params, PyTree]) -> tuple[PyTree, PyTree]:
            return self.layer.steps(copy[0], x, copy[1])

        return lax.scan(one, x, (params, state), length=self.n)

    def _require_copies(self, params: Params) -> None:
        for leaf in jax.tree.leaves(params):
            if leaf.shape[:1] != (self.n,):
                raise ValueError(
                    f"{name_of(self)}: expected params with a leading axis of size {self.n}, "
                    f"got shape {leaf.shape}"
                )


def _part(stacked: PyTree, start: Array, size: int) -> PyTree:
    """Returns `size` consecutive copies."""
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), stacked)
