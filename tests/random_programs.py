"""Programs composed at random of what real ones are made of, every rule in them right but one.

Each piece is a function of a vector, built of a rule whose backward is multiplied by `factor`: 1 in
a right program.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SIZE = 5
TABLE = np.random.default_rng(7).normal(size=(SIZE, SIZE)) / 3
MODULE_TABLE = jnp.asarray(TABLE, jnp.float32)
Vector = Any


def _tanh_of(table: Any, factor: float, name: str) -> Callable[[Vector], Vector]:
    """A `custom_vjp` rule that holds a table."""

    def f(x: Any) -> Any:
        return jnp.tanh(jnp.asarray(table) @ x)

    def bwd(y: Any, dy: Any) -> Any:
        return (factor * (jnp.asarray(table).T @ ((1 - y * y) * dy)),)

    return _vjp(f, lambda x: (f(x), f(x)), bwd, name)


def _vjp(f: Any, fwd: Any, bwd: Any, name: str, **options: Any) -> Any:
    f.__name__ = name
    rule = jax.custom_vjp(f, **options)
    rule.defvjp(fwd, bwd)
    return rule


def _jvp(f: Any, jvp: Any, name: str, **options: Any) -> Any:
    f.__name__ = name
    rule = jax.custom_jvp(f, **options)
    rule.defjvp(jvp)
    return rule


def numpy_table(factor: float, name: str) -> Any:
    return _tanh_of(TABLE, factor, name)


def module_table(factor: float, name: str) -> Any:
    return _tanh_of(MODULE_TABLE, factor, name)


def jvp_with_a_list(factor: float, name: str) -> Any:
    weights = [0.5, 1.5, -1.0, 2.0, 0.25]
    return _jvp(
        lambda x: jnp.sin(jnp.array(weights) * x),
        lambda p, t: (
            jnp.sin(jnp.array(weights) * p[0]),
            factor * jnp.cos(jnp.array(weights) * p[0]) * jnp.array(weights) * t[0],
        ),
        name,
    )


def keyword_of_a_rule(factor: float, name: str) -> Any:
    rule = _jvp(
        lambda x, n: jnp.sin(x) * n,
        lambda n, p, t: (jnp.sin(p[0]) * n, factor * jnp.cos(p[0]) * n * t[0]),
        name,
        nondiff_argnums=(1,),
    )
    return lambda x: rule(x, n=3) / 3


def integers_and_none(factor: float, name: str) -> Any:
    def f(x: Any, ids: Any) -> Any:
        return x[ids] * 1.5

    def bwd(ids: Any, dy: Any) -> Any:
        return factor * jnp.zeros(SIZE, dy.dtype).at[ids].add(1.5 * dy), None

    rule = _vjp(f, lambda x, ids: (f(x, ids), ids), bwd, name)
    return lambda x: rule(x, jnp.array([0, 2, 2, 4, 1]))


def trees(factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        return {"sum": x["a"] + x["b"] ** 2, "product": x["a"] * x["b"]}

    def bwd(x: Any, dy: Any) -> Any:
        da = dy["sum"] + dy["product"] * x["b"]
        db = dy["sum"] * 2 * x["b"] + dy["product"] * x["a"]
        return ({"a": factor * da, "b": db},)

    rule = _vjp(f, lambda x: (f(x), x), bwd, name)

    def run(x: Vector) -> Vector:
        y = rule({"a": x, "b": jnp.cos(x)})
        return y["sum"] - 0.5 * y["product"]

    return run


def rule_in_a_rule(factor: float, name: str) -> Any:
    inner = _jvp(
        lambda x: jnp.exp(-x * x),
        lambda p, t: (jnp.exp(-(p[0] ** 2)), -2 * p[0] * jnp.exp(-(p[0] ** 2)) * t[0]),
        f"{name}_inside",
    )

    def f(x: Any) -> Any:
        return x * inner(x)

    def bwd(x: Any, dy: Any) -> Any:
        return (factor * dy * inner(x) * (1 - 2 * x * x),)

    return _vjp(f, lambda x: (f(x), x), bwd, name)


def a_loop_inside(factor: float, name: str) -> Any:
    """Autodiff has no reverse mode of its primal."""

    def f(x: Any) -> Any:
        return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, 0.9 * c[1]), (0, x))[1]

    return _vjp(f, lambda x: (f(x), None), lambda _, dy: (factor * 0.729 * dy,), name)


def statistics(factor: float, name: str) -> Any:
    def f(x: Any) -> Any:
        off = x - x.mean()
        return off * lax.rsqrt((off * off).mean() + 0.1)

    def bwd(x: Any, dy: Any) -> Any:
        off = x - x.mean()
        r = lax.rsqrt((off * off).mean() + 0.1)
        y = off * r
        return (factor * r * (dy - dy.mean() - y * (dy * y).mean()),)

    return _vjp(f, lambda x: (f(x), x), bwd, name)


RULES: list[Callable[[float, str], Any]] = [
    *(numpy_table, module_table, jvp_with_a_list, keyword_of_a_rule, integers_and_none),
    *(trees, rule_in_a_rule, a_loop_inside, statistics),
]


def plainly(f: Any, x: Vector) -> Vector:
    return f(x)


def jitted(f: Any, x: Vector) -> Vector:
    return jax.jit(f)(x)


def rematted(f: Any, x: Vector) -> Vector:
    return jax.checkpoint(f)(x)


def scanned(f: Any, x: Vector) -> Vector:
    def body(carry: Any, w: Any) -> Any:
        return 0.5 * carry + 0.5 * w * f(carry), None

    return lax.scan(body, x, jnp.linspace(0.5, 1.0, 3))[0]


def counted(f: Any, x: Vector) -> Vector:
    return lax.fori_loop(0, 2, lambda i, x: 0.5 * (f(x) + x) / (1 + i), x)


def branched(f: Any, x: Vector) -> Vector:
    return lax.cond(x.sum() < 100.0, f, jnp.zeros_like, x)


def batched(f: Any, x: Vector) -> Vector:
    return jax.vmap(f)(jnp.stack([x, 0.5 * x])).mean(0)


def sharded(f: Any, x: Vector) -> Vector:
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec()
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(x)


def divided(f: Any, x: Vector) -> Vector:
    return f(x) * (1.0 / (jnp.arange(SIZE) + 1))


def noisy(f: Any, x: Vector) -> Vector:
    return f(x) + 0.1 * jax.random.normal(jax.random.key(3), x.shape)


def closed_over(f: Any, x: Vector) -> Vector:
    shift = jnp.asarray(TABLE[0], jnp.float32) * 1.0
    return jax.jit(lambda x: f(x + shift))(x)


PLACES: list[Callable[[Any, Vector], Vector]] = [
    *(plainly, jitted, rematted, scanned, counted, branched, batched, sharded, divided, noisy),
    closed_over,
]


def program(seed: int, wrong: bool = False) -> tuple[Callable[[Any], Any], Any, str]:
    """A loss, its params, and the name of its wrong rule.

    A wrong rule is never in shard_map, where `fbp.audit` only sees it as a part of the whole.
    """
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 5))
    culprit = int(rng.integers(count)) if wrong else -1
    pieces = []
    for n in range(count):
        make = RULES[rng.integers(len(RULES))]
        place = PLACES[rng.integers(len(PLACES))]
        if n == culprit and place is sharded:
            place = jitted
        name = f"{make.__name__}_{n}"
        factor = float(rng.choice([-1.0, 0.5, 2.0])) if n == culprit else 1.0
        pieces.append((name, functools.partial(place, make(factor, name))))

    def loss(params: Any) -> Any:
        x = params["x"]
        for name, piece in pieces:
            x = piece(x) * params["scales"][name]
        return jnp.sum(x * jnp.arange(1.0, SIZE + 1)) + 0.1 * jnp.sum(x**2)

    params = {
        "x": jnp.asarray(rng.normal(size=SIZE), jnp.float32),
        "scales": {name: jnp.float32(rng.uniform(0.5, 1.5)) for name, _ in pieces},
    }
    return loss, params, pieces[culprit][0] if wrong else ""
