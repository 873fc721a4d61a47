"""Rules inside other programs: jit, scan, cond, remat, vmap, and rules inside rules."""

import jax
import jax.numpy as jnp
from jax import lax

from alternatives._rule import B, D, F, Rule, T, family, integers, normal, ruled, weights, wide

RULES: list[Rule] = []
rule = family(RULES, "hand")


def make_swish(**options):
    def swish(x):
        return (wide(x) * jax.nn.sigmoid(wide(x))).astype(x.dtype)

    def bwd(x, dy):
        s = jax.nn.sigmoid(wide(x))
        return ((wide(dy) * s * (1 + wide(x) * (1 - s))).astype(x.dtype),)

    return ruled(swish, lambda x: (swish(x), x), bwd, **options)


@rule("inside jit", normal(F, D))
def inside_jit():
    return jax.jit(make_swish())


@rule("around jit", normal(F, D))
def around_jit():
    cube = jax.jit(lambda x: x**3)
    return ruled(cube, jax.jit(lambda x: (cube(x), x)), jax.jit(lambda x, dy: (3 * x * x * dy,)))


@rule("inside scan", normal(B, 5), weights(4, 5, 5))
def inside_scan():
    swish = make_swish()

    def f(x, w):
        return lax.scan(lambda h, wi: (swish(h @ wi), None), x, w)[0]

    return f


@rule("around scan", normal(T, F))
def around_scan():
    def primal(x):
        def step(h, xt):
            h = 0.9 * h + wide(xt)
            return h, h

        return lax.scan(step, jnp.zeros(x.shape[1:], wide(x).dtype), x)[1]

    def bwd(like, dy):
        def step(dh, dyt):
            dh = 0.9 * dh + dyt
            return dh, dh

        start = jnp.zeros(dy.shape[1:], dy.dtype)
        return (lax.scan(step, start, dy, reverse=True)[1].astype(like.dtype),)

    return ruled(primal, lambda x: (primal(x), x[:0]), bwd)


@rule("inside cond", normal(F, D), integers(0, 2))
def inside_cond():
    swish = make_swish()
    return lambda x, which: lax.cond(which == 0, swish, lambda x: x * 2, x)


@rule("inside switch", normal(F, D), integers(0, 3))
def inside_switch():
    swish = make_swish()
    return lambda x, which: lax.switch(which, [swish, jnp.tanh, lambda x: swish(-x)], x)


@rule("inside remat", normal(F, D), weights(D, D))
def inside_remat():
    swish = make_swish()
    return jax.checkpoint(lambda x, w: swish(swish(x @ w) @ w))


@rule("inside remat with a policy", normal(F, D), weights(D, D))
def inside_remat_policy():
    swish = make_swish()
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return jax.checkpoint(lambda x, w: swish(swish(x @ w) @ w), policy=policy)


@rule("inside vmap", normal(F, D), normal(D))
def inside_vmap():
    def primal(x, scale):
        return x * scale

    f = ruled(
        primal,
        lambda x, scale: (x * scale, (x, scale)),
        lambda res, dy: (dy * res[1], dy * res[0]),
    )
    return jax.vmap(f, in_axes=(0, None))


@rule("inside map", normal(F, D))
def inside_map():
    swish = make_swish()
    return lambda x: lax.map(swish, x)


@rule("inside fori_loop", normal(F, D))
def inside_fori():
    swish = make_swish()
    return lambda x: lax.fori_loop(0, 3, lambda _, h: swish(h) + h, x)


@rule("around fori_loop", normal(F, D))
def around_fori():
    """x after four rounds of x + sin(x) / 4; the backward runs them again and then back."""

    def rounds(x):
        return lax.scan(lambda h, _: (h + jnp.sin(h) / 4, h), wide(x), None, length=4)

    def primal(x):
        return lax.fori_loop(0, 4, lambda _, h: h + jnp.sin(h) / 4, wide(x)).astype(x.dtype)

    def bwd(x, dy):
        hs = rounds(x)[1]

        def step(i, dh):
            return dh * (1 + jnp.cos(hs[3 - i]) / 4)

        return (lax.fori_loop(0, 4, step, wide(dy)).astype(x.dtype),)

    return ruled(primal, lambda x: (primal(x), x), bwd)


@rule("inside a rule: custom_vjp in custom_vjp", normal(F, D), normal(F, D))
def nested():
    swish = make_swish()

    def primal(gate, up):
        return swish(gate) * up

    def bwd(res, dy):
        gate, up = res
        y, dswish = jax.vjp(swish, gate)
        return dswish(dy * up)[0], dy * y

    return ruled(primal, lambda gate, up: (primal(gate, up), (gate, up)), bwd)


@rule("inside a rule: custom_jvp in custom_vjp", normal(F, D))
def jvp_in_vjp():
    relu_squared = ruled(
        lambda x: jax.nn.relu(x) ** 2,
        lambda x: (jax.nn.relu(x) ** 2, x),
        lambda x, dy: (2 * dy * jax.nn.relu(x),),
    )
    return relu_squared


@rule("one rule twice: y = f(f(x)) + f(x)", normal(F, D))
def twice():
    swish = make_swish()
    return lambda x: swish(swish(x)) + swish(x)


@rule("optimize_remat", normal(F, D))
def optimize_remat():
    return make_swish(optimize_remat=True)


@rule("optimize_remat inside remat", normal(F, D))
def optimize_remat_in_remat():
    return jax.checkpoint(make_swish(optimize_remat=True))


@rule(
    "whole program: two layers and a loss",
    normal(B, D),
    weights(D, F),
    weights(F, 3),
    integers(0, 3, B),
)
def program():
    swish = make_swish()

    @jax.jit
    def loss(x, w, u, labels):
        logits = swish(x @ w) @ u
        log_p = jax.nn.log_softmax(wide(logits), axis=-1)
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], -1))

    return loss


@rule("custom_vmap: a rule for batches", normal(F, D))
def custom_vmap():
    """The rule for batches is used inside the rule for gradients."""

    @jax.custom_batching.custom_vmap
    def total(x):
        return jnp.sum(wide(x) ** 2)

    @total.def_vmap
    def batched(size, in_batched, x):
        return jnp.einsum("nd,nd->n", wide(x), wide(x)), True

    f = ruled(
        lambda x: total(x),
        lambda x: (total(x), x),
        lambda x, dy: ((2 * dy * wide(x)).astype(x.dtype),),
    )
    return jax.vmap(f)
