"""What the rules make of an objective's parameters, and whether that can be."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec

from fbp._errors import InputError
from fbp._tree import named_leaves
from fbp.mesh._rules import Rules, default_rules
from fbp.ports import axes


def specs_of(
    objective: Any, mesh: Any, rules: Rules | None
) -> dict[str, tuple[tuple[int, ...], PartitionSpec]]:
    """The shape of each parameter and where it lies, by its path.

    Raises:
      InputError: a rule names an axis that the mesh has not, or one that does not divide.
    """
    rules = default_rules(mesh) if rules is None else rules
    shapes = named_leaves(jax.eval_shape(objective.init, jax.random.key(0)))
    try:
        own = named_leaves(axes(objective))
    except TypeError:  # of an objective without a model: no axis is known to be a Stack's
        own = {name: a.ndim for name, a in shapes.items()}
    found = {}
    for name, a in shapes.items():
        copies = a.ndim - own[name]  # axes of Stacks
        spec = rules(name, a.shape[copies:])
        if len(spec) > own[name]:
            raise InputError(f"{name}: expected a rule for {own[name]} axes, got {spec}")
        require_axes(mesh, [n for entry in spec for n in names_in(entry)], name)
        for n, entry in zip(a.shape[copies:], spec, strict=False):  # a spec may be shorter
            names = names_in(entry)
            parts = math.prod(mesh.shape[axis] for axis in names)
            if n % parts:
                by = " x ".join(names)
                raise InputError(
                    f"{name}: expected an axis that {by} = {parts:,} divides, got {n:,}"
                )
        found[name] = a.shape, _trimmed((None,) * copies + tuple(spec))
    return found


def require_axes(mesh: Any, names: Sequence[str], path: str) -> None:
    """Raises InputError unless these are axes of the mesh, each once."""
    for name in names:
        if name not in mesh.shape:
            there = ", ".join(mesh.axis_names)
            raise InputError(f"{path}: expected axes of the mesh, {there}, got {name!r}")
        if list(names).count(name) > 1:
            raise InputError(f"{path}: expected each axis of the mesh once, got {name} twice")


def names_in(entry: Any) -> tuple[str, ...]:
    """The axes of the mesh in an entry of a spec."""
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


def _trimmed(entries: tuple[Any, ...]) -> PartitionSpec:
    """A spec as compiled programs return it, without None at its end: another spelling of the same
    would be another program."""
    while entries and entries[-1] is None:
        entries = entries[:-1]
    return PartitionSpec(*entries)
