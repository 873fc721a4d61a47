"""Meshes from words."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from fbp._errors import InputError
from fbp.mesh._rules import AXES


def make_mesh(axes: str, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh of `"data=4,fsdp=2"`: its axes in this order, with their sizes.

    One size may be -1: as many as there are devices left. A mesh of one device has the first.

    Args:
      axes: of data, over which examples lie; fsdp, over which examples and, between their uses,
        parameters lie; tensor, over which the columns of weights lie.
      devices: by default all.

    Raises:
      InputError: an axis is not one of these or is given twice; the sizes do not multiply up to the
        number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes: dict[str, int] = {}
    for part in axes.split(","):
        name, equals, size = part.strip().partition("=")
        number = size.strip().removeprefix("-")
        if not equals or not number.isdecimal() or int(size) == 0 or int(size) < -1:
            raise InputError(f"expected a mesh as data=4,fsdp=2, got {axes!r}")
        if name not in AXES:
            raise InputError(f"expected axes of a mesh among {', '.join(AXES)}, got {name!r}")
        if name in sizes:
            raise InputError(f"expected each axis of a mesh once, got {name} twice in {axes!r}")
        sizes[name] = int(size)
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise InputError(f"expected at most one axis of -1, got {axes!r}")
    if free:
        sizes[free[0]] = max(1, len(devices) // math.prod(sizes[n] for n in sizes if n not in free))
    needed = math.prod(sizes.values())
    if needed == 1:
        devices = devices[:1]
    if needed != len(devices):
        there = f"{len(devices):,} device" + "s" * (len(devices) > 1)
        raise InputError(f"expected a mesh for {there}, got {axes!r}, which is for {needed:,}")
    types = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=types, devices=devices)
