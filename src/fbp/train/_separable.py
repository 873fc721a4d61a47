"""Whether an optimizer can update a Stack copy by copy, and each copy piece by piece."""

import contextlib
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from fbp._layer import Params, PyTree
from fbp.train._parts import Parts

_FEWEST_NUMBERS = 2**18
_STEPS = 12


def pieces_of(parts: Parts, stacks: list[int]) -> dict[int, int]:
    """In how many pieces the optimizer can update each copy of some Stacks.

    Raises:
      ValueError: the update of one copy does not depend on that copy alone.
    """
    pieces = {k: _pieces(parts.shapes[k]) for k in stacks}
    if max(pieces.values()) > 1:
        with contextlib.suppress(Exception):  # whatever an optimizer cannot do with a piece
            if _is_separable(parts, pieces):
                return pieces
    pieces = dict.fromkeys(stacks, 1)
    separable, reason = False, None
    try:
        separable = _is_separable(parts, pieces)
    except Exception as error:  # nor with a part of the parameters
        reason = error
    if not separable:
        raise ValueError(
            "in_backward: expected an optimizer whose update of each copy in a Stack depends on "
            "that copy alone, as elementwise ones do; this one "
            + (
                f"cannot update a part of the parameters: {reason}"
                if reason
                else "takes norms or other sums over parameters (for clipping by the global norm, "
                "give fbp.Clipped(optimizer, norm))"
            )
        ) from reason
    return pieces


def _pieces(stacked: Params) -> int:
    """As many as leave this many numbers or more in a piece of the largest array.

    Smaller ones would save no memory that counts. On an accelerator each is one more launch, and
    of several devices each may have its own part of what would be cut.
    """
    leaves = jax.tree.leaves(stacked)
    is_alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    if not is_alone or any(leaf.ndim < 2 for leaf in leaves):
        return 1
    rows = math.gcd(*(leaf.shape[1] for leaf in leaves))
    most = max((math.prod(leaf.shape[1:]) for leaf in leaves), default=0) // _FEWEST_NUMBERS
    return max(c for c in range(1, max(most, 1) + 1) if rows % c == 0)


def _is_separable(parts: Parts, pieces: dict[int, int]) -> bool:
    """Whether the update of one piece of a Stack's copy depends on that piece alone.

    A trial: some updates of small random parameters, of the whole and of pieces, must be the same.
    The gradients are of very different sizes, for norms are bounded, and blocks scaled, only above
    some; and there are several steps, for some optimizers only move after a few.
    """
    rng = np.random.default_rng(0)

    def small(a: Any, lead: tuple[int, ...] = ()) -> np.ndarray:
        shape = (2, *(min(d, 130) for d in a.shape[1:])) if a.ndim else ()
        sizes = 10.0 ** rng.uniform(-3, 3, (*lead, *(1,) * len(shape)))
        if lead:
            sizes[len(sizes) // 2] *= 1e6
        return np.asarray(rng.normal(size=(*lead, *shape)) * sizes, a.dtype)

    def draw(*lead: int) -> dict[int, PyTree]:
        each = enumerate(parts.shapes)
        return {k: jax.tree.map(lambda a: small(a, lead), part) for k, part in each}

    with jax.ensure_compile_time_eval():
        return all(
            parts.grows_by(k, axis) for k, n in pieces.items() for axis in range(1 + (n > 1))
        ) and bool(jax.jit(functools.partial(_is_alike, parts, pieces))(draw(), draw(_STEPS)))


def _is_alike(
    parts: Parts, pieces: dict[int, int], params: dict[int, PyTree], grads: dict[int, PyTree]
) -> jax.Array:
    def updates(params: dict[int, PyTree], grads: dict[int, PyTree]) -> dict[int, PyTree]:
        """Of all steps, stacked."""

        def step(carry: Any, grads: dict[int, PyTree]) -> tuple[Any, dict[int, PyTree]]:
            state, params = carry
            found, state = parts.update(grads, state, params)
            return (state, optax.apply_updates(params, found)), found

        start = parts.optimizer.init(parts.whole(params)), params
        return lax.scan(step, start, grads, length=_STEPS)[1]

    def one(k: int, i: int, lead: int, whole: dict[int, PyTree]) -> dict[int, PyTree]:
        """Copy i of Stack k, or the first half of copy 0 and the second of copy 1."""

        def cut(a: jax.Array) -> jax.Array:
            a = lax.slice_in_dim(a, i, i + 1, axis=lead)
            if pieces[k] == 1:
                return a
            half = a.shape[lead + 1] // 2
            return lax.slice_in_dim(a, i * half, (i + 1) * half, axis=lead + 1)

        return {k: jax.tree.map(cut, whole[k])}

    def others(parts: dict[int, PyTree]) -> dict[int, PyTree]:
        return {k: part for k, part in parts.items() if k not in pieces}

    whole = updates(params, grads)
    pairs = [(updates(others(params), others(grads)), others(whole))]
    for k in pieces:
        for i in (0, 1):
            alone = updates(one(k, i, 0, params), one(k, i, 1, grads))
            pairs.append((alone, one(k, i, 1, whole)))
    same = [
        (jnp.abs(a - b) <= 1e-3 * (jnp.abs(a) + jnp.abs(b))).all()
        for part, other in pairs
        for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(other), strict=True)
    ]
    return jnp.stack(same).all()
