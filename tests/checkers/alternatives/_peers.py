"""Rules that come with optax, flax and equinox, and their modules around rules of jax."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alternatives._rule import (
    B,
    D,
    F,
    Rule,
    T,
    V,
    family,
    integers,
    normal,
    touching,
    tree,
    uniform,
    weights,
)

RULES: list[Rule] = []
optax_rule = family(RULES, "optax", ("optax",))
flax_rule = family(RULES, "flax", ("flax",))
equinox_rule = family(RULES, "equinox", ("equinox",))

FULL = ("float32", "float64")


@optax_rule("optax.sigmoid_binary_cross_entropy", normal(F, D, scale=3), uniform(0, 1, F, D))
def binary_cross_entropy():
    import optax

    return optax.sigmoid_binary_cross_entropy


@optax_rule("optax.sigmoid_focal_loss", normal(F, D, scale=2), uniform(0, 1, F, D))
def sigmoid_focal():
    import optax

    return lambda logits, labels: optax.sigmoid_focal_loss(logits, labels, alpha=0.3)


@optax_rule("optax.log_cosh", normal(F, D), normal(F, D))
def log_cosh():
    import optax

    return optax.log_cosh


def distribution(rng, size):
    n, k = (getattr(a, size) for a in (F, V))
    return rng.dirichlet(np.ones(k), n).astype(np.float32)


@optax_rule("optax.safe_softmax_cross_entropy", normal(F, V), distribution)
def safe_cross_entropy():
    import optax

    return optax.safe_softmax_cross_entropy


@optax_rule("optax.losses.weighted_logsoftmax", normal(F, V), uniform(0.1, 1, F, V))
def weighted_log_softmax():
    from optax.losses._classification import weighted_logsoftmax

    return weighted_logsoftmax


@optax_rule("optax.ctc_loss", normal(2, T, 5), integers(1, 5, 2, 3))
def ctc():
    import optax

    def loss(logits, labels):
        paddings = jnp.zeros(logits.shape[:2], logits.dtype)
        return optax.ctc_loss(logits, paddings, labels, jnp.zeros(labels.shape, logits.dtype))

    return loss


@optax_rule("optax.losses.multiclass_sparsemax_loss", normal(F, 5), integers(0, 5, F), dtypes=FULL)
def sparsemax():
    import optax

    return optax.losses.multiclass_sparsemax_loss


@optax_rule(
    "optax.losses.make_fenchel_young_loss: sparsemax", normal(F, 5), normal(F, 5), dtypes=FULL
)
def fenchel_young():
    import optax

    def max_fun(s):
        p = optax.projections.projection_simplex(s)
        return jnp.dot(s, p) - 0.5 * jnp.dot(p, p)

    return optax.losses.make_fenchel_young_loss(max_fun)


@optax_rule("optax.projections.projection_simplex", normal(D), dtypes=FULL)
def projection_simplex():
    import optax

    return optax.projections.projection_simplex


@optax_rule("optax.projections.projection_l1_ball", normal(D, scale=2), dtypes=FULL)
def projection_l1_ball():
    import optax

    return optax.projections.projection_l1_ball


@optax_rule(
    "optax.projections.projection_non_negative",
    tree(lambda a, b: {"a": a, "b": b}, touching((0.0,), D), normal(F)),
)
def projection_non_negative():
    import optax

    return optax.projections.projection_non_negative


@optax_rule(
    "optax.scale_gradient",
    normal(F, D),
    reference=lambda x: 0.3 * x + lax.stop_gradient(x - 0.3 * x),
)
def scale_gradient():
    """Meant so: the gradient is scaled, as the reference says."""
    import optax

    return lambda x: optax.scale_gradient(x, 0.3)


@flax_rule(
    "flax.linen: Dense, relu, LayerNorm with its fast variance",
    tree(lambda w, b: {"kernel": w, "bias": b}, weights(D, F), normal(F)),
    tree(lambda g, b: {"scale": g, "bias": b}, normal(F, shift=1), normal(F)),
    normal(B, D),
)
def linen_block():
    import flax.linen as nn

    def f(dense, norm, x):
        h = nn.relu(nn.Dense(dense["bias"].shape[0]).apply({"params": dense}, x))
        return nn.LayerNorm(use_fast_variance=True).apply({"params": norm}, h)

    return f


@flax_rule("flax.linen: softplus of Dense", normal(B, D), weights(D, F))
def linen_softplus():
    import flax.linen as nn

    def f(x, kernel):
        dense = nn.Dense(kernel.shape[1], use_bias=False)
        return nn.softplus(dense.apply({"params": {"kernel": kernel}}, x))

    return f


@flax_rule("flax.linen.custom_vjp: a dense layer", normal(B, D), weights(D, F))
def linen_custom_vjp():
    import flax.linen as nn

    class Layer(nn.Module):
        features: int

        @nn.compact
        def __call__(self, x):
            def f(module, x):
                return module(x)

            def fwd(module, x):
                return nn.vjp(f, module, x)

            def bwd(vjp, dy):
                return vjp(dy)

            dense = nn.Dense(self.features, use_bias=False, name="dense")
            return nn.custom_vjp(f, forward_fn=fwd, backward_fn=bwd)(dense, x)

    def f(x, kernel):
        params = {"dense": {"kernel": kernel}}
        return Layer(kernel.shape[1]).apply({"params": params}, x)

    return f


@flax_rule("flax.linen.fp8_ops.dot_general_with_precision", normal(B, D), weights(D, F))
def fp8_dot():
    from flax.linen.fp8_ops import dot_general_with_precision

    return lambda x, w: dot_general_with_precision(x, w, (((1,), (0,)), ((), ())))


@flax_rule("flax.nnx: a relu network, split", normal(B, D), weights(D, F), weights(F, 3))
def nnx_network():
    from flax import nnx

    def f(x, w, u):
        first = nnx.Linear(*w.shape, use_bias=False, rngs=nnx.Rngs(0))
        last = nnx.Linear(*u.shape, use_bias=False, rngs=nnx.Rngs(0))
        first.kernel[...], last.kernel[...] = w, u
        return last(nnx.relu(first(x)))

    return f


@flax_rule("flax.nnx.custom_vjp: sin of a parameter's product", normal(F, D), normal(D))
def nnx_custom_vjp():
    from flax import nnx

    class Scale(nnx.Module):
        def __init__(self, w):
            self.w = nnx.Param(w)

    @nnx.custom_vjp
    def apply(module, x):
        return jnp.sin(module.w[...] * x)

    def fwd(module, x):
        return apply(module, x), (jnp.cos(module.w[...] * x), module.w[...], x)

    def bwd(res, dy):
        # The module is handed on, as the first of the pair: what comes back for it is added.
        (dmodule, _), dy = dy
        c, w, x = res
        dw = nnx.state(Scale(jnp.sum(dy * c * x, 0)))
        return jax.tree.map(jnp.add, dmodule, dw), dy * c * w

    apply.defvjp(fwd, bwd)
    return lambda x, w: apply(Scale(w), x)


@equinox_rule("equinox.filter_custom_vjp", normal(F, D), normal(D))
def filter_custom_vjp():
    import equinox as eqx

    @eqx.filter_custom_vjp
    def gate(both, act):
        x, w = both
        return act(x * w)

    @gate.def_fwd
    def fwd(perturbed, both, act):
        return gate(both, act), None

    @gate.def_bwd
    def bwd(residuals, dy, perturbed, both, act):
        x, w = both
        _, dact = jax.vjp(act, x * w)
        (dz,) = dact(dy)
        return dz * w, jnp.sum(dz * x, 0).astype(w.dtype)

    return lambda x, w: gate((x, w), jnp.tanh)


@equinox_rule("equinox.filter_custom_jvp", normal(F, D), normal(F, D))
def filter_custom_jvp():
    import equinox as eqx

    @eqx.filter_custom_jvp
    def f(x, z):
        return jnp.sin(x) * z

    @f.def_jvp
    def jvp(primals, tangents):
        (x, z), (dx, dz) = primals, tangents
        dy = jnp.zeros_like(x)
        if dx is not None:
            dy = dy + jnp.cos(x) * z * dx
        if dz is not None:
            dy = dy + jnp.sin(x) * dz
        return f(x, z), dy

    return f


@equinox_rule("equinox.nn.MLP with relu", normal(B, D), weights(F, D), weights(3, F))
def mlp():
    import equinox as eqx

    def f(x, w, u):
        no_bias = {"use_bias": False, "use_final_bias": False}
        net = eqx.nn.MLP(w.shape[1], 3, w.shape[0], 1, key=jax.random.key(0), **no_bias)
        net = eqx.tree_at(lambda m: [layer.weight for layer in m.layers], net, [w, u])
        return jax.vmap(net)(x)

    return f


@equinox_rule(
    "equinox.internal.nextafter",
    normal(F, D),
    reference=lambda x: x + jnp.nextafter(lax.stop_gradient(x), jnp.inf) - lax.stop_gradient(x),
)
def nextafter():
    import equinox.internal as eqxi

    return eqxi.nextafter


@equinox_rule("equinox.error_if", normal(F, D))
def error_if():
    import equinox as eqx

    return lambda x: eqx.error_if(jnp.sin(x), jnp.any(x > 1e30), "too large")


def rounds(x, w):
    """Seven rounds, by a scan."""
    return lax.scan(lambda h, _: (jnp.tanh(h @ w) + 0.5 * h, None), x, None, length=7)[0]


@equinox_rule(
    "equinox.internal.while_loop: checkpointed",
    normal(B, 5),
    weights(5, 5),
    reference=rounds,
    notes="a while loop with a treeverse backward",
)
def checkpointed_loop():
    import equinox.internal as eqxi

    def f(x, w):
        _, h = eqxi.while_loop(
            lambda c: c[0] < 7,
            lambda c: (c[0] + 1, jnp.tanh(c[1] @ w) + 0.5 * c[1]),
            (0, x),
            max_steps=8,
            kind="checkpointed",
            checkpoints=3,
        )
        return h

    return f


def chain(x, w):
    """A product and a tanh for each of the matrices."""
    return lax.scan(lambda h, wi: (jnp.tanh(h @ wi), None), x, w)[0]


@equinox_rule(
    "equinox.internal.scan: checkpointed", normal(B, 5), weights(4, 5, 5), reference=chain
)
def checkpointed_scan():
    import equinox.internal as eqxi

    def step(h, wi):
        return jnp.tanh(h @ wi), None

    return lambda x, w: eqxi.scan(step, x, w, kind="checkpointed", checkpoints=2)[0]
