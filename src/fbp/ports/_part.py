"""An optimizer applied to a part of the parameters, the others masked."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import optax

from fbp._layer import Array, Params, PyTree
from fbp.ports._update_of import update_of

SHARED = -1  # the owner of a leaf of the state that all parameters share


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
                transform_non_params=lambda leaf: SHARED,
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
        needed = [owner in (SHARED, *self.numbers) for owner in self.owners]
        seen = [s if n else optax.MaskedNode() for s, n in zip(state, needed, strict=True)]
        masked = self._masked(params)
        updates, new = update_of(self.optimizer)(
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


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
