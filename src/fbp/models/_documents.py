"""Language models that read several documents in a row, each as if it were alone."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax

from fbp._gradients import at_least_float32, like
from fbp._layer import Array, Key, Layer, Params, PyTree, name_of
from fbp._require import require_layer
from fbp.combinators import On, Recurrent, Remat, Residual, Serial, Stack
from fbp.combinators._map import map_held, map_layers
from fbp.layers import Attention, Conv1D, LinearRecurrence, Positions
from fbp.ports import Cast, Freeze, Tie

# What passes on to the layers it holds whatever x is.
_PASS_ON = (Cast, Freeze, Remat, Residual, Serial, Stack)
# What reads other positions than its own; of these, the first two are told where documents begin.
_READ_OTHERS = (Attention, Positions, Conv1D, LinearRecurrence, Recurrent)


def with_documents(model: Layer) -> Layer:
    """Returns the model for rows of several documents: x = (ids, documents) to logits.

    Attention sees the tokens of its own document alone, and learned positions count from its
    beginning, so the logits are those of each document alone. The params are those of the model:
    the same weights serve both, one to train, the other to write and to be saved.

    Every other layer acts on each position alone, so the numbers pass it by. Angles of `Rope` need
    no beginning, as only their differences count; but where a scaling depends on the length, as
    `DynamicScaling`, that is the row's.

    Shapes: ids and documents (..., T) of integers, logits (..., T, V). documents[t] is the number
    of the document of ids[t]. The places of a document are side by side.

    Args:
      model: a `Serial` that ends with `unembed`, or a `Tie` of one, such as `gpt2` and `llama`, as
        they are made, loaded or with LoRA.

    Raises:
      TypeError: the model is not one of these, or a layer reads other positions and cannot be told
        where documents begin, as one of an LSTM.
    """
    if isinstance(model, Tie):
        return map_held(with_documents, model)
    if not (isinstance(model, Serial) and model.names and model.names[-1] == "unembed"):
        raise TypeError(
            f"with_documents: expected a model that ends with unembed=..., got {name_of(model)}"
        )
    *others, last, unembed = model.layers
    layers = (*map(_within, others), _WithoutDocuments(_within(last)), unembed)
    return Serial(**dict(zip(model.names, layers, strict=True)))


def _within(layer: Layer) -> Layer:
    """The layer, for x and the numbers of the documents."""
    if isinstance(layer, Attention):
        return AttentionInDocuments(layer)
    if isinstance(layer, Positions):
        return PositionsInDocuments(layer.n, layer.size, layer.w_init, layer.dtype)
    if isinstance(layer, _PASS_ON):
        return map_held(_within, layer)

    def require_alone(inside: Layer) -> Layer:
        if isinstance(inside, _READ_OTHERS):
            raise TypeError(
                "with_documents: expected Attention and Positions, inside Serial, Residual, Stack "
                f"and Remat, to be what reads other positions, got {name_of(inside)} in "
                f"{name_of(layer)}"
            )
        return inside

    map_layers(require_alone, layer)
    return On(0, layer)


@dataclasses.dataclass(frozen=True)
class AttentionInDocuments(Layer):
    """Attention within documents: x = ((q, k, v), documents), y = (attention's y, documents).

    Args:
      layer: an `Attention`, whose mask the numbers are.
    """

    layer: Layer

    def __post_init__(self) -> None:
        require_layer(self, self.layer)

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        qkv, documents = x
        _require_numbers(self, documents)
        y, res = self.layer.forward(params, (*qkv, documents), key)
        return (y, documents), res

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        qkv, documents = x
        dparams, (*dqkv, _) = self.layer.backward(params, (*qkv, documents), res, dy[0])
        return dparams, (tuple(dqkv), None)

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        raise ValueError(_ONE_AT_A_TIME.format(name_of(self)))


@dataclasses.dataclass(frozen=True)
class PositionsInDocuments(Positions):
    """Adds a learned vector to each position, which counts from the first one of its document.

        n_t  = t - the first position of the document of t
        y_t  = x_t + w_{n_t}
        dw_n = sum of dy_t over all t with n_t = n
        dx   = dy

    Shapes: x and y are pairs of (..., T, D), T <= n, and of the numbers (..., T). w (n, D).

    Args, Raises: as `Positions`; and TypeError where the numbers are no integers, ValueError where
      they have another shape.
    """

    def forward(self, params: Any, x: PyTree, key: Key = None) -> tuple[PyTree, Any]:
        x, documents = x
        self.require(params, x)
        _require_numbers(self, documents)
        if documents.shape != x.shape[:-1]:
            raise ValueError(
                f"{name_of(self)}: expected numbers of documents of shape {x.shape[:-1]}, "
                f"got {documents.shape}"
            )
        return (x + params["w"][from_the_first(documents)], documents), ()

    def backward(self, params: Any, x: PyTree, res: Any, dy: PyTree) -> tuple[Any, PyTree]:
        x, documents = x
        dy, _ = dy
        wide = at_least_float32(dy)
        dw = jnp.zeros((self.n, self.size), wide.dtype).at[from_the_first(documents)].add(wide)
        return like({"w": dw}, params), (dy.astype(x.dtype), None)

    def start(self, params: Any, x: PyTree, length: int) -> Any:
        raise ValueError(_ONE_AT_A_TIME.format(name_of(self)))


def from_the_first(documents: Array) -> Array:
    """How many positions each is behind the first one of its document: (..., T) to (..., T)."""
    *batch, length = documents.shape
    place = jnp.arange(length)
    begins = jnp.concatenate(
        [jnp.ones((*batch, min(length, 1)), bool), documents[..., 1:] != documents[..., :-1]], -1
    )
    return place - lax.cummax(jnp.where(begins, place, 0), documents.ndim - 1)


@dataclasses.dataclass(frozen=True)
class _WithoutDocuments(Layer):
    """The same layer, whose y goes on without the numbers of the documents: (y, documents) to y."""

    layer: Layer

    @property
    def cheap(self) -> bool:
        return self.layer.cheap

    def init(self, key: Array) -> Params:
        return self.layer.init(key)

    def forward(self, params: Params, x: PyTree, key: Key = None) -> tuple[PyTree, PyTree]:
        (y, _), res = self.layer.forward(params, x, key)
        return y, res

    def backward(self, params: Params, x: PyTree, res: PyTree, dy: PyTree) -> tuple[Params, PyTree]:
        return self.layer.backward(params, x, res, (dy, None))

    def recompute(self, params: Params, x: PyTree, res: PyTree) -> PyTree:
        y, _ = self.layer.recompute(params, x, res)
        return y

    def start(self, params: Params, x: PyTree, length: int) -> PyTree:
        raise ValueError(_ONE_AT_A_TIME.format(name_of(self)))


_ONE_AT_A_TIME = "{}: expected the model without documents to go one place at a time"


def _require_numbers(owner: Layer, documents: Array) -> None:
    # Bools would be a mask of attention, and say something else.
    dtype = getattr(documents, "dtype", type(documents).__name__)
    if not (hasattr(documents, "dtype") and jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(
            f"{name_of(owner)}: expected the numbers of documents to be integers, got {dtype}"
        )
