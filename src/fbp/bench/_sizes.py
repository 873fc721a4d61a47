"""The workloads: sizes of models and batches, and the FLOPs of their matrix products."""

import dataclasses

import jax
import numpy as np

from fbp._layer import Layer
from fbp.models import gpt2


@dataclasses.dataclass(frozen=True)
class GPTSizes:
    """The sizes of a GPT-2 with tied embeddings, and of its batch."""

    layers: int
    width: int
    heads: int
    context: int
    batch: int
    vocab: int

    @property
    def tokens(self) -> int:
        """The number of tokens in one batch."""
        return self.batch * self.context

    @property
    def dense_flops(self) -> int:
        """FLOPs of a step's products with weights: 2 per weight and token forward, 4 backward."""
        weights = self.layers * 12 * self.width**2 + self.vocab * self.width
        return 6 * weights * self.tokens

    @property
    def attention_flops(self) -> int:
        """FLOPs of attention's products in a step, of the causal half alone: 2 products forward,
        5 backward (one of them the scores again), with T (T + 1) / 2 pairs each."""
        pairs = self.context * (self.context + 1) // 2
        return 7 * 2 * self.layers * self.batch * pairs * self.width

    @property
    def flops(self) -> int:
        """FLOPs of all products of a step."""
        return self.dense_flops + self.attention_flops

    def batches(self, steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Random ids and labels (steps, B, T), the same for the same seed."""
        rng = np.random.default_rng(seed)
        ids = rng.integers(0, self.vocab, (steps, self.batch, self.context + 1), np.int32)
        return ids[..., :-1], ids[..., 1:]

    def model(self) -> Layer:
        """The model of these sizes in fbp."""
        return gpt2(
            vocab=self.vocab,
            context=self.context,
            width=self.width,
            heads=self.heads,
            layers=self.layers,
        )

    def params(self, seed: int = 0) -> dict:
        """The parameters that all contenders start from, in fbp's tree, as NumPy arrays."""
        return jax.tree.map(np.asarray, jax.jit(self.model().init)(jax.random.key(seed)))


WORKLOADS = {
    "gpt": GPTSizes(layers=6, width=256, heads=8, context=512, batch=4, vocab=512),
    "t1024": GPTSizes(layers=6, width=256, heads=8, context=1024, batch=2, vocab=512),
    "t2048": GPTSizes(layers=6, width=256, heads=8, context=2048, batch=1, vocab=512),
    "t4096": GPTSizes(layers=3, width=256, heads=8, context=4096, batch=1, vocab=512),
    "vocab": GPTSizes(layers=4, width=256, heads=8, context=256, batch=4, vocab=50257),
    "deep": GPTSizes(layers=12, width=512, heads=8, context=128, batch=2, vocab=512),
    "gpt2": GPTSizes(layers=12, width=768, heads=12, context=1024, batch=8, vocab=50257),
    "tiny": GPTSizes(layers=2, width=32, heads=2, context=32, batch=2, vocab=64),
}
