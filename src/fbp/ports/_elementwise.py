"""Optimizers whose update is elementwise, so that it can be applied to a part of the parameters.

Such an optimizer can update one copy of a Stack, or a few rows of it, before the gradients of the
other copies are known. Its jaxpr decides whether an optimizer is elementwise.
"""

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from fbp._layer import Array, Params, PyTree

_ELEMENTWISE = {
    *("add", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "clamp"),
    *("integer_pow", "pow", "square", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log"),
    *("log1p", "tanh", "logistic", "erf", "sin", "cos", "tan", "atan", "atan2", "asinh", "sinh"),
    *("cosh", "eq", "ne", "ge", "gt", "le", "lt", "and", "or", "not", "xor", "is_finite"),
    *("select_n", "ceil", "floor", "round", "convert_element_type", "copy", "stop_gradient"),
}
# Primitives that run the jaxprs in their params; the equations of these are checked instead.
_CALLS = {"jit", "pjit", "closed_call", "eval_jaxpr", "cond", "custom_jvp_call", "custom_vjp_call"}
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
        self, grads: Sequence[Array], params: Sequence[Array], state: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
        """Returns the next params, and all leaves of the next state.

        Args:
          grads: gradients of this part's parameters, or the same slice of each gradient.
          params: this part's parameters, or the same slice of each.
          state: all leaves of the state, those of this part's parameters sliced likewise. Leaves of
            other parameters are returned unchanged.
        """
        needed = [owner in (_SHARED, *self.numbers) for owner in self.owners]
        seen = [s if n else optax.MaskedNode() for s, n in zip(state, needed, strict=True)]
        masked = self._masked(params)
        updates, new = self.optimizer.update(
            self._masked(grads), self.state_tree.unflatten(seen), masked
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
        """Returns why the update is not elementwise; "" if it is.

        Every equation with an array operand or result must be elementwise, broadcast a scalar, or
        call a program of such equations, so that no scalar is computed from an array. And the
        program must be the same for all copies of a Stack, for one copy, and for a piece of one.

        Args:
          params: the parameters of this part, those of a Stack.
          state: all leaves of the state.
          pieces: the numbers of pieces that a copy may be updated in.
        """

        def program(pieces: int) -> list[JaxprEqn]:
            def part(a: Any) -> jax.ShapeDtypeStruct:
                if not pieces:
                    return jax.ShapeDtypeStruct(a.shape, a.dtype)
                rows = [n // pieces for n in a.shape[1:2]]
                return jax.ShapeDtypeStruct((1, *rows, *a.shape[2:]), a.dtype)

            p = [part(a) for a in params]
            s = [part(a) if self.owns(i) else a for i, a in enumerate(state)]
            return list(_equations(jax.make_jaxpr(self.update)(p, p, s).jaxpr))

        try:
            whole, *parts = (program(n) for n in (0, *pieces))
        except Exception as error:
            return f"cannot update a part of the parameters: {error}"
        mixing = [eqn.primitive.name for eqn in whole if not _is_elementwise(eqn)]
        if mixing:
            return f"takes {mixing[0]} over parameters"
        if any(list(map(_numbers, part)) != list(map(_numbers, whole)) for part in parts):
            return "depends on the sizes of parameters"
        return ""


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _equations(program: Any) -> Iterator[JaxprEqn]:
    """Yields the equations of a jaxpr and of all jaxprs inside it."""
    for eqn in program.eqns:
        yield eqn
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: isinstance(v, ClosedJaxpr)):
            if isinstance(value, ClosedJaxpr | Jaxpr):
                yield from _equations(getattr(value, "jaxpr", value))


def _is_elementwise(eqn: JaxprEqn) -> bool:
    arrays: list[Any] = [v.aval for v in (*eqn.invars, *eqn.outvars)]
    name = eqn.primitive.name
    if not any(getattr(a, "ndim", 1) for a in arrays) or name in _CALLS:
        return True
    return arrays[0].ndim == 0 if name == "broadcast_in_dim" else name in _ELEMENTWISE


def _numbers(eqn: JaxprEqn) -> tuple[Any, ...]:
    """Returns an equation's primitive, the exponent of an integer_pow, and its literals."""
    literals = [np.asarray(v.val).tolist() if isinstance(v, Literal) else None for v in eqn.invars]
    return eqn.primitive.name, eqn.params.get("y"), *literals
