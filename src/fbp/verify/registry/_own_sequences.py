"""fbp's own rules for sequences, and its ports, each with an input to check it with."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fbp._layer import Layer
from fbp.combinators import Recurrent, Serial
from fbp.layers import (
    Attention,
    Conv1D,
    Dense,
    Embedding,
    Gather,
    GRUCell,
    LayerNorm,
    LinearRecurrence,
    LSTMCell,
    LSTMState,
    MergeHeads,
    Positions,
    RMSNorm,
    Rope,
    Sample,
    SegmentSum,
    Sinusoidal,
    SplitHeads,
    SwiGLU,
    TopKRouter,
    Unembed,
)
from fbp.ports import Cast, Freeze, LoRA, Tie

# Time, width, heads, heads of keys, head width, vocabulary: all different, so that no two axes can
# be confused.
_T, _D, _H, _G, _K, _V = 5, 3, 6, 2, 4, 7
_DOCUMENTS = np.asarray([4, 4, 0, 1, 1], np.int32)


def sequence_layers() -> dict[str, tuple[Layer, Any]]:
    """Layers for sequences, and ports, each with an input x."""
    x = _floats(_T, _D)
    ids = np.asarray([0, _V - 1, 2, 2, 0], np.int32)
    state = _floats(_D)
    model = Serial(embed=Embedding(_V, _D), out=Dense(_D, _D), unembed=Unembed(_D, _V))
    return {
        "Embedding": (Embedding(_V, _D), ids),
        "Unembed": (Unembed(_D, _V), x),
        "Positions": (Positions(_T + 2, _D), _floats(2, _T, _D)),
        "Conv1D": (Conv1D(_D, 2), _floats(2, _T, _D)),
        "Conv1D, causal": (Conv1D(_D, 2, padding="CAUSAL", dilation=2), _floats(2, _T, _D)),
        "Sinusoidal": (Sinusoidal(_K), _floats(_T)),
        "Sample": (Sample(), {"mean": _floats(_T, _D), "log_var": _floats(2, _T, _D)[0]}),
        "SegmentSum": (SegmentSum(3), {"values": x, "segments": ids % 4}),
        "Gather": (Gather(), {"values": x, "index": ids}),
        "LayerNorm": (LayerNorm(_D), x),
        "RMSNorm": (RMSNorm(_D), x),
        "SwiGLU": (SwiGLU(), _floats(_T, 2 * _D)),
        "SplitHeads": (SplitHeads(_H, _G), _floats(_T, (_H + 2 * _G) * _K)),
        "SplitHeads of one": (SplitHeads(_H, packed=False), _floats(_T, _H * _K)),
        "MergeHeads": (MergeHeads(), _floats(_T, _H, _K)),
        "Rope": (Rope(), _qkv()),
        "Attention": (Attention(), _qkv()),
        "Attention, causal": (Attention(causal=True, window=3, softcap=2.0), _qkv()),
        "Attention, documents": (Attention(causal=True), (*_qkv(), _DOCUMENTS)),
        "LSTMCell": (LSTMCell(_D, _D), (x[0], LSTMState(jnp.asarray(state), jnp.asarray(-state)))),
        "GRUCell": (GRUCell(_D, _D), (x[0], state)),
        "Recurrent": (Recurrent(LSTMCell(_D, 2)), x),
        "Recurrent, truncated": (Recurrent(GRUCell(_D, 2), truncate=2), x),
        "TopKRouter": (TopKRouter(2), x),
        "TopKRouter, not renormalised": (TopKRouter(2, renormalise=False), x),
        "LinearRecurrence": (LinearRecurrence(), {"a": x, "b": _floats(2, _T, _D)[1]}),
        "Tie": (Tie(model, "embed.w", "unembed.w"), ids),
        "Freeze": (Freeze(Dense(_D, 2)), x),
        "LoRA": (LoRA(Dense(_D, 2), rank=2, alpha=3.0), x),
        "Cast": (Cast(Dense(_D, 2), np.float32), x),
    }


def _qkv() -> tuple[np.ndarray, ...]:
    return _floats(_T, _H, _K), _floats(_T, _G, _K), _floats(_T, _G, _K)


def _floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)
