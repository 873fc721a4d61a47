"""Products, convolutions and lookups, each backward in another way than autodiff's."""

import jax
import jax.numpy as jnp
from jax import lax

from alternatives._rule import B, D, F, Rule, T, V, family, integers, normal, ruled, weights, wide

RULES: list[Rule] = []
rule = family(RULES, "hand")


@rule("dense: einsum", normal(B, T, D), weights(D, F), normal(F))
def dense_einsum():
    def primal(x, w, b):
        return x @ w + b

    def bwd(res, dy):
        x, w = res
        dw = jnp.einsum("btd,btf->df", wide(x), wide(dy))
        dx = jnp.einsum("btf,df->btd", dy, w)
        return dx, dw.astype(w.dtype), jnp.sum(wide(dy), (0, 1)).astype(dy.dtype)

    return ruled(primal, lambda x, w, b: (primal(x, w, b), (x, w)), bwd)


@rule("dense: tensordot", normal(B, T, D), weights(D, F))
def dense_tensordot():
    def bwd(res, dy):
        x, w = res
        dw = jnp.tensordot(wide(x), wide(dy), ((0, 1), (0, 1)))
        return jnp.tensordot(dy, w, (-1, -1)), dw.astype(w.dtype)

    def primal(x, w):
        return jnp.tensordot(x, w, 1)

    return ruled(primal, lambda x, w: (primal(x, w), (x, w)), bwd)


@rule("dense: dw in blocks of rows with an odd tail", normal(F, D), weights(D, F))
def dense_blocked():
    rows = 3

    def bwd(res, dy):
        x, w = res
        n = x.shape[0]
        dw = jnp.zeros(w.shape, wide(w).dtype)
        whole = n - n % rows

        def step(dw, block):
            xs, dys = block
            return dw + wide(xs).T @ wide(dys), None

        blocks = (
            x[:whole].reshape(-1, rows, x.shape[1]),
            dy[:whole].reshape(-1, rows, dy.shape[1]),
        )
        dw, _ = lax.scan(step, dw, blocks)
        dw += wide(x[whole:]).T @ wide(dy[whole:])
        return dy @ w.T, dw.astype(w.dtype)

    return ruled(lambda x, w: x @ w, lambda x, w: (x @ w, (x, w)), bwd)


@rule("dense: accumulated in float32", normal(F, D), weights(D, F))
def dense_accumulated():
    def dot(a, b, axes, dtype):
        return lax.dot_general(wide(a), wide(b), (axes, ((), ()))).astype(dtype)

    def primal(x, w):
        return dot(x, w, ((1,), (0,)), x.dtype)

    def bwd(res, dy):
        x, w = res
        return dot(dy, w, ((1,), (1,)), x.dtype), dot(x, dy, ((0,), (0,)), w.dtype)

    return ruled(primal, lambda x, w: (primal(x, w), (x, w)), bwd)


@rule("dense: a square weight, dw from outer products", normal(F, 6), weights(6, 6))
def dense_outer():
    def bwd(res, dy):
        x, w = res
        dw = jnp.sum(jax.vmap(jnp.outer)(wide(x), wide(dy)), 0)
        return jax.vmap(lambda row: w @ row)(dy), dw.astype(w.dtype)

    return ruled(lambda x, w: x @ w, lambda x, w: (x @ w, (x, w)), bwd)


@rule("bilinear: three arguments", normal(F, 5), normal(5, 7), normal(F, 7))
def bilinear():
    def primal(x, w, z):
        return jnp.einsum("ni,ij,nj->n", wide(x), wide(w), wide(z))

    def bwd(res, dy):
        x, w, z = map(wide, res)
        dx, dw, dz = dy[:, None] * (z @ w.T), (dy[:, None] * x).T @ z, dy[:, None] * (x @ w)
        return tuple(d.astype(a.dtype) for d, a in zip((dx, dw, dz), res, strict=True))

    return ruled(primal, lambda x, w, z: (primal(x, w, z), (x, w, z)), bwd)


@rule("low rank: through the small side", normal(F, D), weights(D, 3), normal(3, F))
def low_rank():
    def primal(x, a, b):
        return ((wide(x) @ wide(a)) @ wide(b)).astype(x.dtype)

    def bwd(res, dy):
        x, a, b = map(wide, res)
        dy = wide(dy)
        dh = dy @ b.T
        grads = (dh @ a.T, x.T @ dh, (x @ a).T @ dy)
        return tuple(d.astype(r.dtype) for d, r in zip(grads, res, strict=True))

    return ruled(primal, lambda x, a, b: (primal(x, a, b), (x, a, b)), bwd)


@rule("tied weights: both uses summed", normal(F, D), weights(D, 5))
def tied_weights():
    def primal(x, w):
        return (jnp.tanh(wide(x) @ wide(w)) @ wide(w).T).astype(x.dtype)

    def bwd(res, dy):
        x, w = map(wide, res)
        h, dy = jnp.tanh(x @ w), wide(dy)
        dz = (dy @ w) * (1 - h * h)
        dw = x.T @ dz + dy.T @ h
        return (dz @ w.T).astype(res[0].dtype), dw.astype(res[1].dtype)

    return ruled(primal, lambda x, w: (primal(x, w), (x, w)), bwd)


def lookup(table, i):
    return table[i]


def lookup_fwd(table, i):
    # A row of the table for its shape and dtype, which are no residuals of their own.
    return table[i], (i, jnp.zeros((0, *table.shape), table.dtype))


@rule("embedding: a one-hot product", normal(V, D), integers(0, V, B, T))
def embedding_one_hot():
    def bwd(res, dy):
        i, like = res
        hot = jax.nn.one_hot(i, like.shape[1], dtype=wide(dy).dtype)
        return jnp.einsum("btv,btd->vd", hot, wide(dy)).astype(like.dtype), None

    return ruled(lookup, lookup_fwd, bwd)


@rule("embedding: scatter-add", normal(V, D), integers(0, V, B, T))
def embedding_scatter():
    def bwd(res, dy):
        i, like = res
        dtable = jnp.zeros(like.shape[1:], wide(dy).dtype).at[i].add(wide(dy))
        return dtable.astype(like.dtype), None

    return ruled(lookup, lookup_fwd, bwd)


@rule("embedding: sorted segment sum", normal(V, D), integers(0, V, B, T))
def embedding_segments():
    def bwd(res, dy):
        i, like = res
        order = jnp.argsort(i.ravel())
        rows = wide(dy).reshape(-1, dy.shape[-1])[order]
        dtable = jax.ops.segment_sum(rows, i.ravel()[order], like.shape[1], indices_are_sorted=True)
        return dtable.astype(like.dtype), None

    return ruled(lookup, lookup_fwd, bwd)


def conv(x, w, **options):
    return lax.conv_general_dilated(x, w, dimension_numbers=("NHC", "HIO", "NHC"), **options)


@rule("convolution: shifted products", normal(B, T, 3), weights(3, 3, 5))
def conv_by_shifts():
    def primal(x, w):
        return conv(x, w, window_strides=(1,), padding="VALID")

    def bwd(res, dy):
        x, w = res
        n = dy.shape[1]
        dw = jnp.stack(
            [jnp.einsum("nti,nto->io", wide(x[:, k : k + n]), wide(dy)) for k in range(3)]
        )
        dx = jnp.zeros(x.shape, wide(x).dtype)
        for k in range(3):
            dx = dx.at[:, k : k + n].add(wide(dy) @ wide(w[k]).T)
        return dx.astype(x.dtype), dw.astype(w.dtype)

    return ruled(primal, lambda x, w: (primal(x, w), (x, w)), bwd)


@rule("convolution: stride 2, dx by dilation of dy", normal(B, T, 3), weights(3, 3, 5))
def conv_strided():
    def primal(x, w):
        return conv(x, w, window_strides=(2,), padding=((1, 1),))

    def bwd(res, dy):
        x, w = res
        t = x.shape[1]
        flipped = jnp.flip(w, 0).swapaxes(1, 2)
        right = t - 2 * (dy.shape[1] - 1) - 1 + 1
        dx = conv(dy, flipped, window_strides=(1,), padding=((1, right),), lhs_dilation=(2,))
        patches = jnp.pad(wide(x), ((0, 0), (1, 1), (0, 0)))
        dw = [
            jnp.einsum("nti,nto->io", patches[:, k : k + 2 * dy.shape[1] - 1 : 2], wide(dy))
            for k in range(3)
        ]
        return dx.astype(x.dtype), jnp.stack(dw).astype(w.dtype)

    return ruled(primal, lambda x, w: (primal(x, w), (x, w)), bwd)


@rule(
    "circular convolution: correlation by FFT",
    normal(F, D),
    normal(D),
    dtypes=("float32", "float64"),
)
def conv_by_fft():
    def multiply(x, w):
        return jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(w), n=x.shape[-1])

    def bwd(res, dy):
        x, w = res
        dy_hat = jnp.fft.rfft(dy)
        dx = jnp.fft.irfft(dy_hat * jnp.conj(jnp.fft.rfft(w)), n=x.shape[-1])
        dw = jnp.fft.irfft(jnp.sum(dy_hat * jnp.conj(jnp.fft.rfft(x)), 0), n=x.shape[-1])
        return dx, dw

    return ruled(multiply, lambda x, w: (multiply(x, w), (x, w)), bwd)


@rule("average pool: repeated", normal(F, 12))
def average_pool():
    def pool(x):
        return jnp.mean(wide(x).reshape(x.shape[0], -1, 4), -1).astype(x.dtype)

    return ruled(pool, lambda x: (pool(x), None), lambda _, dy: (jnp.repeat(dy / 4, 4, -1),))


@rule("inverse: -y^T dy y^T", normal(5, 5, scale=0.2), dtypes=("float32", "float64"))
def inverse():
    def primal(x):
        return jnp.linalg.inv(x + 2 * jnp.eye(5, dtype=x.dtype))

    def fwd(x):
        y = primal(x)
        return y, y

    return ruled(primal, fwd, lambda y, dy: (-y.T @ dy @ y.T,))


@rule(
    "log determinant: the inverse transposed",
    normal(5, 5, scale=0.3),
    dtypes=("float32", "float64"),
)
def log_determinant():
    def primal(x):
        return jnp.linalg.slogdet(x + 2 * jnp.eye(5, dtype=x.dtype))[1]

    def bwd(x, dy):
        return (dy * jnp.linalg.inv(x + 2 * jnp.eye(5, dtype=x.dtype)).T,)

    return ruled(primal, lambda x: (primal(x), x), bwd)
