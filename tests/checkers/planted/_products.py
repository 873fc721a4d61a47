"""Products of matrices beyond one layer: low rank, batches, a residual connection."""

import jax.numpy as jnp

from planted._bug import Family, normals, rule


def lora(x, w, a, b):
    """y = x w + (2 / rank) x a b."""
    return x @ w + 2 / a.shape[1] * (x @ a @ b)


def lora_rule(bug=""):
    def backward(x, w, a, b, dy):
        scale = 2 / a.shape[1]
        da = scale * x.T @ (dy @ b.T)
        db = scale * (x @ a).T @ dy
        dx = dy @ w.T + scale * (dy @ b.T) @ a.T
        if bug == "scale_missing":
            da, db = da / scale, db / scale
        if bug == "dx_without_adapter":
            dx = dy @ w.T
        return dx, x.T @ dy, da, db

    return rule(lora, backward)


LORA = Family(
    "lora",
    lora,
    lora_rule,
    normals(((5, 7), (7, 11), (7, 3), (3, 11)), ((64, 128), (128, 96), (128, 8), (8, 96)), 0.5),
)
LORA_BUGS = [
    LORA.bug("scale_missing", "a b", ("factor", "term"), "da and db lack the scale 2 / rank."),
    LORA.bug("dx_without_adapter", "x", ("term:drop", "along"), "dx lacks the low-rank path."),
]


def bmm(a, b):
    """A batch of matrix products."""
    return jnp.einsum("bij,bjk->bik", a, b)


def bmm_rule(bug=""):
    def backward(a, b, dy):
        da = jnp.einsum("bik,bjk->bij", dy, b)
        db = jnp.einsum("bij,bik->bjk", a, dy)
        if bug == "indices_swapped":
            db = jnp.einsum("bij,bik->bkj", a, dy)
        if bug == "contracts_wrong_index":
            da = jnp.einsum("bik,bkj->bij", dy, b)
        if bug == "batch_summed":
            da = jnp.broadcast_to(da.sum(0), da.shape)
        return da, db

    return rule(bmm, backward)


BMM_SQUARE = normals(((3, 5, 5), (3, 5, 5)), ((8, 32, 32), (8, 32, 32)))
BMM = Family("bmm", bmm, bmm_rule, normals(((3, 5, 7), (3, 7, 2)), ((8, 32, 48), (8, 48, 16))))
BMM_BUGS = [
    BMM.bug("indices_swapped", "b", ("transpose",), "db has j and k swapped.", args=BMM_SQUARE),
    BMM.bug(
        "contracts_wrong_index",
        "a",
        ("term:transpose|dot_general", "input:b"),
        "da contracts dy with the wrong axis of b.",
        args=BMM_SQUARE,
    ),
    BMM.bug(
        "batch_summed",
        "a",
        ("constant", "term", "along"),
        "Every product gets the gradient of the whole batch.",
    ),
]


def residual(x, w):
    """y = x + tanh(x w)."""
    return x + jnp.tanh(x @ w)


def residual_rule(bug=""):
    def backward(x, w, dy):
        da = dy * (1 - jnp.tanh(x @ w) ** 2)
        dx = dy + da @ w.T
        if bug == "skip_lost":
            dx = da @ w.T
        if bug == "branch_lost":
            dx = dy
        return dx, x.T @ da

    return rule(residual, backward)


RESIDUAL = Family(
    "residual", residual, residual_rule, normals(((5, 7), (7, 7)), ((64, 128), (128, 128)), 0.5)
)
RESIDUAL_BUGS = [
    RESIDUAL.bug("skip_lost", "x", ("term:drop", "along:dy"), "dx lacks the skip connection."),
    RESIDUAL.bug("branch_lost", "x", ("term:drop",), "dx lacks the branch."),
]

FAMILIES = [LORA, BMM, RESIDUAL]
BUGS = LORA_BUGS + BMM_BUGS + RESIDUAL_BUGS
