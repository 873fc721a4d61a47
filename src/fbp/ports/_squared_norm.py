"""The squared norm of a Stack's gradient, summed copy by copy."""

import dataclasses

import jax

from fbp._gradients import add
from fbp._layer import Array, Key, Layer, Params, PyTree
from fbp.combinators import Stack
from fbp.ports._squares import no_squares, sum_of_squares
from fbp.ports._update import UpdateParams


@dataclasses.dataclass(frozen=True)
class SquaredNorm(Layer):
    """Returns the sum of squares of a Stack's dparams in place of dparams, without stacking them.

    Takes `UpdateParams` and uses only `params` and `grads`, which is added to dparams.
    """

    layer: Stack

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: UpdateParams, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        return self.layer.forward(params.params, x, key)

    def backward(
        self, params: UpdateParams, x: PyTree, res: PyTree, dy: PyTree
    ) -> tuple[Array, PyTree]:
        def take(squares: Array, i: Array, _: Params, g: Params) -> tuple[Array, None]:
            if params.grads is not None:
                g = add(jax.tree.map(lambda a: a[i], params.grads), g)
            return squares + sum_of_squares(g), None

        squares, _, dx = self.layer.walk_back(
            lambda _: params.params, res, dy, no_squares(params.params), take
        )
        return squares, dx
