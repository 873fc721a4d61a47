"""Whether an optimizer can update a Stack copy by copy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from fbp._layer import PyTree
from fbp.step._parts import Parts

_STEPS = 12


def require_separable(parts: Parts, stacks: list[int]) -> None:
    """Raises ValueError unless the update of one copy of a Stack depends on that copy alone.

    A trial: some updates of small random parameters, whole and copy by copy, must be the same. The
    gradients are of very different sizes, for norms are bounded, and blocks scaled, only above
    some; there are several steps, for some optimizers only move after a few; and in the last one
    number of each Stack's gradient is NaN, for some look whether all are finite.
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

    params, grads = draw(), draw(_STEPS)
    for k in stacks:
        for leaf in [leaf for leaf in jax.tree.leaves(grads[k]) if leaf.size][:1]:
            leaf[-1, :1].reshape(-1)[-1:] = np.nan
    trial = jax.jit(functools.partial(_is_separable, parts, stacks))
    reason: Exception | None = None
    try:
        with jax.ensure_compile_time_eval():
            separable = all(parts.grows_by(k, 0) for k in stacks)
            separable = separable and bool(trial(params, grads))
    except Exception as error:  # whatever an optimizer cannot do with a part of the parameters
        separable, reason = False, error
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


def _is_separable(
    parts: Parts, stacks: list[int], params: dict[int, PyTree], grads: dict[int, PyTree]
) -> jax.Array:
    def updates(params: dict[int, PyTree], grads: dict[int, PyTree]) -> tuple[PyTree, PyTree]:
        """Those of all steps, stacked, and the state after the last."""

        def step(carry: Any, grads: dict[int, PyTree]) -> tuple[Any, dict[int, PyTree]]:
            state, params = carry
            found, state = parts.update(grads, state, params)
            return (state, optax.apply_updates(params, found)), found

        start = parts.optimizer.init(parts.whole(params)), params
        (state, _), found = lax.scan(step, start, grads, length=_STEPS)
        return found, state

    def copy(i: int, axis: int, part: PyTree) -> PyTree:
        return jax.tree.map(lambda a: lax.slice_in_dim(a, i, i + 1, axis=axis), part)

    def others(parts: dict[int, PyTree]) -> dict[int, PyTree]:
        return {k: part for k, part in parts.items() if k not in stacks}

    whole, state = updates(params, grads)
    found, state_of_others = updates(others(params), others(grads))
    # What all share of the state is taken from the update of what is in no Stack.
    leaves = zip(jax.tree.leaves(state_of_others), jax.tree.leaves(state), strict=True)
    pairs: list[Any] = [(a, b) for a, b in leaves if a.shape == b.shape]
    pairs.append((found, others(whole)))
    for k in stacks:
        for i in (0, 1):
            alone, _ = updates({k: copy(i, 0, params[k])}, {k: copy(i, 1, grads[k])})
            pairs.append((alone, {k: copy(i, 1, whole[k])}))
    same = [
        jnp.isclose(a, b, rtol=1.9e-3, atol=0, equal_nan=True).all()
        for one, other in pairs
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    ]
    return jnp.stack(same).all()
