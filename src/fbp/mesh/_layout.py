"""Where every array of a training step lies on a mesh."""

import collections
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from fbp._columns import align, size
from fbp._errors import InputError
from fbp._layer import Array, PyTree
from fbp._tree import named_leaves, nbytes, path_of
from fbp.mesh._make import make_mesh
from fbp.mesh._place import placed
from fbp.mesh._rules import DATA, FSDP, TENSOR, Rules
from fbp.mesh._specs import names_in, require_axes, specs_of
from fbp.ports._placed import Placement
from fbp.step import State, state_of


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the params, the optimizer's state and the batch of an objective lie on a mesh.

        mesh = fbp.mesh.make_mesh("data=2,fsdp=4")
        layout = fbp.mesh.Layout(objective, mesh)
        print(layout)
        state = layout.state(optimizer, jax.random.key(0))
        step = fbp.step_of(objective, optimizer, mesh=layout)
        state, loss = step(state, layout.put(batch))

    `str()` is a table of what lies where. Nothing is allocated before `state`.

    Args:
      objective: what is minimized: an `Objective`, a `NextToken`, or a `Microbatch` of one.
      mesh: the devices, as a `jax.sharding.Mesh`, or as "data=2,fsdp=4" for `make_mesh`.
      rules: rules(path, shape) -> PartitionSpec of a parameter; in a `Stack`, of one copy of it.
        The optimizer's state follows its parameters.
      batch: the axes of the mesh that examples lie over; "data" and "fsdp" by default.
      reduce_once: of a `Microbatch`, whether gradients are added over the devices once a step also
        along "fsdp", and not once a part; each device then has room for the whole gradient.

    Raises:
      InputError: a rule names an axis that the mesh has not, or one that does not divide the axis
        of the parameter; it is not known which axes examples lie over.
    """

    objective: Any
    mesh: Any
    rules: Rules | None = None
    batch: tuple[str, ...] | str | None = None
    reduce_once: bool = False
    _named: dict[str, tuple[tuple[int, ...], PartitionSpec]] = dataclasses.field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if isinstance(self.mesh, str):
            object.__setattr__(self, "mesh", make_mesh(self.mesh))
        if isinstance(self.batch, str):
            object.__setattr__(self, "batch", (self.batch,))
        if any(kind != AxisType.Auto for kind in self.mesh.axis_types):
            object.__setattr__(self, "mesh", _auto(self.mesh))
        if self.batch is None:
            names = tuple(name for name in (DATA, FSDP) if name in self.mesh.shape)
            object.__setattr__(self, "batch", names)
            if not names and TENSOR not in self.mesh.shape and self.mesh.size > 1:
                there = ", ".join(map(repr, self.mesh.axis_names))
                raise InputError(
                    f"expected a mesh with axes among data, fsdp and tensor, got {there}: say "
                    f"which examples lie over, as in Layout(objective, mesh, batch=({there},))"
                )
        require_axes(self.mesh, self.batch or (), "the batch")
        object.__setattr__(self, "_named", specs_of(self.objective, self.mesh, self.rules))

    # What lies where.

    @property
    def specs(self) -> dict[str, PartitionSpec]:
        """Of each parameter, by its path."""
        return {name: spec for name, (_, spec) in self._named.items()}

    @property
    def shards(self) -> int:
        """The number of parts that a batch is cut into."""
        return math.prod(self.mesh.shape[name] for name in self.batch or ())

    def shardings(self, tree: PyTree) -> PyTree:
        """Returns the shardings of params, of a state, or of any tree with params at its ends.

        An array whose path ends with that of a parameter, of the same shape, lies as it does; every
        other is whole on every device.
        """

        def one(keys: tuple[Any, ...], a: Any) -> NamedSharding:
            parts = path_of(keys).split(".")
            for first in range(len(parts)):
                shape, spec = self._named.get(".".join(parts[first:]), (None, None))
                if spec is not None and shape == jnp.shape(a):
                    return NamedSharding(self.mesh, spec)
            return NamedSharding(self.mesh, PartitionSpec())

        return jax.tree.map_with_path(one, tree)

    def batch_shardings(self, batch: PyTree, steps: bool = False) -> PyTree:
        """Returns the shardings of a batch: the axis of examples over the axes of `batch`.

        Examples are the first axis, with `steps` the second, behind that of steps. How many there
        are is what most of the arrays say; an array of another size there, such as a table, is
        whole on every device.
        """
        place = int(steps)
        examples = self.examples_of(batch, steps)

        def one(a: Any) -> NamedSharding:
            spec = PartitionSpec()
            if jnp.ndim(a) > place and jnp.shape(a)[place] == examples:
                spec = PartitionSpec(*(None,) * place, self.batch)
            return NamedSharding(self.mesh, spec)

        return jax.tree.map(one, batch)

    def examples_of(self, batch: PyTree, steps: bool = False) -> int:
        """The number of examples in a batch.

        Raises:
          InputError: the devices do not divide it.
        """
        place = int(steps)
        shapes = [jnp.shape(a) for a in jax.tree.leaves(batch)]
        counts = collections.Counter(shape[place] for shape in shapes if len(shape) > place)
        if not counts:
            return 0
        n = max(counts, key=lambda size: (counts[size], size))
        self.require_examples(n)
        return n

    def shapes(self, tree: PyTree, batch: bool = False, steps: bool = False) -> PyTree:
        """Returns shapes and dtypes with where they lie, to lower a step for: of a state, or of a
        batch."""
        shardings = self.batch_shardings(tree, steps) if batch else self.shardings(tree)
        return jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings
        )

    @property
    def abstract_mesh(self) -> AbstractMesh:
        """The mesh without its devices."""
        return self.mesh if isinstance(self.mesh, AbstractMesh) else self.mesh.abstract_mesh

    # Arrays.

    def state(self, optimizer: Any, key: Array) -> State:
        """Returns the first state of training, each part drawn on the device that it lies on."""

        def first(key: Array) -> State:
            return state_of(self.objective.init(key), optimizer)

        shapes = jax.eval_shape(first, key)
        return jax.jit(first, out_shardings=self.shardings(shapes))(key)

    def put(self, batch: PyTree, steps: bool = False) -> PyTree:
        """Returns a batch with its examples spread over the devices; with `steps`, the batches of
        several steps, stacked, as for `fbp.steps_of`.

        Raises:
          InputError: the devices do not divide the number of examples.
        """
        return jax.device_put(batch, self.batch_shardings(batch, steps))

    def require_examples(self, n: int) -> None:
        """Raises InputError unless so many examples can be spread over the devices."""
        if n % self.shards:
            raise InputError(
                f"expected a batch whose size {' x '.join(self.batch or ())} = {self.shards:,} "
                f"divides, got {n:,} examples"
            )

    def move(self, state: PyTree) -> PyTree:
        """Returns a state, or params, with every array where it lies."""
        return jax.device_put(state, self.shardings(state))

    # The step.

    def placed(self, batch: PyTree, in_backward: bool = False) -> Any:
        """Returns the objective with a `Placed` around each copy of a `Stack` and around every
        other layer with parameters: the same numbers, with the arrays where they lie.

        The sums of a `Microbatch` are added over the devices of "data" once a step, as all of them
        hold the same gradients anyway; over those of "fsdp" once a part, or with `reduce_once` once
        a step too; and with `in_backward`, where no sum of all copies is held, or where the model
        has a `BatchNorm`, whose statistics are of all examples, once a part.

        Args:
          batch: a batch, or its shapes.
          in_backward: as for `fbp.step_of`.
        """
        names = tuple(self.batch or ())
        over = tuple(name for name in names if self.reduce_once or name != FSDP)
        sizes = [self.examples_of(batch)]
        if getattr(self.objective, "prepare", None) is not None:  # which may make other ones
            x, _ = jax.eval_shape(self.objective.prepare, batch, jax.random.key(0))
            sizes += [a.shape[0] for a in jax.tree.leaves(x) if a.ndim]
        place = Placement(self.mesh, names, gathered=names, examples=tuple(sizes))
        return placed(self.objective, place, self.specs, () if in_backward else over)

    def pinned(self, tree: PyTree, batch: bool = False) -> PyTree:
        """Inside a jitted function: the tree, whose arrays lie where they should."""
        shardings = self.batch_shardings(tree) if batch else self.shardings(tree)
        return jax.tree.map(lax.with_sharding_constraint, tree, shardings)

    # The table.

    def bytes_a_device(self, tree: PyTree) -> int:
        """The bytes that each device holds of a tree, from its shapes."""
        sizes = jax.tree.map(
            lambda a, s: math.prod(s.shard_shape(jnp.shape(a))) * a.dtype.itemsize,
            tree,
            self.shardings(tree),
        )
        return sum(jax.tree.leaves(sizes))

    def bytes_of_params(self) -> tuple[int, int]:
        """The bytes of the params that each device holds, and of all of them."""
        shapes = self._shapes()
        return self.bytes_a_device(shapes), nbytes(shapes)

    def table(self) -> list[list[str]]:
        """A row for each parameter: its shape, what it is cut along, and its bytes a device."""
        shapes = named_leaves(self._shapes())
        rows = [["parameter", "shape", "lies over", "a device"]]
        for name, (_, spec) in self._named.items():
            a = shapes[name]
            part = NamedSharding(self.mesh, spec).shard_shape(a.shape)
            cut = ", ".join(
                f"{i}: {' x '.join(entry) if isinstance(entry, tuple) else entry}"
                for i, entry in enumerate(spec)
                if entry is not None
            )
            held = math.prod(part) * a.dtype.itemsize
            rows.append([name, " x ".join(map(str, a.shape)), cut or "all whole", size(held)])
        return rows

    def __str__(self) -> str:
        held, whole = self.bytes_of_params()
        mesh = ", ".join(f"{name}={n}" for name, n in self.mesh.shape.items())
        over = f"over {', '.join(self.batch)}" if self.batch else "whole on each"
        lines = [
            f"{self.mesh.size:,} devices, {mesh}; examples {over}",
            align(self.table()),
            f"params: {size(held)} a device, {size(whole)} in all",
        ]
        return "\n".join([*lines, *self.said])

    @property
    def said(self) -> list[str]:
        """What a user should know of this layout."""
        used = {name for spec in self.specs.values() for entry in spec for name in names_in(entry)}
        return [
            f"nothing lies over {name}: its {n:,} devices do the same work"
            for name, n in self.mesh.shape.items()
            if n > 1 and name not in used and name not in (self.batch or ())
        ]

    def _shapes(self) -> PyTree:
        return jax.eval_shape(self.objective.init, jax.random.key(0))


def _auto(mesh: Any) -> Any:
    """The same mesh with axes of the type Auto, where the compiler completes what is said."""
    auto = (AxisType.Auto,) * len(mesh.axis_names)
    if isinstance(mesh, AbstractMesh):
        return AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=auto)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=auto)
