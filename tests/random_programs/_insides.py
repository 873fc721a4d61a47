"""Rules with something inside: loops, branches, other rules, casts, checks, refs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from random_programs._rule import SIZE, jvp, vjp


def rule_in_a_rule(factor: float, name: str) -> Any:
    inner = jvp(
        lambda x: jnp.exp(-x * x),
        lambda p, t: (jnp.exp(-(p[0] ** 2)), -2 * p[0] * jnp.exp(-(p[0] ** 2)) * t[0]),
        f"{name}_inside",
    )

    def f(x: Any) -> Any:
        return x * inner(x)

    def bwd(x: Any, dy: Any) -> Any:
        return (factor * dy * inner(x) * (1 - 2 * x * x),)

    rule = vjp(f, lambda x: (f(x), x), bwd, name)
    return lambda x, batch: rule(x)


def vjp_rule_in_a_jvp_rule(factor: float, name: str) -> Any:
    def inside(x: Any) -> Any:
        return jnp.sin(x)

    inner = vjp(inside, lambda x: (inside(x), x), lambda x, dy: (dy * jnp.cos(x),), f"{name}_in")
    rule = jvp(
        lambda x: jax.jit(inner)(x) ** 2,
        lambda p, t: (inner(p[0]) ** 2, factor * 2 * inner(p[0]) * jnp.cos(p[0]) * t[0]),
        name,
    )
    return lambda x, batch: rule(x)


def while_inside(factor: float, name: str) -> Any:
    """Autodiff has no reverse mode of its primal."""

    def f(x: Any) -> Any:
        return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, 0.9 * c[1]), (0, x))[1]

    rule = vjp(f, lambda x: (f(x), None), lambda _, dy: (factor * 0.729 * dy,), name)
    return lambda x, batch: rule(x)


def rule_in_a_while_inside(factor: float, name: str) -> Any:
    inner = jvp(
        lambda x: jnp.sin(x), lambda p, t: (jnp.sin(p[0]), jnp.cos(p[0]) * t[0]), f"{name}_in"
    )

    def f(x: Any) -> Any:
        return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, inner(c[1])), (0, x))[1]

    def bwd(x: Any, dy: Any) -> Any:
        return (factor * dy * jnp.cos(x) * jnp.cos(inner(x)),)

    rule = vjp(f, lambda x: (f(x), x), bwd, name)
    return lambda x, batch: rule(x)


def scan_inside(factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        return lax.scan(lambda h, x: (0.5 * h + x, 0.5 * h + x), jnp.float32(0), x)[1]

    def bwd(_: Any, dy: Any) -> Any:
        step = lambda dh, dy: (0.5 * (dh + dy), dh + dy)  # noqa: E731
        return (factor * lax.scan(step, jnp.zeros((), dy.dtype), dy, reverse=True)[1],)

    rule = vjp(f, lambda x: (f(x), None), bwd, name)
    return lambda x, batch: rule(x)


def switch_inside(factor: float, name: str) -> Any:
    branches = [jnp.sin, lambda x: x * x, jnp.tanh]
    slopes = [jnp.cos, lambda x: 2 * x, lambda x: 1 - jnp.tanh(x) ** 2]

    def f(x: Any, n: Any) -> Any:
        return lax.switch(n, branches, x)

    def bwd(res: Any, dy: Any) -> Any:
        x, n = res
        return factor * dy * lax.switch(n, slopes, x), None

    rule = vjp(f, lambda *args: (f(*args), args), bwd, name)
    return lambda x, batch: rule(x, batch["start"])


def statistics(factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        off = x - x.mean()
        return off * lax.rsqrt((off * off).mean() + 0.1)

    def bwd(x: Any, dy: Any) -> Any:
        off = x - x.mean()
        r = lax.rsqrt((off * off).mean() + 0.1)
        y = off * r
        return (factor * r * (dy - dy.mean() - y * (dy * y).mean()),)

    rule = vjp(f, lambda x: (f(x), x), bwd, name)
    return lambda x, batch: rule(x)


def remat_optimized(factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        return jnp.sin(x) * x

    def bwd(x: Any, dy: Any) -> Any:
        return (factor * dy * (jnp.cos(x) * x + jnp.sin(x)),)

    rule = vjp(f, lambda x: (f(x), x), bwd, name, {"optimize_remat": True})
    return lambda x, batch: rule(x)


def casts(factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        return (x.astype(jnp.bfloat16) * 1.5).astype(x.dtype)

    def bwd(_: Any, dy: Any) -> Any:
        return (factor * (dy.astype(jnp.bfloat16) * 1.5).astype(dy.dtype),)

    rule = vjp(f, lambda x: (f(x), None), bwd, name)
    return lambda x, batch: rule(x)


def weak_numbers(factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        return x * jnp.where(x > -9, 1, 2.5) * (1.0 / (jnp.arange(SIZE) + 1))

    def bwd(x: Any, dy: Any) -> Any:
        slope = jnp.where(x > -9, 1, 2.5) * (1.0 / (jnp.arange(SIZE) + 1))
        return (factor * dy * slope,)

    rule = vjp(f, lambda x: (f(x), x), bwd, name)
    return lambda x, batch: rule(x)


def stopped(factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        return x * lax.stop_gradient(jnp.abs(x) + 0.5)

    rule = vjp(
        f,
        lambda x: (f(x), jnp.abs(x) + 0.5),
        lambda slope, dy: (factor * dy * slope,),
        name,
    )
    return lambda x, batch: rule(x)


def ref_inside(factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        ref = jax.new_ref(jnp.zeros_like(x))
        ref[...] = x * x
        ref[...] += x
        return ref[...]

    def bwd(x: Any, dy: Any) -> Any:
        ref = jax.new_ref(jnp.zeros_like(x))
        ref[...] += dy * (2 * x + 1)
        return (factor * ref[...],)

    rule = vjp(f, lambda x: (f(x), x), bwd, name)
    return lambda x, batch: rule(x)


def _require_positive(x: Any) -> Any:
    if (np.asarray(x) <= 0).any():
        raise ValueError("x must be positive")
    return np.asarray(x)


def check_inside(factor: float, name: str) -> Any:
    """A check at run time that raises, and what it returns is needed."""

    def f(x: Any) -> Any:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        how = "expand_dims"
        seen = jax.pure_callback(_require_positive, shape, lax.stop_gradient(x), vmap_method=how)
        return jnp.log(x) + 0 * seen

    rule = vjp(f, lambda x: (f(x), x), lambda x, dy: (factor * dy / x,), name)
    return lambda x, batch: rule(0.5 + x * x)


def kinked(factor: float, name: str) -> Any:
    """Autodiff takes half of either slope at the kink, this rule takes one."""
    rule = vjp(
        lambda x: jnp.maximum(x, 0.3 * x),
        lambda x: (jnp.maximum(x, 0.3 * x), x),
        lambda x, dy: (factor * jnp.where(x >= 0, dy, 0.3 * dy),),
        name,
    )
    return lambda x, batch: rule(x)


RULES = [
    *(rule_in_a_rule, vjp_rule_in_a_jvp_rule, while_inside, rule_in_a_while_inside, scan_inside),
    *(switch_inside, statistics, remat_optimized, casts, weak_numbers, stopped, check_inside),
    *([ref_inside] if hasattr(jax, "new_ref") else []),
    kinked,
]
# In these an exception of Python or a loop that has no reverse mode is in the way of a second
# derivative.
ONCE = [while_inside, rule_in_a_while_inside, check_inside, ref_inside]
