"""Scans whose backward is cut short, as by an adjoint that is truncated."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from fbp.verify.program._program import opened, scan_splits

SETTINGS = (
    *((1.0, "keep only the last step of"), (2.0, "keep only the last 2 steps of")),
    *((3.0, "keep only the last 3 steps of"), (4.0, "drop the first step's share in")),
    (5.0, "drop the last step's share in"),
)


def cut(eqn: JaxprEqn, ins: list[Any], run: Callable[..., list[Any]], t: Any) -> list[Any]:
    """A scan whose backward has one of the `SETTINGS`."""
    p = eqn.params
    n, m = scan_splits(p)
    body, body_consts = opened(p["jaxpr"])
    length = p["length"]

    def one(carry: list[Any], at: tuple[Any, list[Any]]) -> tuple[list[Any], list[Any]]:
        index, xs = at
        step = length - 1 - index if p["reverse"] else index
        is_cut = (t <= 3) & (t > 0) & (step == length - t)
        is_without = ((t == 4) & (step == 0)) | ((t == 5) & (step == length - 1))
        carry = [_stopped(c, is_cut) for c in carry]
        consts = [_stopped(c, is_without) for c in ins[:n]]
        outs = run(body, body_consts, [*consts, *carry, *xs])
        return outs[: m - n], outs[m - n :]

    xs = jnp.arange(length), ins[m:]
    carry, ys = lax.scan(one, ins[n:m], xs, length=length, reverse=p["reverse"])
    return [*carry, *ys]


def _stopped(x: Any, when: Any) -> Any:
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        return x
    return jnp.where(when, lax.stop_gradient(x), x)
