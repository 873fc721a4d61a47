"""A language model and its loss as one objective, which never forms all logits at once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fbp._described import described
from fbp._gradients import like, scaled
from fbp._layer import Array, Key, Layer, Params, PyTree, name_of
from fbp.combinators import Serial
from fbp.layers import Unembed
from fbp.losses import UnembedCrossEntropy
from fbp.ports import Cast, Freeze, Tie


@dataclasses.dataclass(frozen=True)
class NextToken:
    """The objective of a language model: the cross-entropy of its logits, in chunks of tokens.

    It has the value of `Objective(model, SoftmaxCrossEntropy())`, but its params are the model's,
    and the model's last layer runs inside the loss (see `UnembedCrossEntropy`). A batch is
    (ids, labels), both (B, T); labels[t] is the token after ids[t].

    Args:
      model: a `Serial` that ends with `unembed=Unembed(...)`, or a `Tie` of one, such as `gpt2`,
        `llama` and `char_lstm`.
      loss: of y and labels; a plain `UnembedCrossEntropy` of the model's sizes by default.

    Raises:
      TypeError: the model does not end with `unembed=Unembed(...)`.
    """

    model: Layer
    loss: UnembedCrossEntropy | None = None

    def __post_init__(self) -> None:
        serial: Any = self.model.layer if isinstance(self.model, Tie) else self.model
        if not (isinstance(serial, Serial) and serial.names and serial.names[-1] == "unembed"):
            raise TypeError(
                f"{name_of(self)}: expected a model that ends with unembed=Unembed(...)"
            )
        unembed, _ = self._unembed()
        if not isinstance(unembed, Unembed):
            raise TypeError(
                f"{name_of(self)}: expected an Unembed at its end, got {described(unembed)}"
            )
        if self.loss is None:
            object.__setattr__(self, "loss", UnembedCrossEntropy(unembed.size, unembed.n))

    def init(self, key: Array) -> Params:
        return self.model.init(key)

    def value(self, params: Params, batch: PyTree, key: Key = None) -> Array:
        """Returns the loss: the forward pass alone."""
        ids, labels = batch
        trunk, p, head = self._parts(params)
        y, _ = trunk.forward(p, ids, key)
        return self._loss.value(self._cast(head), y, labels)

    def value_and_grad(
        self, params: Params, batch: PyTree, key: Key = None, *, scale: Any = None
    ) -> tuple[Array, Params]:
        """Returns the loss and its gradient; this times `scale`, for float16."""
        value, res = self.forward(params, batch, key, scale=scale)
        return value, self.backward(params, batch, res)

    def forward(
        self, params: Params, batch: PyTree, key: Key = None, *, scale: Any = None
    ) -> tuple[Array, PyTree]:
        """Returns the loss and the residuals of `backward`, which include the head's gradients."""
        ids, labels = batch
        trunk, p, head = self._parts(params)
        y, res = trunk.forward(p, ids, key)
        value, dhead, dy = self._loss.value_and_grad(self._cast(head), y, labels, scale=scale)
        if any(isinstance(port, Freeze) for port in self._unembed()[1]):
            dhead = jax.tree.map(jnp.zeros_like, dhead)
        return value, (res, like(dhead, head), dy)

    def backward(self, params: Params, batch: PyTree, res: PyTree, dvalue: Any = 1) -> Params:
        """Returns dvalue times the gradient of the loss."""
        res, dhead, dy = res
        dhead, dy = scaled(dvalue, (dhead, dy))
        trunk, p, _ = self._parts(params)
        dtrunk, _ = trunk.backward(p, batch[0], res, dy)
        dparams = {**dtrunk, "unembed": dhead}
        return self.model.tied(dparams) if isinstance(self.model, Tie) else dparams

    def weight(self, batch: PyTree) -> Array:
        """Returns the weight of this batch within a larger one: how many tokens count."""
        return self._loss.weight(batch[1])

    def _unembed(self) -> tuple[Layer, list[Cast | Freeze]]:
        """The last layer without its ports, and the ports around it, the outermost first."""
        serial: Any = self.model.layer if isinstance(self.model, Tie) else self.model
        layer, ports = serial.layers[-1], []
        while isinstance(layer, Cast | Freeze):
            ports.append(layer)
            layer = layer.layer
        return layer, ports

    def _cast(self, head: Params) -> Params:
        """The last layer's params in the dtype that it computes in."""
        for port in self._unembed()[1]:
            head = port.cast(head) if isinstance(port, Cast) else head
        return head

    @property
    def _loss(self) -> UnembedCrossEntropy:
        assert self.loss is not None
        return self.loss

    def _parts(self, params: Params) -> tuple[Serial, Any, Any]:
        """The model without its last layer, the params of that, and the last layer's params."""
        serial: Any = self.model
        if isinstance(self.model, Tie):
            serial, params = self.model.layer, self.model.untied(params)
        serial.unpack(params)  # raises if they are not the model's
        named = dict(zip(serial.names[:-1], serial.layers[:-1], strict=True))
        head = params["unembed"]
        if any(isinstance(port, Freeze) for port in self._unembed()[1]):
            head = jax.lax.stop_gradient(head)
        return Serial(**named), {name: params[name] for name in named}, head
