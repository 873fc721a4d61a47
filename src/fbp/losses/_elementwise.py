"""Base class of losses that compare y with its target element by element."""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from fbp._described import described
from fbp._gradients import at_least_float32
from fbp._layer import Array, Loss, PyTree, name_of
from fbp._require import require_float
from fbp.losses._mean import count_examples, shares_of, unweighted, weighted_sum


class Elementwise(Loss):
    """The mean, over all elements of all arrays, of a function of y and target."""

    @abc.abstractmethod
    def element(self, y: Array, target: Array) -> tuple[Array, Array]:
        """Returns the loss of each element and its derivative with respect to y."""

    def value_and_grad(
        self, params: tuple[()], y: PyTree, target: Any
    ) -> tuple[Array, tuple[()], PyTree]:
        target, weight = unweighted(target)
        ys, targets, tree = self._matched(y, target)
        wides = [at_least_float32(a) for a in ys]
        leaf_shares = shares_of(self, weight, [a.shape for a in ys], [a.dtype for a in wides])
        values, dys = [], []
        for a, wide, t, share in zip(ys, wides, targets, leaf_shares, strict=True):
            loss, slope = self.element(wide, jnp.asarray(t, wide.dtype))
            values.append(weighted_sum(share, loss))
            dys.append(jnp.where(share == 0, 0, share * slope).astype(a.dtype))
        return sum(values[1:], values[0]), (), tree.unflatten(dys)

    def weight(self, target: Any) -> Array:
        target, weight = unweighted(target)
        return count_examples(self, target) if weight is None else jnp.sum(weight)

    def _matched(self, y: PyTree, target: PyTree) -> tuple[list[Array], list[Any], Any]:
        """Returns the arrays of y and of target, and their tree, after checks that they match."""
        tree: Any
        places, tree = jax.tree_util.tree_flatten_with_path(y)
        if not places:
            raise ValueError(
                f"{name_of(self)}: expected y to be an array or a tree of arrays, "
                f"got {described(y)}"
            )
        alone = jax.tree_util.all_leaves([y])
        if not alone and jax.tree.structure(target) != tree:
            raise ValueError(
                f"{name_of(self)}: expected target to be a tree like y, {described(y)}, "
                f"got {described(target)}"
            )
        targets = [target] if alone else jax.tree.leaves(target)
        for (keys, a), t in zip(places, targets, strict=True):
            at = jax.tree_util.keystr(keys)
            require_float(self, a, f"y{at}")
            if jnp.shape(t) != a.shape:
                # Broadcasting (B, 1) against (B,) would silently average B * B differences.
                raise ValueError(
                    f"{name_of(self)}: expected target{at} to have the shape of y{at}, {a.shape}, "
                    f"got shape {jnp.shape(t)}"
                )
        return [a for _, a in places], targets, tree
