"""Depth: the same layer many times, each copy with parameters of its own."""

import dataclasses

import jax
from jax import lax

from fbp._layer import Array, Key, Layer, Params, PyTree, name_of, require_layer
from fbp.combinators._residual import require_same


@dataclasses.dataclass(frozen=True)
class Stack(Layer):
    """n copies of a layer, one after another: y = f(p_n, ... f(p_2, f(p_1, x))).

    The forward is one `lax.scan` over the copies and the backward one reverse scan, so that the
    program is compiled once whatever n is. Every leaf of params has a leading axis of size n.

    Keeps the input of every copy, stacked, and the residuals of every copy, stacked.

    Args:
      layer: f. It keeps the shape and dtype of x.
      n: how many copies.

    Raises:
      ValueError: f changes the shape or dtype of x; n is negative; params do not hold n copies.
    """

    layer: Layer
    n: int

    def __post_init__(self) -> None:
        require_layer(self, self.layer)
        if self.n < 0:
            raise ValueError(f"Stack: expected n to be 0 or more, got {self.n}")

    def init(self, key: Array) -> Params:
        return jax.vmap(self.layer.init)(jax.random.split(key, self.n))

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        self._require_copies(params)
        keys = None if key is None else jax.random.split(key, self.n)

        def one(x: PyTree, copy: tuple[Params, Key]) -> tuple[PyTree, PyTree]:
            p, k = copy
            y, res = self.layer.forward(p, x, k)
            require_same(self, x, y)
            return y, (x, res)

        return lax.scan(one, x, (params, keys), length=self.n)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        def one(dy: PyTree, copy: tuple[Params, tuple[PyTree, PyTree]]) -> tuple[PyTree, Params]:
            p, (x, res) = copy
            dparams, dx = self.layer.backward(p, x, res, dy)
            return dx, dparams

        dx, dparams = lax.scan(one, dy, (params, res), length=self.n, reverse=True)
        return dparams, dx

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        def one(p: Params) -> PyTree:
            return self.layer.start(p, x, length)

        return jax.vmap(one, axis_size=self.n)(params)

    def step(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        def one(x: PyTree, copy: tuple[Params, PyTree]) -> tuple[PyTree, PyTree]:
            return self.layer.step(copy[0], x, copy[1])

        return lax.scan(one, x, (params, state), length=self.n)

    def _require_copies(self, params: Params) -> None:
        for leaf in jax.tree.leaves(params):
            if leaf.shape[:1] != (self.n,):
                raise ValueError(
                    f"{name_of(self)}: expected params with a leading axis of size {self.n}, "
                    f"got shape {leaf.shape}"
                )
