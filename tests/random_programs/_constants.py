"""Rules that hold constants: tables, lists, settings, functions, values of the batch.

Each takes the factor that its backward is multiplied by, 1 in a right rule, and a name. It returns
a function of a vector and of the batch.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from random_programs._rule import MODULE_TABLE, TABLE, jvp, vjp


def _tanh_of(table: Any, factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        return jnp.tanh(jnp.asarray(table) @ x)

    def bwd(y: Any, dy: Any) -> Any:
        return (factor * (jnp.asarray(table).T @ ((1 - y * y) * dy)),)

    rule = vjp(f, lambda x: (f(x), f(x)), bwd, name)
    return lambda x, batch: rule(x)


def numpy_table(factor: float, name: str) -> Any:
    return _tanh_of(TABLE, factor, name)


def module_table(factor: float, name: str) -> Any:
    return _tanh_of(MODULE_TABLE, factor, name)


def jvp_with_a_list(factor: float, name: str) -> Any:
    weights = [0.5, 1.5, -1.0, 2.0, 0.25]
    rule = jvp(
        lambda x: jnp.sin(jnp.array(weights) * x),
        lambda p, t: (
            jnp.sin(jnp.array(weights) * p[0]),
            factor * jnp.cos(jnp.array(weights) * p[0]) * jnp.array(weights) * t[0],
        ),
        name,
    )
    return lambda x, batch: rule(x)


def table_in_its_own_jit(factor: float, name: str) -> Any:
    """Constants of programs inside the rule: of a jit, a scan and a cond."""

    @jax.jit
    def f(x: Any) -> Any:
        step = jax.checkpoint(lambda c, w: (c + w * MODULE_TABLE[0], None))
        y = jax.lax.scan(step, x, jnp.asarray([0.1, 0.2]))[0]
        return jax.lax.cond(y.sum() < 100, lambda y: y * MODULE_TABLE[1], lambda y: y * TABLE[1], y)

    def primal(x: Any) -> Any:
        return f(x)

    rule = vjp(primal, lambda x: (f(x), None), lambda _, dy: (factor * dy * TABLE[1],), name)
    return lambda x, batch: rule(x) * 3


def table_of_the_batch(factor: float, name: str) -> Any:
    """An operand that params do not reach; its gradient is given all the same."""

    def f(table: Any, x: Any) -> Any:
        return jnp.sin(table @ x)

    def bwd(res: Any, dy: Any) -> Any:
        table, x = res
        dz = dy * jnp.cos(table @ x)
        return jnp.outer(dz, x), factor * (table.T @ dz)

    rule = vjp(f, lambda table, x: (f(table, x), (table, x)), bwd, name)
    return lambda x, batch: rule(batch["table"], x)


def jvp_setting_by_keyword(factor: float, name: str) -> Any:
    rule = jvp(
        lambda x, n: jnp.sin(x) * n,
        lambda n, p, t: (jnp.sin(p[0]) * n, factor * jnp.cos(p[0]) * n * t[0]),
        name,
        nondiff_argnums=(1,),
    )
    return lambda x, batch: rule(x, n=3) / 3


def vjp_settings_by_keyword(factor: float, name: str) -> Any:
    """Not differentiated: a function, and a number with a default."""

    def f(act: Any, x: Any, power: int = 2, scale: float = 1.0) -> Any:
        return scale * act(x) ** power

    def fwd(act: Any, x: Any, power: int, scale: float) -> Any:
        return f(act, x, power, scale), x

    def bwd(act: Any, power: int, scale: float, x: Any, dy: Any) -> Any:
        y, pull = jax.vjp(act, x)
        return (factor * pull(scale * power * y ** (power - 1) * dy)[0],)

    rule = vjp(f, fwd, bwd, name, nondiff_argnums=(0, 2, 3))
    return lambda x, batch: rule(jnp.tanh, x, scale=0.5) + rule(jnp.sin, x, power=3)


def made_by_partial(factor: float, name: str) -> Any:
    def f(x: Any, by: float) -> Any:
        return x**2 * by

    f.__name__ = name
    rule = functools.partial(jax.custom_jvp, nondiff_argnums=(1,))(f)

    @rule.defjvp
    def _(by: float, p: Any, t: Any) -> Any:
        return f(p[0], by), factor * 2 * by * p[0] * t[0]

    return lambda x, batch: functools.partial(rule, by=0.5)(x)


def traced_closure(factor: float, name: str) -> Any:
    """A function that closes over traced values, made into one that takes them as operands."""

    def f(g: Any, x: Any, *held: Any) -> Any:
        return g(x, *held) ** 2

    def bwd(g: Any, res: Any, dy: Any) -> Any:
        x, held = res
        y, pull = jax.vjp(g, x, *held)
        dx, *dheld = pull(2 * y * dy)
        return (factor * dx, *dheld)

    rule = vjp(
        f,
        lambda g, x, *held: (f(g, x, *held), (x, held)),
        bwd,
        name,
        nondiff_argnums=(0,),
    )

    def run(x: Any, batch: Any) -> Any:
        shift = 0.1 * batch["table"][0] + jax.lax.stop_gradient(x)
        g, held = jax.closure_convert(lambda x: jnp.sin(x + shift), x)
        return rule(g, x, *held)

    return run


RULES = [
    *(numpy_table, module_table, jvp_with_a_list, table_in_its_own_jit, table_of_the_batch),
    *(jvp_setting_by_keyword, vjp_settings_by_keyword, made_by_partial, traced_closure),
]
