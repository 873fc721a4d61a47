"""The skip connection."""

import dataclasses

import jax

from fbp._gradients import add, add_floats, passed
from fbp._layer import Array, Key, Layer, Params, PyTree, name_of
from fbp._require import require_layer


@dataclasses.dataclass(frozen=True)
class Residual(Layer):
    """Adds a layer's output to its input: y = x + f(x).

        dx = dy + (df/dx)^T dy

    x is read by both terms, so its two gradients add up; the first passes to x unchanged, however
    deep the network is. Integers, such as indices, are not added: those of y are those of f(x).

    Args:
      layer: f. It keeps the shape of x.

    Raises:
      ValueError: f changes the shape or dtype of x.

    Source: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
    """

    layer: Layer

    def __post_init__(self) -> None:
        require_layer(self, self.layer)

    @property
    def cheap(self) -> bool:
        return self.layer.cheap

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        fx, res = self.layer.forward(params, x, key)
        require_same(self, x, fx)
        return add_floats(fx, x), res

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        dparams, dx = self.layer.backward(params, x, res, dy)
        return dparams, add(passed(dy, x), dx)

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        return add_floats(self.layer.recompute(params, x, res), x)

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        return self.layer.start(params, x, length)

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        fx, state = self.layer.steps(params, x, state)
        return add_floats(fx, x), state


def require_same(
    owner: Layer,
    x: PyTree,
    y: PyTree,
    what: str = "its layer to keep the shape and dtype of x",
) -> None:
    """Raises ValueError unless y has the tree, shapes and dtypes of x."""
    x_type, y_type = jax.tree.map(_type, x), jax.tree.map(_type, y)
    if x_type != y_type:
        raise ValueError(f"{name_of(owner)}: expected {what}, got {x_type} -> {y_type}")


def _type(x: Array) -> str:
    return f"{x.dtype}{list(x.shape)}"
