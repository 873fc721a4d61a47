"""Where a program calls a rule: under jit, in loops and branches, in parts, over devices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from random_programs._rule import SIZE, TABLE


def plainly(f: Any, x: Any) -> Any:
    return f(x)


def jitted(f: Any, x: Any) -> Any:
    return jax.jit(f)(x)


def jitted_with_settings(f: Any, x: Any) -> Any:
    run = jax.jit(lambda f, x, n: f(x) * n, static_argnums=0, static_argnames="n", inline=True)
    return run(f, x, n=1.5)


def closed_over(f: Any, x: Any) -> Any:
    shift = jnp.asarray(TABLE[0], jnp.float32) * 1.0
    return jax.jit(lambda x: f(x + shift))(x)


def rematted(f: Any, x: Any) -> Any:
    return jax.checkpoint(f)(x)


def rematted_by_policy(f: Any, x: Any) -> Any:
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint(f, policy=policy, prevent_cse=False)(x)


def rematted_by_name(f: Any, x: Any) -> Any:
    policy = jax.checkpoint_policies.save_only_these_names("y")
    return jax.checkpoint(lambda x: jnp.sin(checkpoint_name(f(x), "y")), policy=policy)(x)


def scanned(f: Any, x: Any) -> Any:
    def body(carry: Any, w: Any) -> Any:
        return 0.5 * carry + 0.5 * w * f(carry), None

    return lax.scan(body, x, jnp.linspace(0.5, 1.0, 3))[0]


def scanned_over(f: Any, x: Any) -> Any:
    def body(total: Any, x: Any) -> Any:
        y = f(x)
        return total + y.sum(), y

    xs = jnp.stack([x, 0.5 * x, -x])
    total, ys = lax.scan(jax.checkpoint(body), jnp.float32(0), xs, reverse=True, unroll=2)
    return ys.mean(0) + 0.1 * total


def counted(f: Any, x: Any) -> Any:
    return lax.fori_loop(0, 2, lambda i, x: 0.5 * (f(x) + x) / (1 + i), x)


def mapped(f: Any, x: Any) -> Any:
    return lax.map(f, jnp.stack([x, 0.5 * x])).sum(0)


def branched(f: Any, x: Any) -> Any:
    return lax.cond(x.sum() < 100.0, f, jnp.zeros_like, x)


def switched(f: Any, x: Any) -> Any:
    n = jnp.int32(x.sum() < 100.0)
    return lax.switch(n, [jnp.sin, lambda x: f(x) * TABLE[0], lambda x: x], x) * 3


def branch_not_taken(f: Any, x: Any) -> Any:
    return lax.cond(x.sum() > 1e6, f, jnp.sin, x)


def batched(f: Any, x: Any) -> Any:
    return jax.vmap(f)(jnp.stack([x, 0.5 * x])).mean(0)


def batched_along_an_axis(f: Any, x: Any) -> Any:
    def one(x: Any, w: Any) -> Any:
        y = w * f(x)
        return y - 0.1 * lax.pmean(y, "rows")

    over = jax.vmap(one, out_axes=1, axis_name="rows")
    return over(jnp.stack([x, -x]), jnp.asarray([0.5, 1.0])).sum(1)


def batched_for_a_weight(f: Any, x: Any) -> Any:
    return jax.vmap(lambda w: w * f(x))(jnp.asarray([0.5, 1.0])).sum(0)


def _mesh() -> Any:
    """Of as many of two devices as there are."""
    size = min(2, jax.device_count())
    return jax.make_mesh((size,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))


def sharded(f: Any, x: Any) -> Any:
    spec = PartitionSpec()
    return jax.shard_map(f, mesh=_mesh(), in_specs=spec, out_specs=spec, check_vma=False)(x)


def sharded_over_devices(f: Any, x: Any) -> Any:
    def mean(xs: Any) -> Any:
        return lax.pmean(jax.vmap(f)(xs).mean(0), "d")

    run = jax.shard_map(
        mean,
        mesh=_mesh(),
        in_specs=PartitionSpec("d"),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return run(jnp.stack([x, 0.5 * x]))


def held_fixed(f: Any, x: Any) -> Any:
    return x + 0.1 * lax.stop_gradient(f(x))


def held_fixed_in_a_while(f: Any, x: Any) -> Any:
    def step(c: Any) -> Any:
        return c[0] + 1, jnp.tanh(f(c[1]))

    return x + 0.1 * lax.stop_gradient(lax.while_loop(lambda c: c[0] < 2, step, (0, x))[1])


def named(f: Any, x: Any) -> Any:
    with jax.named_scope("scope"):
        return jax.named_call(f, name="call")(x)


def in_bfloat16(f: Any, x: Any) -> Any:
    return f(x).astype(jnp.bfloat16).astype(jnp.float32)


def divided(f: Any, x: Any) -> Any:
    return f(x) * (1.0 / (jnp.arange(SIZE) + 1))


def differentiated(f: Any, x: Any) -> Any:
    """A loss of a gradient. JAX has put the rule's backward in place of it when it is traced."""
    return 0.1 * jax.grad(lambda x: jnp.sum(jnp.sin(f(x))))(x)


def with_its_gradient(f: Any, x: Any) -> Any:
    y, pull = jax.vjp(f, x)
    return y + 0.1 * pull(jnp.ones_like(y))[0]


PLACES = [
    *(plainly, jitted, jitted_with_settings, closed_over, rematted, rematted_by_policy),
    *(rematted_by_name, scanned, scanned_over, counted, mapped, branched, switched),
    *(branch_not_taken, batched, batched_along_an_axis, batched_for_a_weight, sharded),
    *(sharded_over_devices, held_fixed, held_fixed_in_a_while, named, in_bfloat16, divided),
    *(differentiated, with_its_gradient),
]
BATCHES = [batched, batched_along_an_axis, sharded_over_devices]
# JAX cannot differentiate a rule there, if its output is batched along another axis than 0.
BRANCHES = [branched, switched, branch_not_taken]
# Elsewhere a rule that makes a ref has a gradient of JAX that is wrong, or none without the rule.
FOR_REFS = [
    *(plainly, jitted, jitted_with_settings, closed_over, branched, switched, branch_not_taken),
    *(held_fixed, named, in_bfloat16, divided),
]
# These are not nested: a mesh of its own has to be that of the mesh around it.
SHARDS = [sharded, sharded_over_devices]
# `fbp.audit` sees a rule there only as a part of the whole.
INSIDE_OF_A_WHOLE = [*SHARDS, held_fixed_in_a_while]
TWICE = [differentiated, with_its_gradient]


def within(outer: Any, inner: Any) -> Any:
    return lambda f, x: outer(functools.partial(inner, f), x)
