"""Repeat: one layer several times in sequence, each time with the same parameters."""

import dataclasses

import jax
from jax import lax

from fbp._gradients import add, like, widened, zero_gradient
from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp._require import require_layer
from fbp.combinators._residual import require_same


@dataclasses.dataclass(frozen=True)
class Repeat(Layer):
    """Applies a layer n times with the same params: y = f(p, ... f(p, f(p, x))).

        x_i      = f(p, x_{i-1})
        dx_{i-1} = (dx_i/dx_{i-1})^T dx_i
        dparams  = sum_i (dx_i/dp)^T dx_i      params are read n times: their gradients add up

    A `Stack` whose copies share their params, as in a universal transformer, or the unrolled steps
    of an iteration. The forward is one `lax.scan`, the backward one reverse scan, which sums
    dparams in at least float32.

    Keeps the input and the residuals of every time.

    Args:
      layer: f, whose y has the shape and dtype of x.
      n: how many times.

    Raises:
      ValueError: f changes the shape or dtype of x; n is negative.

    Source: Dehghani et al., "Universal Transformers", ICLR 2019.
    """

    layer: Layer
    n: int

    def __post_init__(self) -> None:
        require_layer(self, self.layer)
        if self.n < 0:
            raise ValueError(f"Repeat: expected n to be 0 or more, got {self.n}")

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        def one(x: PyTree, k: Key) -> tuple[PyTree, PyTree]:
            y, res = self.layer.forward(params, x, k)
            require_same(self, x, y)
            return y, (x, res)

        keys = None if key is None else jax.random.split(key, self.n)
        return lax.scan(one, x, keys, length=self.n)

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        def one(state: tuple[PyTree, Params], time: PyTree) -> tuple[tuple[PyTree, Params], None]:
            (dy, total), (x, res) = state, time
            dparams, dx = self.layer.backward(params, x, res, dy)
            return (dx, add(total, dparams)), None

        floats = zero_gradient(params)
        start = dy, widened(floats)
        (dx, total), _ = lax.scan(one, start, res, length=self.n, reverse=True)
        return like(total, floats), dx

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        return [self.layer.start(params, x, length) for _ in range(self.n)]

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        states = []
        for s in state:
            x, s = self.layer.steps(params, x, s)
            states.append(s)
        return x, states
