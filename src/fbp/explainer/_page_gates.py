"""The gates of a recurrent cell through time, from the steps of its trace."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fbp.combinators import Recurrent
from fbp.explainer._page_made import Made, wide
from fbp.explainer._traced import Pass
from fbp.layers import GRUCell, LSTMCell

Arrays = list[tuple[str, str, np.ndarray]]
NOTE = (
    "A row is a step of the sequence. {kept} are the step's own numbers, kept for the backward; "
    "{made} it does not keep: computed here from them, in float64."
)


def more_of_gates(layer: Recurrent, one: Pass, steps: Sequence[dict[str, Any]]) -> Made | None:
    """The state before each step, its gates, and their gradients: (..., T, n).

    None of another cell than `LSTMCell` and `GRUCell`, and without the steps.
    """
    of = {LSTMCell: _lstm, GRUCell: _gru}.get(type(layer.cell))
    if of is None or not steps:
        return None
    arrays, kept, made = of(one.params, steps, one.dy is not None and "da" in steps[0])
    given = {"cell": "lstm" if of is _lstm else "gru", "truncate": layer.truncate}
    parts = {"a": "ifgo", "da": "ifgo", "z": "rkg", "p": "rkg", "dp": "rkq", "dz": "rkg"}
    of_gates = {name: [f"gate {gate}" for gate in gates] for name, gates in parts.items()}
    return Made(given, arrays, NOTE.format(kept=kept, made=made), parts=of_gates)


def _lstm(params: Any, steps: Sequence[dict[str, Any]], is_back: bool) -> tuple[Arrays, str, str]:
    u = wide(params["u"])
    h, c = (_over(steps, lambda s, i=i: s["state"][i]) for i in (0, 1))
    i, f, g, o = (_over(steps, lambda s, i=i: s["res"][i]) for i in range(4))
    after = _over(steps, lambda s: s["y"][1][1])
    a = _over(steps, lambda s: wide(s["z"]) + wide(s["state"][0]) @ u)
    arrays = [("h before", "res", h), ("c before", "res", c), ("a", "made", a)]
    arrays += [(name, "res", gate) for name, gate in zip("ifgo", (i, f, g, o), strict=True)]
    arrays.append(("c", "made", after))
    if is_back:
        dh = _over(steps, lambda s: wide(s["dy"][0]) + wide(s["dy"][1][0]))
        dc = _over(steps, lambda s: wide(s["dy"][1][1]))
        dc = dc + dh * wide(o) * (1 - np.tanh(wide(after)) ** 2)
        arrays += [("dh", "dmade", dh), ("dc", "dmade", dc)]
        arrays.append(("da", "dmade", _over(steps, lambda s: s["da"])))
    return arrays, "h and c before, i, f, g, o and c, and da", "a, dh and dc"


def _gru(params: Any, steps: Sequence[dict[str, Any]], is_back: bool) -> tuple[Arrays, str, str]:
    u = wide(params["u"])
    h, z = _over(steps, lambda s: s["state"]), _over(steps, lambda s: s["z"])
    p = _over(steps, lambda s: wide(s["state"]) @ u)
    gates = [_over(steps, lambda s, i=i: s["res"][i]) for i in range(4)]
    r, k, g, q = (
        (name, "res", gate) for name, gate in zip(("r", "k", "g", "q"), gates, strict=True)
    )
    arrays: Arrays = [("h before", "res", h), ("z", "made", z), ("p", "made", p), r, k, q, g]
    if is_back:
        dh = _over(steps, lambda s: wide(s["dy"][0]) + wide(s["dy"][1]))
        dp, da_g = (_over(steps, lambda s, i=i: s["da"][i]) for i in (0, 1))
        n = da_g.shape[-1]
        dz = np.concatenate([dp[..., : 2 * n], da_g], -1)
        arrays += [("dh", "dmade", dh), ("dp", "dmade", dp), ("dz", "dmade", dz)]
    return arrays, "h before, z, r, k, q and g, and dp and dz", "p and dh"


def _over(steps: Sequence[dict[str, Any]], of: Any) -> np.ndarray:
    """An array of each step, the steps one below the other."""
    return np.stack([np.asarray(of(step)) for step in steps], -2)
