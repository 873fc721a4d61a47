"""Trading time for memory: keep nothing, compute the forward again."""

import dataclasses

from jax import lax

from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp._require import require_layer


@dataclasses.dataclass(frozen=True)
class Remat(Layer):
    """The same function, keeping only x (which the caller keeps anyway) and the key.

    The backward runs the layer's forward again for its residuals, then its backward: it costs the
    time of one more forward and saves the memory of the residuals.

    Args:
      layer: the layer whose residuals are not kept.

    Source: Griewank and Walther, "Algorithm 799: revolve", ACM TOMS 26(1), 2000; Chen, Xu, Zhang
    and Guestrin, "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.
    """

    layer: Layer

    def __post_init__(self) -> None:
        require_layer(self, self.layer)

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        y, _ = self.layer.forward(params, x, key)
        return y, key

    def backward(self, params: Params, x: PyTree, res: Key, dy: PyTree) -> tuple[Params, PyTree]:
        # The barrier makes the second forward wait for dy. Without it the compiler would merge the
        # two equal forwards and keep the residuals of the first.
        params, x, key, dy = lax.optimization_barrier((params, x, res, dy))
        _, again = self.layer.forward(params, x, key)
        return self.layer.backward(params, x, again, dy)

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        return self.layer.start(params, x, length)

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        return self.layer.steps(params, x, state)
