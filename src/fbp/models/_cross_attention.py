"""Attention to another sequence."""

from fbp.combinators import Graph
from fbp.layers import Attention, Dense, MergeHeads, SplitHeads


def cross_attention(
    width: int,
    heads: int,
    *,
    memory: int | None = None,
    kv_heads: int | None = None,
    head_size: int | None = None,
    bias: bool = True,
    masked: bool = False,
) -> Graph:
    """Each place of one sequence looks at all places of another, as a decoder does at an encoder.

        q    = x w_q               k = memory w_k,   v = memory w_v
        y    = attention(q, k, v) w_out

    A graph of `Dense`, `SplitHeads`, `Attention` and `MergeHeads`, with params q, k, v and out. k
    has no bias: it would add the same number to all scores of a query, which softmax takes away.

    Shapes: x = {"x": (..., T, D), "memory": (..., S, M)}, and with `masked` "mask": (..., S) of
    bools, True for places of the memory that may be seen and False for padding; or a tuple in this
    order. y (..., T, D).

    Args:
      width: D, of x and y.
      heads: number of query heads.
      memory: M, of the memory; D by default.
      kv_heads: number of key and value heads, which divides `heads`; `heads` by default.
      head_size: of each head; D / heads by default.
      bias: whether the Dense of q, v and out have biases.
      masked: whether there is a mask.

    Raises:
      ValueError: heads do not divide the width, where there is no head_size; kv_heads do not divide
        the heads.

    Source: Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning to Align and
    Translate", arXiv:1409.0473; Vaswani et al., "Attention Is All You Need", NeurIPS 2017.
    """
    kv = heads if kv_heads is None else kv_heads
    if min(heads, kv) < 1 or heads % kv or (head_size is None and width % heads):
        raise ValueError(
            f"cross_attention: expected heads that divide the width, and kv_heads that divide the "
            f"heads, got width={width}, heads={heads}, kv_heads={kv}"
        )
    size, seen = head_size or width // heads, memory or width
    mask = ("mask",) if masked else ()
    return Graph(
        inputs=("x", "memory", *mask),
        q=(Dense(width, heads * size, bias), "x"),
        k=(Dense(seen, kv * size, bias=False), "memory"),
        v=(Dense(seen, kv * size, bias), "memory"),
        queries=(SplitHeads(heads, packed=False), "q"),
        keys=(SplitHeads(kv, packed=False), "k"),
        values=(SplitHeads(kv, packed=False), "v"),
        attend=(Attention(), ("queries", "keys", "values", *mask)),
        merge=(MergeHeads(), "attend"),
        out=(Dense(heads * size, width, bias), "merge"),
        output="out",
    )
