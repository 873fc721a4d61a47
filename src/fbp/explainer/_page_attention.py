"""What attention computes between its inputs and its output and does not keep: s, p, dp and ds."""

from typing import Any

import numpy as np

from fbp.explainer._page_made import Made, agrees, wide
from fbp.explainer._traced import Pass
from fbp.layers import Attention


def more_of_attention(layer: Attention, one: Pass, steps: Any = ()) -> Made | None:
    """s, p, dp and ds, from q, k, v and dy in float64, and the facts that the page needs.

    Each is (..., T, H, S), so that the heads of a query stand side by side. None where y does not
    come out as the step has it, as in a layer made from `Attention` with another rule.
    """
    if not (isinstance(one.x, tuple | list) and len(one.x) in (3, 4)):
        return None
    q, k, v = (wide(a) for a in one.x[:3])
    heads = q.shape[-2]
    each = heads // k.shape[-2]
    scale = float(layer.scale_of(one.x[0]))
    z = scale * np.einsum("...thk,...shk->...ths", q, np.repeat(k, each, -2))
    s = z if layer.softcap is None else layer.softcap * np.tanh(z / layer.softcap)
    s = np.where(_seen(layer, one.x, s.shape), s, -np.inf)
    top = s.max(-1, keepdims=True, initial=-np.inf)
    e = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = e.sum(-1, keepdims=True)
    p = e / np.where(total == 0, 1, total)
    v = np.repeat(v, each, -2)
    if not agrees(one.y, np.einsum("...ths,...shm->...thm", p, v)):
        return None
    capped = [] if layer.softcap is None else [("z", "made", z)]
    arrays = [*capped, ("s", "made", s), ("p", "made", p)]
    if one.dy is not None:
        dp = np.einsum("...thm,...shm->...ths", wide(one.dy), v)
        mean = (p * dp).sum(-1, keepdims=True)
        ds = p * (dp - mean)
        if layer.softcap is not None:
            ds = ds * (1 - np.where(np.isfinite(s), s / layer.softcap, 0) ** 2)
        arrays += [("dp", "dmade", dp), ("sum(p dp)", "dmade", mean), ("ds", "dmade", ds)]
    note = (
        "The layer keeps neither s nor p, and so neither do dp and ds last: they are computed here "
        "from q, k, v and dy as the step does, in float64. The heads of a query stand side by side."
    )
    parts = {name: [f"head {h}" for h in range(heads)] for name in ("z", "s", "p", "dp", "ds")}
    return Made({"scale": scale, "cap": layer.softcap}, arrays, note, parts=parts)


def _seen(layer: Attention, x: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Which keys each query may see, (..., T, H, S)."""
    queries, keys = np.arange(shape[-3])[:, None, None], np.arange(shape[-1])
    sees = np.ones(shape, bool)
    if layer.causal:
        sees &= queries >= keys
    if layer.window is not None:
        sees &= queries - keys < layer.window
    if len(x) == 4:
        mask = np.asarray(x[3])
        of_keys = mask[..., None, None, :]
        sees &= of_keys if mask.dtype == bool else of_keys == mask[..., :, None, None]
    return sees
