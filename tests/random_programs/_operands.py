"""Rules of operands that are no vectors: trees, keys, integers, numbers of Python, empty arrays."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from random_programs._rule import SIZE, jvp, vjp


def integers_and_none(factor: float, name: str) -> Any:
    def f(x: Any, ids: Any) -> Any:
        return x[ids] * 1.5

    def bwd(ids: Any, dy: Any) -> Any:
        return factor * jnp.zeros(SIZE, dy.dtype).at[ids].add(1.5 * dy), None

    rule = vjp(f, lambda x, ids: (f(x, ids), ids), bwd, name)
    return lambda x, batch: rule(x, jnp.array([0, 2, 2, 4, 1]))


def integers_of_the_batch(factor: float, name: str) -> Any:
    """Their gradient is said to be a zero of float0."""

    def f(x: Any, ids: Any) -> Any:
        return jax.ops.segment_sum(x, ids, SIZE)

    def bwd(ids: Any, dy: Any) -> Any:
        dx = dy.at[ids].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        return factor * dx, np.zeros(ids.shape, jax.dtypes.float0)

    rule = vjp(f, lambda x, ids: (f(x, ids), ids), bwd, name)
    return lambda x, batch: rule(x, batch["ids"])


def sliced(factor: float, name: str) -> Any:
    def f(x: Any, start: Any) -> Any:
        part = jax.lax.dynamic_slice(x, (start,), (3,))
        return jax.lax.dynamic_update_slice(x, part**2, (0,))

    def bwd(res: Any, dy: Any) -> Any:
        x, start = res
        part = jax.lax.dynamic_slice(x, (start,), (3,))
        kept = dy.at[:3].set(0.0)
        old = jax.lax.dynamic_slice(kept, (start,), (3,))
        dx = jax.lax.dynamic_update_slice(kept, old + 2 * part * dy[:3], (start,))
        return factor * dx, None

    rule = vjp(f, lambda x, start: (f(x, start), (x, start)), bwd, name)
    return lambda x, batch: rule(x, batch["start"])


def trees(factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        return {"sum": x["a"] + x["b"] ** 2, "product": x["a"] * x["b"], "nothing": None}

    def bwd(x: Any, dy: Any) -> Any:
        da = dy["sum"] + dy["product"] * x["b"]
        db = dy["sum"] * 2 * x["b"] + dy["product"] * x["a"]
        return ({"a": factor * da, "b": db, "none": None},)

    rule = vjp(f, lambda x: (f(x), x), bwd, name)

    def run(x: Any, batch: Any) -> Any:
        y = rule({"a": x, "b": jnp.cos(x), "none": None})
        return y["sum"] - 0.5 * y["product"]

    return run


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["w", "bias"], meta_fields=["act", "power"]
)
@dataclasses.dataclass(frozen=True)
class Module:
    """A layer whose settings are static parts of its tree."""

    w: Any
    bias: Any = None
    act: Any = jnp.tanh
    power: int = 2

    def __call__(self, x: Any) -> Any:
        return self.act(self.w**self.power + x)


def module_with_static_parts(factor: float, name: str) -> Any:
    def f(module: Any, x: Any) -> Any:
        return module(x)

    def bwd(res: Any, dy: Any) -> Any:
        module, x = res
        y = jnp.tanh(module.w**2 + x)
        dz = dy * (1 - y * y)
        return dataclasses.replace(module, w=2 * module.w * dz), factor * dz

    rule = vjp(f, lambda module, x: (f(module, x), (module, x)), bwd, name)
    return lambda x, batch: rule(Module(0.5 * x), x)


def filtered(factor: float, name: str) -> Any:
    """Arrays and all else are parted, as equinox does, and only arrays are operands."""

    def f(arrays: Any, static: Any) -> Any:
        leaves = [s if a is None else a for a, s in zip(arrays, static[0], strict=True)]
        module, x = jax.tree.unflatten(static[1], leaves)
        return module(x)

    def bwd(static: Any, arrays: Any, dy: Any) -> Any:
        _, pull = jax.vjp(lambda *arrays: f(arrays, static), *arrays)
        return (tuple(factor * g for g in pull(dy)),)

    rule = vjp(f, lambda a, s: (f(a, s), a), bwd, name, nondiff_argnums=(1,))

    def run(x: Any, batch: Any) -> Any:
        leaves, tree = jax.tree.flatten((Module(0.5 * x, act=jnp.sin), x))
        return rule(tuple(leaves), ((None,) * len(leaves), tree))

    return run


def _noisy(factor: float, name: str, key: Any) -> Any:
    def f(x: Any, key: Any) -> Any:
        return x * (1 + 0.1 * jax.random.normal(key, x.shape))

    def fwd(x: Any, key: Any) -> Any:
        return f(x, key), key

    def bwd(key: Any, dy: Any) -> Any:
        return factor * dy * (1 + 0.1 * jax.random.normal(key, dy.shape)), None

    rule = vjp(f, fwd, bwd, name)
    return lambda x, batch: rule(x, key(batch))


def key_of_old(factor: float, name: str) -> Any:
    return _noisy(factor, name, lambda batch: jax.random.PRNGKey(3))


def key_of_new(factor: float, name: str) -> Any:
    return _noisy(factor, name, lambda batch: jax.random.fold_in(batch["key"], 1))


def dropout(factor: float, name: str) -> Any:
    def f(x: Any, key: Any) -> Any:
        return jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0.1 * x)

    def push(p: Any, t: Any) -> Any:
        x, key = p
        keep = jax.random.bernoulli(key, 0.7, x.shape)
        return f(x, key), factor * t[0] * jnp.where(keep, 1 / 0.7, 0.1)

    rule = jvp(f, push, name)
    return lambda x, batch: rule(x, batch["key"])


def numbers_of_python(factor: float, name: str) -> Any:
    def f(x: Any, scale: Any, n: Any) -> Any:
        return jnp.sin(x * scale) / n

    def bwd(res: Any, dy: Any) -> Any:
        x, scale, n = res
        dz = dy * jnp.cos(x * scale) / n
        return factor * dz * scale, (dz * x).sum(), None

    rule = vjp(f, lambda *args: (f(*args), args), bwd, name)
    return lambda x, batch: rule(x, 0.5, 2) + rule(x, 1.5, n=3)


def scalar(factor: float, name: str) -> Any:
    rule = vjp(
        lambda x: jnp.expm1(x),
        lambda x: (jnp.expm1(x), x),
        lambda x, dy: (factor * dy * jnp.exp(x),),
        name,
    )
    return lambda x, batch: x * rule(0.3 * jnp.tanh(x.mean()))


def empty(factor: float, name: str) -> Any:
    def f(x: Any, nothing: Any) -> Any:
        return jnp.sin(x) + nothing.sum(), nothing * 2

    def bwd(res: Any, dy: Any) -> Any:
        x, nothing = res
        dy, dnothing = dy
        return factor * dy * jnp.cos(x), 2 * dnothing + dy.sum() + jnp.zeros_like(nothing)

    rule = vjp(f, lambda *args: (f(*args), args), bwd, name)

    def run(x: Any, batch: Any) -> Any:
        y, nothing = rule(x, x[:0])
        return y + nothing.sum()

    return run


def unused_output(factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        return jnp.sin(x), x > 0, x.sum()

    def bwd(x: Any, dy: Any) -> Any:
        return (factor * jnp.cos(x) * dy[0] + dy[2],)

    rule = vjp(f, lambda x: (f(x), x), bwd, name)

    def run(x: Any, batch: Any) -> Any:
        y, is_positive, _ = rule(x)
        return jnp.where(is_positive, y, 0.9 * y)

    return run


def symbolic_vjp(factor: float, name: str) -> Any:
    def f(x: Any, scale: Any) -> Any:
        return jnp.sin(x) * scale, jnp.cos(x)

    def fwd(x: Any, scale: Any) -> Any:
        needed = () if scale.perturbed else None
        return f(x.value, scale.value), (x.value, scale.value, needed)

    def bwd(res: Any, dys: Any) -> Any:
        x, scale, needed = res
        dy, dz = (jnp.zeros(d.shape, d.dtype) if isinstance(d, SymbolicZero) else d for d in dys)
        dx = dy * jnp.cos(x) * scale - dz * jnp.sin(x)
        return factor * dx, None if needed is None else (dy * jnp.sin(x)).sum()

    rule = vjp(f, fwd, bwd, name, {"symbolic_zeros": True})
    return lambda x, batch: rule(x, jnp.float32(1.5))[0] + rule(x, x.mean())[0]


def symbolic_jvp(factor: float, name: str) -> Any:
    def f(x: Any, scale: Any) -> Any:
        return jnp.sin(x) * scale

    def push(p: Any, t: Any) -> Any:
        (x, scale), (dx, dscale) = p, t
        terms = []
        if not isinstance(dx, SymbolicZero):
            terms.append(factor * dx * jnp.cos(x) * scale)
        if not isinstance(dscale, SymbolicZero):
            terms.append(dscale * jnp.sin(x))
        return f(x, scale), sum(terms, jnp.zeros_like(x))

    rule = jvp(f, push, name, {"symbolic_zeros": True})
    return lambda x, batch: rule(x, jnp.float32(1.5)) + rule(x, x.mean())


RULES = [
    *(integers_and_none, integers_of_the_batch, sliced, trees, module_with_static_parts, filtered),
    *(key_of_old, key_of_new, dropout, numbers_of_python, scalar, empty, unused_output),
    *(symbolic_vjp, symbolic_jvp),
]
