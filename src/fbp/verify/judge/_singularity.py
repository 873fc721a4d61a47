"""Gradients that are not finite."""

import numpy as np

from fbp.verify.judge._limits import STEP, Limits
from fbp.verify.probe._probes import Probe


def at_singularity(
    limits: Limits, probe: Probe, k: int, got: np.ndarray, want: np.ndarray
) -> tuple[str, str] | None:
    """The verdict on NaN or infinity in a rule or its reference, and its text; or None."""
    bad = ~np.isfinite(got)
    kind = "NaN" if np.isnan(got).any() else "infinite"
    if (bad & np.isfinite(want)).any():
        return (
            "RANGE",
            f"{kind} in {bad.sum()} of {bad.size} elements, where autodiff's are not",
        )
    if bad.any():
        # Autodiff's are too: the function has no gradient to compare with there. It is reported
        # at the given input, where training would start.
        return ("RANGE", _not_finite(limits, probe, k, bad, kind)) if probe.as_given else None
    sides = [limits.around(probe.values, probe, step, 8) for step in (STEP * 1e3, STEP)]
    if not all(sides):
        return None
    near, nearer = (np.stack([grads[k].ravel() for grads in side]) for side in sides)
    if not (np.isfinite(near).all() and np.isfinite(nearer).all()):
        return None
    size, closer = np.abs(near).max(), np.abs(nearer).max()
    if closer > 10 * size + 1e-12:
        return None  # the gradient itself grows without bound
    low, high = nearer.min(0).reshape(got.shape), nearer.max(0).reshape(got.shape)
    slack, singular = 1e-2 * closer + 1e-12, ~np.isfinite(want)
    if (((got < low - slack) | (got > high + slack)) & singular).any():
        return "WRONG", "outside of the gradient's limits at a singularity"
    return None


def _not_finite(limits: Limits, probe: Probe, k: int, bad: np.ndarray, kind: str) -> str:
    """Describes a gradient that is not finite at the given input, though the outputs are."""
    element = int(np.flatnonzero(bad.ravel())[0])
    where = list(map(int, np.unravel_index(element, bad.shape)))
    x = np.asarray(probe.values[limits.runs.diff[k]])[tuple(where)]
    around = [grads[k].ravel()[element] for grads in limits.around(probe.values, probe, 1e-4, 8)]
    says = (
        f"{kind} in {bad.sum()} of {bad.size} elements at the input that was given, where the "
        f"function is finite: {where if where else 'x'} = {x:.4g}"
    )
    if not around or not np.isfinite(around).all():
        return says
    low, high = np.real(around).min(), np.real(around).max()
    if max(abs(low), abs(high)) > 20 * float(_typical(limits, probe, k)):
        return f"{says}; beside it the gradient grows without bound"
    return (
        f"{says}; beside it the gradient is in [{low:.4g}, {high:.4g}], all of them finite "
        "choices: guard the argument with jnp.where before the operation, not after it"
    )


def _typical(limits: Limits, probe: Probe, k: int) -> float:
    """The largest element of the reference gradient at some points further away."""
    far = [np.abs(grads[k]) for grads in limits.around(probe.values, probe, 0.3, 4)]
    finite = [float(g[np.isfinite(g)].max(initial=0.0)) for g in far]
    return max([*finite, 1e-30])
