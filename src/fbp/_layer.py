"""The contract: what a layer and a loss are.

A network is a chain of functions, and backpropagation is the chain rule walked backwards along
it. So a layer is written as a pair of pure functions over a tree of parameters:

    init(key)                        -> params
    forward(params, x, key=None)     -> y, res
    backward(params, x, res, dy)     -> dparams, dx

`forward` returns y and `res`, the residuals: what the backward needs beyond `params` and `x`.
`backward` applies the transposed Jacobian: with dy = dloss/dy from downstream,

    dparams = (dy/dparams)^T dy        how each parameter moves the loss
    dx      = (dy/dx)^T dy             passed upstream, where it is the dy of the layer before

A loss ends the forward pass and starts the backward pass: nothing is downstream of it, so it
returns dloss/dy together with its value.

These hold for every layer, and are tested for every layer:

* `backward` is linear in dy; dparams has the tree, shapes and dtypes of params, dx those of x
  (None for an integer array).
* The caller keeps x and passes it to `backward`, so that a value between two layers is kept once.
  Most layers therefore return `res = ()`.
* Leading axes are batch axes. x and y may be trees of arrays.
* Without a key there is no noise, as in evaluation. Combinators split a key among their layers.

Trees and shapes are held to this whenever a layer runs (see `_contract`), numbers by `fbp.check`.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp._contract import hold_to_contract, takes
from fbp._described import described
from fbp._positions import require_single_positions

Array = jax.Array
Key = jax.Array | None
# Any pytree of arrays.
Params = Any
PyTree = Any


class Layer(abc.ABC):
    """A pure function with its chain rule. Subclasses are frozen dataclasses without arrays.

    `backward` is linear in dy. dparams has the tree, shapes and dtypes of params, dx those of x
    (None for an integer array). The caller passes x to `backward` again, so res holds only what
    cannot be computed cheaply from params and x: often (). Leading axes are batch axes, over which
    the gradients of parameters are summed. Without a key there is no noise.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        hold_to_contract(cls, Layer)

    @property
    def cheap(self) -> bool:
        """Whether y is cheaper to compute again than to keep: activations and norms set
        `cheap = True`. `Serial` does not keep such an output; its backward calls `recompute`."""
        return False

    @property
    def draws(self) -> bool:
        """Whether the layer itself, not one inside it, draws noise where it is given a key. Then a
        training step without a key is refused."""
        return False

    def init(self, key: Array) -> Params:
        """Draws the parameters; () for a layer that has none."""
        del key
        return ()

    @abc.abstractmethod
    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        """Returns y and res, what `backward` needs beyond params and x."""

    @abc.abstractmethod
    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        """Returns dparams and dx: the transposed Jacobian at (params, x), applied to dy."""

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        """Returns y once more. A cheap layer that draws noise overrides it, with its key in res."""
        del res
        y, _ = self.forward(params, x)
        return y

    # A sequence in parts, as in sampling: y_t = step(x_t), with a state that holds what earlier
    # positions left. Most layers act on each position alone and inherit these methods; a layer that
    # reads other positions defines `start`, and `steps` or, if positions must be taken one at a
    # time, `step`.

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        """Returns the state before the first position, for sequences of at most `length`.

        x is the input at one position, or its shapes and dtypes: that of `forward` without the axis
        T.

        Raises:
          TypeError: a layer defines neither `step` nor `steps`, and its forward reads other
            positions.
        """
        of_fbp = type(self).__module__.startswith("fbp.")
        if not of_fbp and type(self).step is Layer.step and type(self).steps is Layer.steps:
            require_single_positions(self, x)
        return ()

    def step(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """Returns y at the next position and the new state. y is what `forward`, without a key,
        returns at this position of the whole sequence."""
        y, state = self.steps(params, jax.tree.map(lambda a: a[None], x), state)
        return jax.tree.map(lambda a: a[0], y), state

    def steps(self, params: Params, x: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """Returns y at the next positions and the state after them: `step` for each, in one call.

        The positions are the first axis of x and y, before the axes that `step` takes. A layer that
        acts on each position alone treats it as one more batch axis.
        """
        if type(self).step is Layer.step:
            y, _ = self.forward(params, x)
            return y, state

        def one(state: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
            y, state = self.step(params, x, state)
            return state, y

        state, y = lax.scan(one, state, x)
        return y, state


class Loss(abc.ABC):
    """The number to minimize and its gradient, in one call: where forward turns into backward.

    A loss is a mean over the examples of a target. With a target `Weighted(target, weight)` it is
    the weighted mean, sum(weight * loss) / sum(weight).

    Two more arguments are given to a `value_and_grad` that has a parameter of their name: `key`, to
    draw from, None in evaluation; and `scale`, by which dparams and dy, but not the value, are
    multiplied before they are rounded to float16 (else they are widened, and scaled outside).
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        hold_to_contract(cls, Loss)

    @property
    def draws(self) -> bool:
        """Whether `value_and_grad` draws noise where it is given a key."""
        return takes(self.value_and_grad, "key")

    def init(self, key: Array) -> Params:
        """Draws the parameters; () for a loss that has none."""
        del key
        return ()

    def value(self, params: Params, y: PyTree, target: PyTree) -> Array:
        """Returns the loss, a scalar."""
        value, _, _ = self.value_and_grad(params, y, target)
        return value

    @abc.abstractmethod
    def value_and_grad(
        self, params: Params, y: PyTree, target: PyTree
    ) -> tuple[Array, Params, PyTree]:
        """Returns the loss, dparams and dy."""

    def weight(self, target: PyTree) -> Array:
        """Returns the divisor of the mean, up to a constant factor: how much this target counts
        when a larger one is cut into parts (see `Microbatch`).

        Here the number of examples, the size of the target's first axis. A loss that leaves some
        examples out, or weighs them, overrides it.
        """
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(target)}
        if len(sizes) != 1 or sizes == {()}:
            raise ValueError(
                f"{name_of(self)}.weight: expected a target whose arrays have examples as their "
                f"first axis, got {described(target)}: define weight(target)"
            )
        return jnp.float32(next(iter(sizes))[0])


def split(key: Key, n: int) -> list[Key]:
    """Splits a key n ways; None stays None."""
    return [None] * n if key is None else list(jax.random.split(key, n))


def name_of(owner: Any) -> str:
    """The name of a layer or a loss in errors and tables."""
    return type(owner).__name__
