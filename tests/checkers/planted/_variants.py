"""Rules that are right when called once, alone, and wrong under vmap, twice, or differentiated."""

import jax
import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normals, rule

PRODUCT = normals(((5, 7), (7, 3)), ((64, 128), (128, 32)), 0.5)


def kept(x, w):
    """y = tanh(x w)."""
    return jnp.tanh(x @ w)


def kept_rule(bug=""):
    """The rule keeps x in a variable outside, which other calls overwrite or never renew."""
    f = jax.custom_vjp(kept)
    outside = {}

    def fwd(x, w):
        y = kept(x, w)
        if bug == "first_call_kept":
            outside.setdefault("x", x)
        else:
            outside["x"] = x
        return y, (x, w, y)

    def bwd(res, dy):
        x, w, y = res
        if bug:
            x = outside["x"]
        da = dy * (1 - y**2)
        return da @ w.T, x.T @ da

    f.defvjp(fwd, bwd)
    return f


def _called_twice(f):
    """f at x and at 2 x, both before the first backward."""
    return lambda x, w: f(x, w) + f(2 * x, w)


KEPT = Family("kept", kept, kept_rule, PRODUCT)
KEPT_BUGS = [
    KEPT.bug(
        "last_call_kept",
        "w",
        ("input:residual|call|stale", "variant", "structure"),
        "x is kept in a variable that a second call overwrites: a stale residual.",
        *("VARIANT", "WRONG", "STRUCTURE", "NONDETERMINISTIC"),
        within=_called_twice,
    ),
    KEPT.bug(
        "first_call_kept",
        "w",
        ("input:residual|call|stale", "variant", "structure", "random"),
        "x is kept in a variable that only the first call sets.",
        *("VARIANT", "WRONG", "STRUCTURE", "NONDETERMINISTIC"),
        within=_called_twice,
    ),
]


def batched(x, w):
    """y = x w."""
    return x @ w


def batched_rule(bug=""):
    """dw has its own rule for vmap, as a kernel would."""

    @jax.custom_batching.custom_vmap
    def dw_of(x, dy):
        return x.T @ dy

    @dw_of.def_vmap
    def many(size, batched, x, dy):
        x, dy = (
            a if is_batched else jnp.broadcast_to(a, (size, *a.shape))
            for a, is_batched in zip((x, dy), batched, strict=True)
        )
        dw = jnp.einsum("ani,ano->aio", x, dy)
        if bug == "summed_twice":
            dw = jnp.broadcast_to(dw.sum(0), dw.shape)
        if bug == "mean_over_the_batch":
            dw = dw / size
        if bug == "first_for_all":
            dw = jnp.broadcast_to(dw[0], dw.shape)
        return dw, True

    return rule(batched, lambda x, w, dy: (dy @ w.T, dw_of(x, dy)))


def _mapped(f):
    """f over a batch of three x, with one w."""
    return lambda x, w: jax.vmap(f, (0, None))(jnp.stack([x, 2 * x, -3 * x]), w)


BATCHED = Family("batched", batched, batched_rule, PRODUCT)
BATCHED_BUGS = [
    BATCHED.bug(
        "summed_twice",
        "w",
        ("variant:vmap",),
        "Under vmap the gradient of an unbatched argument is summed twice.",
        "VARIANT",
        within=_mapped,
    ),
    BATCHED.bug(
        "mean_over_the_batch",
        "w",
        ("variant:vmap",),
        "Under vmap dw is divided by the batch.",
        "VARIANT",
        within=_mapped,
    ),
    BATCHED.bug(
        "first_for_all",
        "w",
        ("variant:vmap",),
        "Under vmap every example gets the first one's dw.",
        "VARIANT",
        within=_mapped,
    ),
]


def twice(x):
    """y = x sin(x)."""
    return x * jnp.sin(x)


def twice_rule(bug=""):
    def backward(x, dy):
        if bug == "residual_detached":
            x = jax.lax.stop_gradient(x)
        slope = jnp.sin(x) + x * jnp.cos(x)
        if bug == "not_differentiable":
            shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
            slope = jax.pure_callback(_slope_on_the_host, shape, x, vmap_method="expand_dims")
        if bug == "dy_detached":
            dy = jax.lax.stop_gradient(dy)
        return (dy * slope,)

    return rule(twice, backward)


def _slope_on_the_host(x):
    x = np.asarray(x)
    return (np.sin(x) + x * np.cos(x)).astype(x.dtype)


def _second(f):
    """The gradient of sum(f^2), itself a function to differentiate."""
    return lambda x: jax.grad(lambda x: (f(x) ** 2).sum())(x)


TWICE = Family("twice", twice, twice_rule, normals(((5, 7),), ((64, 128),)))
TWICE_BUGS = [
    TWICE.bug(
        "residual_detached",
        "x",
        ("variant:second|twice|grad of grad",),
        "The second derivative takes the slope for a constant.",
        "VARIANT",
        within=_second,
    ),
    TWICE.bug(
        "not_differentiable",
        "x",
        ("variant:second|twice|grad of grad",),
        "The backward is a callback: it has no second derivative.",
        "VARIANT",
        within=_second,
    ),
    TWICE.bug(
        "dy_detached",
        "x",
        ("variant:second|twice|grad of grad",),
        "The second derivative takes dy for a constant.",
        "VARIANT",
        within=_second,
    ),
]


FAMILIES = [KEPT, BATCHED, TWICE]
BUGS = KEPT_BUGS + BATCHED_BUGS + TWICE_BUGS
