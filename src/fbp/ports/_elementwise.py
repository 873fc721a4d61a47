"""Optimizers whose update is elementwise, so that it can be applied to a part of the parameters.

Such an optimizer can update one copy of a Stack, or a few rows of it, before the gradients of the
other copies are known. Whether an optimizer is one is read from the jaxpr of its update
(`_expressions`).
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import jax
import optax

from fbp._layer import Array, Params, PyTree
from fbp.ports._expressions import Expressions, Kind, Value

_SHARED = -1


@dataclasses.dataclass(frozen=True)
class Part:
    """An optimizer restricted to some parameters: in its `update`, the others are `MaskedNode`s.

    Attributes:
      optimizer: an optax optimizer of all parameters.
      tree: the structure of all parameters.
      state_tree: the structure of the optimizer's state.
      owners: for each leaf of the state, the index of the parameter that it belongs to; -1 if all
        parameters share it, such as a count of updates.
      numbers: indices of the parameters of this part among the leaves of all.
    """

    optimizer: Any
    tree: Any
    state_tree: Any
    owners: tuple[int, ...]
    numbers: tuple[int, ...]

    @classmethod
    def whole(cls, optimizer: Any, params: Params, state: PyTree) -> "Part":
        """Returns the part with all parameters.

        Raises:
          ValueError: the leaves of the state do not correspond to parameters, for example because
            the optimizer flattens them.
        """
        tree: Any = jax.tree.structure(params)
        numbers = tuple(range(tree.num_leaves))
        try:
            owners = optax.tree_utils.tree_map_params(
                optimizer,
                lambda leaf, number: leaf if _is_masked(leaf) else number,
                state,
                tree.unflatten(numbers),
                transform_non_params=lambda leaf: _SHARED,
                is_leaf=_is_masked,
            )
        except Exception as error:
            raise ValueError(f"its state cannot be told apart by parameters: {error}") from error
        state_tree = jax.tree.structure(state)
        return cls(optimizer, tree, state_tree, tuple(jax.tree.leaves(owners)), numbers)

    def only(self, numbers: Sequence[int]) -> "Part":
        """Returns the part with these parameters only."""
        return dataclasses.replace(self, numbers=tuple(numbers))

    def owns(self, leaf: int) -> bool:
        """Whether a leaf of the state belongs to a parameter of this part."""
        return self.owners[leaf] in self.numbers

    def update(
        self,
        grads: Sequence[Array],
        params: Sequence[Array],
        state: Sequence[Array],
        **extra: Any,
    ) -> tuple[list[Array], list[Array]]:
        """Returns the next params, and all leaves of the next state.

        Args:
          grads: gradients of this part's parameters, or the same slice of each gradient.
          params: this part's parameters, or the same slice of each.
          state: all leaves of the state, those of this part's parameters sliced likewise. Leaves of
            other parameters are returned unchanged.
          **extra: more arguments of the optimizer.
        """
        needed = [owner in (_SHARED, *self.numbers) for owner in self.owners]
        seen = [s if n else optax.MaskedNode() for s, n in zip(state, needed, strict=True)]
        masked = self._masked(params)
        updates, new = self.optimizer.update(
            self._masked(grads), self.state_tree.unflatten(seen), masked, **extra
        )
        news = iter(jax.tree.leaves(new))
        left = [next(news) if n else s for s, n in zip(state, needed, strict=True)]
        return jax.tree.leaves(optax.apply_updates(masked, updates)), left

    def _masked(self, leaves: Sequence[Array]) -> Params:
        """Returns the tree of all parameters, with those outside this part masked."""
        every: list[Any] = [optax.MaskedNode()] * self.tree.num_leaves
        for number, leaf in zip(self.numbers, leaves, strict=True):
            every[number] = leaf
        return self.tree.unflatten(every)

    def why_not_elementwise(
        self, params: Sequence[Array], state: Sequence[Array], pieces: Collection[int]
    ) -> str:
        """Returns why the update of this part, of a Stack, is not elementwise; "" if it is.

        Each new number must be an elementwise function of the numbers in its place, and of scalars
        that no parameter or gradient reaches; and it must be the same function for all copies of
        the Stack, for one copy, and for a piece of one.

        Args:
          params: all parameters.
          state: all leaves of the state.
          pieces: the numbers of pieces that a copy may be updated in.
        """
        for leaf, owner in zip(state, self.owners, strict=True):
            if owner in self.numbers and leaf.shape != params[owner].shape:
                return "keeps a state of another shape than its parameter"
        expressions = Expressions()
        try:
            here = self._outputs(expressions, params, state)
            parts = [self._outputs(expressions, params, state, n) for n in pieces]
        except Exception as error:
            return f"cannot update a part of the parameters: {error}"
        for value in here:
            if value.kind in (Kind.TABLE, Kind.MIXED):
                return f"takes {value.origin} over parameters"
        if any(value.kind == Kind.VARIES for value in here[len(self._own_outputs()) :]):
            return "keeps a number of a parameter for all parameters"
        if any([v.key for v in part] != [v.key for v in here] for part in parts):
            return "depends on the sizes of parameters"
        return ""

    def why_not_alone(self, params: Sequence[Array], state: Sequence[Array]) -> str:
        """Returns why the update of this part depends on the others; "" if it does not.

        Args:
          params: all parameters.
          state: all leaves of the state.
        """
        expressions = Expressions()
        try:
            here = self._outputs(expressions, params, state)
            whole = self._outputs(expressions, params, state, among_all=True)
        except Exception as error:
            return f"cannot update a part of the parameters: {error}"
        same = [v.key for v in here] == [v.key for v in whole]
        return "" if same else "depends on other parameters, on their number or on the loss"

    def _own_outputs(self) -> list[int]:
        """Returns the leaves of the state that belong to this part, after its parameters."""
        return [*self.numbers, *(i for i, n in enumerate(self.owners) if n in self.numbers)]

    def _outputs(
        self,
        expressions: Expressions,
        params: Sequence[Array],
        state: Sequence[Array],
        pieces: int = 0,
        among_all: bool = False,
    ) -> list[Value]:
        """Returns this part's new parameters and state, then the shared state, as expressions.

        Args:
          pieces: 0 for all copies, else the number of pieces that one copy is cut into.
          among_all: whether all parameters are updated, as in a plain step, or this part alone.
        """

        def cut(a: Any) -> jax.ShapeDtypeStruct:
            if not pieces:
                return jax.ShapeDtypeStruct(a.shape, a.dtype)
            rows = [n // pieces for n in a.shape[1:2]]
            return jax.ShapeDtypeStruct((1, *rows, *a.shape[2:]), a.dtype)

        numbers = range(self.tree.num_leaves) if among_all else self.numbers
        part = self.only(numbers)
        p = [cut(params[n]) for n in numbers]
        s = [a if n == _SHARED else cut(a) for a, n in zip(state, self.owners, strict=True)]

        def update(g: Any, p: Any, s: Any, value: Any) -> Any:
            if not among_all:
                return part.update(g, p, s)
            # A plain step gives its optimizer these as well.
            more = {"value": value, "grad": self.tree.unflatten(g), "value_fn": None}
            plain = optax.with_extra_args_support(self.optimizer)
            return dataclasses.replace(part, optimizer=plain).update(g, p, s, **more)

        program = jax.make_jaxpr(update)(p, p, s, jax.ShapeDtypeStruct((), "float32"))
        inputs = [("g", n, n) for n in numbers] + [("p", n, n) for n in numbers]
        inputs += [("s", i, n) for i, n in enumerate(self.owners)]
        named = [
            expressions.input((kind, i), v.aval, varies=n in self.numbers)
            for (kind, i, n), v in zip(inputs, program.jaxpr.invars, strict=False)
        ]
        named.append(expressions.input(("value",), program.jaxpr.invars[-1].aval, varies=False))
        outs = expressions.read(program.jaxpr, program.consts, named)
        new = dict(zip(numbers, outs, strict=False))
        left = list(zip(outs[len(new) :], self.owners, strict=True))
        own = [new[n] for n in self.numbers] + [v for v, n in left if n in self.numbers]
        return own + [v for v, n in left if n == _SHARED]


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
