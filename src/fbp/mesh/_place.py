"""An objective on a mesh: its layers, each with its arrays where they lie."""

import dataclasses
from typing import Any

from jax.sharding import PartitionSpec

from fbp._layer import Layer
from fbp._microbatch import Microbatch
from fbp._objective import Objective
from fbp.combinators import Group, On, Remat, Repeat, Residual, Stack
from fbp.combinators._map import map_held, map_layers, map_named
from fbp.layers import BatchNorm
from fbp.losses import UnembedCrossEntropy
from fbp.mesh._rules import TENSOR
from fbp.mesh._tensor import with_columns_by_device
from fbp.models import NextToken
from fbp.ports import Cast, Freeze, Tie
from fbp.ports._placed import Placed, PlacedLoss, Placement

# Layers whose params are those of the layer that they hold.
_PASS_ON = (Cast, Freeze, On, Remat, Repeat, Residual)
# Layers for which other examples of a batch count, so that groups of them are other batches.
_COUPLES = (BatchNorm,)

Specs = dict[str, PartitionSpec]


def placed(objective: Any, place: Placement, specs: Specs, over: tuple[str, ...] = ()) -> Any:
    """The objective whose layers are `Placed`.

    Args:
      objective: an objective.
      place: the mesh and the axes of the batch.
      specs: of each parameter, by its path.
      over: the axes over which a `Microbatch` adds its sums up once a step.
    """
    if isinstance(objective, Microbatch):
        is_one_part = objective.size >= max(place.examples)
        if is_one_part or _holds(getattr(objective.objective, "model", None), _COUPLES):
            over = ()
        rest = tuple(name for name in place.batch if name not in over)
        placed_parts = dataclasses.replace(objective, groups=place.size(over), axis=over)
        within = dataclasses.replace(
            place, batch=rest, grouped=over, examples=placed_parts.sizes(*place.examples)
        )
        inner = placed(objective.objective, within, specs)
        return dataclasses.replace(placed_parts, objective=inner)
    if isinstance(objective, NextToken):
        model = with_columns_by_device(objective.model, place.mesh, TENSOR)
        model = _without_head(model, specs, place)
        head = _below(specs if not isinstance(model, Tie) else _tied(model, specs), "unembed")
        return dataclasses.replace(objective, model=model, loss=_loss(objective.loss, head, place))
    if isinstance(objective, Objective):
        model = with_columns_by_device(objective.model, place.mesh, TENSOR)
        return dataclasses.replace(
            objective,
            model=_placed(model, _below(specs, "model"), place),
            loss=_loss(objective.loss, _below(specs, "loss"), place),
        )
    return objective


def _loss(loss: Any, specs: Specs, place: Placement) -> Any:
    if not isinstance(loss, UnembedCrossEntropy):
        return loss
    loss = dataclasses.replace(loss, parts=place.size(place.batch))
    return PlacedLoss(loss, dataclasses.replace(place, specs=tuple(specs.items())))


def _without_head(model: Layer, specs: Specs, place: Placement) -> Any:
    """A language model whose last layer, which runs inside the loss, is left as it is."""
    if isinstance(model, Tie):
        tied = _tied(model, specs)
        return map_held(lambda held: _without_head(held, tied, place), model)
    return _group(model, specs, place, but="unembed")


def _group(group: Any, specs: Specs, place: Placement, but: str | None = None) -> Layer:
    """A `Group` whose layers are placed, but for one."""
    return map_named(
        lambda name, layer: layer if name == but else _placed(layer, _below(specs, name), place),
        group,
    )


def _holds(layer: Any, kinds: Any) -> bool:
    """Whether a layer, or one inside it, is of these kinds."""
    found = []

    def look(held: Layer) -> Layer:
        found.append(isinstance(held, kinds))
        return held

    if isinstance(layer, Layer):
        map_layers(look, layer)
    return any(found)


def _placed(layer: Layer, specs: Specs, place: Placement) -> Layer:
    """A layer whose parameters lie by these specs.

    Args:
      layer: the layer.
      specs: by the paths of its parameters.
      place: the mesh and the axes of the batch.
    """
    if not specs:
        return layer
    if isinstance(layer, Stack):
        one = {name: PartitionSpec(*spec[1:]) for name, spec in specs.items()}
        return map_held(lambda held: _copy(held, one, place), layer)
    if isinstance(layer, Tie):
        tied = _tied(layer, specs)
        return map_held(lambda held: _placed(held, tied, place), layer)
    if isinstance(layer, Group):
        return _group(layer, specs, place)
    if isinstance(layer, _PASS_ON):
        return map_held(lambda held: _placed(held, specs, place), layer)
    return _copy(layer, specs, place)


def _copy(layer: Layer, specs: Specs, place: Placement) -> Layer:
    """The layer, whose weights are gathered all at once; after they are cast, where they are."""
    if isinstance(layer, Cast):
        return map_held(lambda held: _copy(held, specs, place), layer)
    return Placed(layer, dataclasses.replace(place, specs=tuple(specs.items())))


def _below(specs: Specs, name: str) -> Specs:
    """Those below a name, by the rest of their paths."""
    return {
        path.removeprefix(name).removeprefix("."): spec
        for path, spec in specs.items()
        if path == name or path.startswith(f"{name}.")
    }


def _tied(layer: Tie, specs: Specs) -> Specs:
    """Those of the layer without its tie: what is used in the second place lies as in the first."""
    second = {
        layer.target + path.removeprefix(layer.source): spec
        for path, spec in specs.items()
        if path == layer.source or path.startswith(f"{layer.source}.")
    }
    return {**specs, **second}
