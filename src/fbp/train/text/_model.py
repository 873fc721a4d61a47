"""The language models that can be trained: how each is built and how it generates text."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp import models
from fbp._layer import Array, Layer, Params
from fbp.text import Choice, generate
from fbp.train.tables._table import InputError


@dataclasses.dataclass(frozen=True)
class TextModel:
    """A language model: ids (..., T) to logits (..., T, V), with generation.

    Attributes:
      model: the layer.
      vocab: V.
      context: the most tokens it reads at once; None if there is no limit.
    """

    model: Layer
    vocab: int
    context: int | None

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> "TextModel":
        """The model of a run's config, such as `{"kind": "lstm", "vocab": 256, "width": ...}`.

        Raises:
          InputError: this version does not know the kind, or a size is not a positive integer.
          KeyError, TypeError, ValueError: a size is missing, unknown or inconsistent with others.
        """
        sizes = {name: size for name, size in spec.items() if name != "kind"}
        for name, size in sizes.items():
            if name == "dropout":
                continue  # a rate, which `Dropout` checks
            if type(size) is not int or size < 1:
                raise InputError(f"expected {name} to be an integer of 1 or more, got {size!r}")
        if spec["kind"] == "lstm":
            return cls(models.char_lstm(**sizes), spec["vocab"], None)
        if spec["kind"] == "gpt":
            return cls(models.gpt2(**sizes), spec["vocab"], spec["context"])
        if spec["kind"] == "llama":
            context = sizes.pop("context")
            return cls(models.llama(**sizes), spec["vocab"], context)
        raise InputError(f"expected a model that this version knows, got {spec}")

    def generate(
        self,
        params: Params,
        prompt: np.ndarray,
        n: int,
        key: Array,
        choice: Choice = Choice(),  # noqa: B008
        stops: tuple[int, ...] = (),
    ) -> np.ndarray:
        """Returns n new ids after a prompt (P,), or fewer: those before the first of `stops`."""
        ids = jnp.asarray(prompt, jnp.int32)
        some = generate(self.model, params, ids, n, key, choice, context=self.context, stops=stops)
        new = np.asarray(jax.device_get(some))
        ends = np.flatnonzero(np.isin(new, stops))
        return new[: ends[0]] if len(ends) else new
