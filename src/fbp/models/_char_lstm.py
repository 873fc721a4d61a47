"""A language model of stacked LSTMs."""

from jax.nn import initializers

from fbp._layer import Layer
from fbp.combinators import Recurrent, Serial
from fbp.layers import Embedding, LSTMCell, Unembed


def char_lstm(vocab: int, width: int = 256, layers: int = 2, truncate: int | None = None) -> Serial:
    """An embedding, stacked LSTMs and an unembedding: ids (..., T) to logits (..., T, V).

        ids (..., T)  ->  embed (..., T, D)  ->  lstm_1 ... lstm_n (..., T, D)  ->  (..., T, V)

    The logits at step t predict token t + 1. Its params are named embed, lstm_1, ..., unembed.

    Args:
      vocab: V, the number of tokens.
      width: D, the size of the embedding and of every LSTM.
      layers: the number of LSTMs.
      truncate: cuts the gradient of the state after this many steps (see `Recurrent`).

    Raises:
      ValueError: a size is below 1.

    Source: Graves, "Generating Sequences With Recurrent Neural Networks", arXiv:1308.0850, 2013.
    """
    if min(vocab, width, layers) < 1:
        raise ValueError(
            f"char_lstm: expected vocab, width and layers of 1 or more, got {vocab}, {width}, "
            f"{layers}"
        )
    stack: dict[str, Layer] = {
        f"lstm_{i}": Recurrent(LSTMCell(width, width), truncate) for i in range(1, layers + 1)
    }
    # The variance 1 / n_in of an LSTM's w assumes inputs of variance 1.
    embed = Embedding(vocab, width, w_init=initializers.normal(1.0))
    return Serial(embed=embed, **stack, unembed=Unembed(width, vocab))
