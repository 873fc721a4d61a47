"""Rows of the table of cases: what language models are made of."""

from collections.abc import Callable
from typing import Any

import numpy as np
from _case import Case

import fbp
from fbp.models._documents import AttentionInDocuments, PositionsInDocuments


def _ids(n: int, *shape: int) -> Callable[[np.random.Generator], Any]:
    """Integers, some of which repeat."""
    return lambda rng: rng.integers(n, size=shape, dtype=np.int32)


def _qkv(
    batch: tuple[int, ...],
    t: int,
    s: int,
    heads: int,
    groups: int,
    size: int,
    values: int | None = None,
    seen: Any = None,
) -> Callable[[np.random.Generator], Any]:
    """q, k, v and perhaps a mask, which keys may be seen, or of which document each place is."""

    def draw(rng: np.random.Generator) -> Any:
        q = rng.normal(size=(*batch, t, heads, size))
        k = rng.normal(size=(*batch, s, groups, size))
        v = rng.normal(size=(*batch, s, groups, values or size))
        return (q, k, v) if seen is None else (q, k, v, np.broadcast_to(seen, (*batch, s)))

    return draw


def _documents(*sizes: int) -> np.ndarray:
    """The number of the document that each place is of, for documents of these sizes."""
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def _packed() -> list[Case]:
    """Attention to one's own document alone."""
    full, causal = fbp.Attention(), fbp.Attention(causal=True)
    two = np.stack([_documents(3, 1, 2, 1), _documents(2, 5)])
    scattered = np.array([3, -1, 3, 0, -1], np.int8)
    return [
        Case("attention/documents", causal, _qkv((2,), 7, 7, 6, 2, 3, 5, seen=two)),
        Case("attention/documents_both_ways", full, _qkv((2,), 7, 7, 3, 3, 4, 2, seen=two)),
        Case("attention/documents_no_batch", full, _qkv((), 5, 5, 2, 1, 3, seen=scattered), 0),
        Case("attention/one_document", causal, _qkv((3,), 3, 3, 3, 3, 3, seen=_documents(3))),
        Case(
            "attention/documents_of_one_place",
            causal,
            _qkv((2, 3), 3, 3, 1, 1, 3, seen=_documents(1, 1, 1)),
            batch=2,
            notes="p is 1: dq and dk are 0",
        ),
        Case("attention/a_document_of_one", causal, _qkv((1,), 1, 1, 1, 1, 1, seen=_documents(1))),
        Case(
            "attention/documents_everything",
            fbp.Attention(causal=True, window=2, softcap=1.5, scale=0.9),
            _qkv((2,), 7, 7, 6, 2, 3, 2, seen=two),
        ),
        Case(
            "attention/documents_blocks",
            fbp.Attention(causal=True, window=40),
            _qkv((1,), 131, 131, 4, 2, 3, seen=_documents(33, 1, 64, 31, 2)),
        ),
    ]


def _of_documents() -> list[Case]:
    """What is handed the numbers of the documents beside x."""
    two = np.stack([_documents(3, 1, 2, 1), _documents(2, 5)])

    def numbered(numbers: np.ndarray, size: int) -> Callable[[np.random.Generator], Any]:
        return lambda rng: (rng.normal(size=(*numbers.shape, size)), numbers)

    def attended(rng: np.random.Generator) -> Any:
        return _qkv((2,), 7, 7, 6, 2, 3)(rng), two

    model = fbp.models.llama(vocab=5, width=4, heads=2, kv_heads=1, layers=2, hidden=3)
    return [
        Case("positions/documents", PositionsInDocuments(11, 3), numbered(two, 3)),
        Case(
            "positions/documents_no_batch",
            PositionsInDocuments(5, 5),
            numbered(_documents(3, 1, 1), 5),
            batch=0,
        ),
        Case("positions/a_document_of_one", PositionsInDocuments(1, 1), numbered(two[:, :1], 1)),
        Case("attention/in_documents", AttentionInDocuments(fbp.Attention(True)), attended),
        Case(
            "llama/documents",
            fbp.models.with_documents(model),
            lambda rng: (_ids(5, 2, 7)(rng), two),
        ),
    ]


def _two(
    batch: tuple[int, ...], t: int, s: int, width: int, memory: int, seen: Any = None
) -> Callable[[np.random.Generator], Any]:
    """Two sequences, and perhaps a mask of the second."""

    def draw(rng: np.random.Generator) -> Any:
        x = {
            "x": rng.normal(size=(*batch, t, width)),
            "memory": rng.normal(size=(*batch, s, memory)),
        }
        return x if seen is None else x | {"mask": np.broadcast_to(seen, (*batch, s))}

    return draw


def _scaled_ropes() -> list[Case]:
    scalings = {
        "linear": fbp.LinearScaling(3.0),
        "dynamic": fbp.DynamicScaling(2.0, context=5),
        "yarn": fbp.YarnScaling(4.0, context=16, fast=2.0, magnitude=1.2),
        "longrope": fbp.LongRopeScaling((1.0, 1.5, 2.0, 3.0), (2.0, 3.0, 5.0, 7.0), 5, 1.1),
    }
    return [
        Case(f"rope/{name}", fbp.Rope(7.0, scaling), _qkv((2,), 7, 7, 2, 1, 8))
        for name, scaling in scalings.items()
    ]


def _crossed() -> list[Case]:
    cross = fbp.models.cross_attention
    some = np.array([[True, False, True], [True, True, False]])
    return [
        Case("cross_attention", cross(6, 2, memory=5), _two((2,), 3, 7, 6, 5)),
        Case("cross_attention/no_batch", cross(4, 2, bias=False), _two((), 5, 3, 4, 4), batch=0),
        Case("cross_attention/equal", cross(3, 3), _two((3,), 3, 3, 3, 3)),
        Case(
            "cross_attention/masked",
            cross(4, 4, memory=3, kv_heads=2, head_size=3, masked=True),
            _two((2,), 5, 3, 4, 3, some),
        ),
    ]


def make_cases() -> list[Case]:
    full, causal = fbp.Attention(), fbp.Attention(causal=True)
    short = fbp.Attention(causal=True, window=3)
    some = np.array([[True, False, True, True, False], [False] * 5])
    cases = [
        Case("embedding", fbp.Embedding(5, 3), _ids(5, 2, 7), batch=2),
        Case("embedding/no_batch", fbp.Embedding(5, 3), _ids(5), batch=0),
        Case("embedding/equal", fbp.Embedding(5, 5), _ids(5, 5)),
        Case("embedding/one", fbp.Embedding(1, 1), _ids(1, 3)),
        Case("unembed", fbp.Unembed(3, 5), (7, 3)),
        Case("unembed/equal", fbp.Unembed(5, 5), (5, 5, 5), batch=2),
        Case("unembed/no_batch", fbp.Unembed(3, 5), (3,), batch=0),
        Case("positions", fbp.Positions(7, 3), (2, 5, 3)),
        Case("positions/no_batch", fbp.Positions(5, 3), (5, 3), batch=0),
        Case("positions/two_batch_axes", fbp.Positions(3, 3), (3, 3, 3, 3), batch=2),
        Case("positions/one", fbp.Positions(1, 1), (1, 1, 1)),
        Case("sinusoidal", fbp.Sinusoidal(6), (7,)),
        Case("sinusoidal/no_batch", fbp.Sinusoidal(4, base=3.0), (), batch=0),
        Case("sinusoidal/two_batch_axes", fbp.Sinusoidal(2), (3, 5), batch=2),
        Case("sinusoidal/equal", fbp.Sinusoidal(4), (4, 4), batch=2),
        Case("sinusoidal/integers", fbp.Sinusoidal(6, base=50.0), _ids(100, 7)),
        Case(
            "sinusoidal/recomputed",
            fbp.Serial(fbp.Scale(), fbp.Sinusoidal(4), fbp.Dense(4, 3)),
            (5,),
        ),
    ]
    for name, kind in (("layer_norm", fbp.LayerNorm), ("rms_norm", fbp.RMSNorm)):
        cases += [
            Case(name, kind(5), (7, 5)),
            Case(f"{name}/no_batch", kind(5), (5,), batch=0),
            Case(f"{name}/two_batch_axes", kind(3), (3, 3, 3), batch=2),
            Case(
                f"{name}/two",
                kind(2, eps=0.1),
                (3, 2),
                notes="with a small eps y is a sign, and dx nothing but what cancels",
            ),
            Case(f"{name}/large_eps", kind(5, eps=0.7), (7, 5)),
            Case(
                f"{name}/in_serial",
                fbp.Serial(fbp.Dense(3, 5), kind(5), fbp.Dense(5, 2)),
                (7, 3),
                notes="recomputed from the first layer's output",
            ),
        ]
    cases += [
        Case("layer_norm/no_bias", fbp.LayerNorm(5, bias=False), (7, 5)),
        Case("swiglu", fbp.SwiGLU(), (7, 6)),
        Case("swiglu/two", fbp.SwiGLU(), (2,), batch=0),
        Case(
            "swiglu/feed_forward",
            fbp.Serial(up=fbp.Dense(3, 10), gate=fbp.SwiGLU(), down=fbp.Dense(5, 3)),
            (2, 7, 3),
            batch=2,
        ),
        Case("split_heads", fbp.SplitHeads(6, 3), (2, 7, 24), batch=2),
        Case("split_heads/equal", fbp.SplitHeads(3), (3, 9), batch=1),
        Case("split_heads/one", fbp.SplitHeads(1), (3,), batch=0),
        Case("split_heads/one_of_three", fbp.SplitHeads(3, packed=False), (2, 7, 12), batch=2),
        Case("split_heads/one_head", fbp.SplitHeads(1, packed=False), (5,), batch=0),
        *_crossed(),
        Case("merge_heads", fbp.MergeHeads(), (7, 3, 5)),
        Case("merge_heads/no_batch", fbp.MergeHeads(), (3, 5), batch=0),
        Case("rope", fbp.Rope(), _qkv((2,), 7, 7, 3, 3, 4)),
        Case("rope/grouped", fbp.Rope(base=10.0), _qkv((), 5, 5, 6, 2, 6), batch=0),
        Case("rope/two", fbp.Rope(), _qkv((3, 3), 3, 3, 1, 1, 2), batch=2),
        Case("rope/one_place", fbp.Rope(), _qkv((2,), 1, 1, 2, 2, 2)),
        Case(
            "rope/llama3",
            fbp.Rope(base=7.0, scaling=fbp.Llama3Scaling(factor=3.0, context=16)),
            _qkv((2,), 11, 11, 2, 1, 8),
        ),
        *_scaled_ropes(),
        *_packed(),
        *_of_documents(),
        Case("attention", full, _qkv((2,), 7, 5, 3, 3, 4, 2)),
        Case("attention/no_batch", full, _qkv((), 5, 7, 2, 2, 3), batch=0),
        Case("attention/two_batch_axes", full, _qkv((2, 3), 3, 3, 3, 3, 3), batch=2),
        Case("attention/equal", full, _qkv((3,), 3, 3, 3, 3, 3)),
        Case("attention/one", full, _qkv((1,), 1, 1, 1, 1, 1)),
        Case("attention/one_query", full, _qkv((2,), 1, 5, 2, 1, 3)),
        Case("attention/grouped", full, _qkv((2,), 5, 7, 6, 2, 3)),
        Case("attention/one_group", causal, _qkv((2,), 5, 5, 4, 1, 3)),
        Case("attention/causal", causal, _qkv((2,), 7, 7, 3, 3, 4)),
        Case("attention/window", short, _qkv((2,), 7, 7, 4, 2, 3)),
        Case("attention/window_of_two", fbp.Attention(True, 2), _qkv((2,), 5, 5, 2, 2, 3)),
        Case("attention/softcap", fbp.Attention(softcap=0.7), _qkv((2,), 5, 7, 2, 2, 3)),
        Case("attention/scale", fbp.Attention(scale=0.3), _qkv((2,), 5, 7, 2, 2, 3)),
        Case("attention/masked", full, _qkv((2,), 3, 5, 2, 1, 3, seen=some)),
        Case(
            "attention/everything",
            fbp.Attention(causal=True, window=2, softcap=1.5, scale=0.9),
            _qkv((2,), 5, 5, 6, 2, 3, 2, seen=some),
            notes="queries that see no key, alone and in a whole sequence",
        ),
        Case("attention/blocks", causal, _qkv((1,), 131, 131, 2, 1, 3)),
        Case(
            "attention/blocks_window",
            fbp.Attention(causal=True, window=17, softcap=2.0),
            _qkv((), 97, 97, 2, 2, 2),
            batch=0,
        ),
        Case(
            "attention/in_serial",
            fbp.Residual(
                fbp.Serial(
                    norm=fbp.LayerNorm(6),
                    qkv=fbp.Dense(6, 16),
                    split=fbp.SplitHeads(2, 1),
                    rope=fbp.Rope(),
                    attend=causal,
                    merge=fbp.MergeHeads(),
                    out=fbp.Dense(8, 6),
                )
            ),
            (2, 5, 6),
            widens=True,
        ),
    ]
    return cases


CORE = {
    *("embedding", "unembed", "positions", "layer_norm", "rms_norm", "swiglu", "split_heads"),
    *("sinusoidal", "split_heads/one_of_three", "cross_attention/masked"),
    *("merge_heads", "rope", "attention/everything", "attention/documents_everything"),
    *("positions/documents",),
}
