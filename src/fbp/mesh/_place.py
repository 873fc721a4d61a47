"""An objective on a mesh: its layers, each with its arrays where they lie."""

import dataclasses
from typing import Any

from jax.sharding import PartitionSpec

from fbp._layer import Layer
from fbp._microbatch import Microbatch
from fbp._objective import Objective
from fbp.combinators import Group, On, Remat, Repeat, Residual, Stack
from fbp.combinators._map import map_held
from fbp.losses import UnembedCrossEntropy
from fbp.mesh._rules import TENSOR
from fbp.mesh._tensor import with_columns_by_device
from fbp.models import NextToken
from fbp.ports import Cast, Freeze, Tie
from fbp.ports._placed import Placed, PlacedLoss, Placement

# Layers whose params are those of the layer that they hold.
_PASS_ON = (Cast, Freeze, On, Remat, Repeat, Residual)

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
        rest = tuple(name for name in place.batch if name not in over)
        placed_parts = dataclasses.replace(objective, groups=place.size(over), axis=over)
        within = dataclasses.replace(
            place, batch=rest, grouped=over, examples=placed_parts.sizes(*place.examples)
        )
        inner = placed(objective.objective, within, specs)
        return dataclasses.replace(placed_parts, objective=inner)
    if hasattr(objective, "model"):
        model = with_columns_by_device(objective.model, place.mesh, TENSOR)
        objective = dataclasses.replace(objective, model=model)
    if isinstance(objective, NextToken):
        assert objective.loss is not None
        model = _without_head(objective.model, specs, place)
        head = _below(specs if not isinstance(model, Tie) else _tied(model, specs), "unembed")
        return dataclasses.replace(objective, model=model, loss=_loss(objective.loss, head, place))
    if isinstance(objective, Objective):
        return dataclasses.replace(
            objective,
            model=_placed(objective.model, _below(specs, "model"), place),
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
    assert isinstance(model, Group)
    names = iter(model.names or ())

    def part(held: Layer) -> Layer:
        name = next(names)
        return held if name == "unembed" else _placed(held, _below(specs, name), place)

    return map_held(part, model)


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
        names = iter(layer.names or map(str, range(len(layer.layers))))
        return map_held(lambda held: _placed(held, _below(specs, next(names)), place), layer)
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
