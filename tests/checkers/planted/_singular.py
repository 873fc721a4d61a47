"""Gradients that are not finite at the input that is given, where the function's own are."""

import jax.numpy as jnp
import numpy as np

from planted._bug import Family, normal, normals, rule, sizes
from planted._jvp import jvp_rule

ROWS = normals(((5, 7),), ((64, 128),))


def at_zero_row(rng, size):
    """A matrix with a row of zeros."""
    (x,) = ROWS(rng, size)
    x[2] = 0
    return (x,)


def length(x):
    """The norm of each row; that of a zero row is constant 0."""
    square = (x * x).sum(1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _inverse(norm, bug):
    return 1 / norm if bug else jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)


def length_rule(bug=""):
    return rule(length, lambda x, dy: ((dy * _inverse(length(x), bug))[:, None] * x,))


LENGTH = Family("length", length, length_rule, at_zero_row)


def length_jvp_rule(bug=""):
    return jvp_rule(length, lambda x, xt: _inverse(length(x), bug) * (x * xt).sum(1))


LENGTH_JVP = Family("length_jvp", length, length_jvp_rule, at_zero_row)


def unit(x):
    """Each row over its norm; a zero row stays."""
    norm = length(x)[:, None]
    return x / jnp.where(norm > 0, norm, 1)


def unit_rule(bug=""):
    def backward(x, dy):
        norm = length(x)[:, None]
        if not bug:
            norm = jnp.where(norm > 0, norm, 1)
        y = x / norm
        return ((dy - y * (y * dy).sum(1, keepdims=True)) / norm,)

    return rule(unit, backward)


UNIT = Family("unit", unit, unit_rule, at_zero_row)


def power(x, p):
    """x^p of x >= 0, where x > 0; else 0."""
    positive = x > 0
    return jnp.where(positive, jnp.where(positive, x, 1) ** p, 0)


def power_rule(bug=""):
    def backward(x, p, dy):
        positive = x > 0
        safe = jnp.where(positive, x, 1)
        dx = jnp.where(positive, dy * p * safe ** (p - 1), 0)
        log = jnp.log(x) if bug == "log_of_zero" else jnp.log(safe)
        if bug == "power_below_zero":
            dx = dy * positive * p * x ** (p - 1)
        return dx, (dy * power(x, p) * log).sum()

    return rule(power, backward)


def _with_zeros(rng, size):
    (x,) = normals(((9,),), ((256,),))(rng, size)
    x = np.abs(x)
    x[[1, 4]] = 0
    return x, np.float32(0.7)


POWER = Family("power_at_zero", power, power_rule, _with_zeros)


def masked_root(x, mask):
    """sqrt(x) where mask, else 0; what is masked may be 0."""
    return jnp.where(mask, jnp.sqrt(jnp.where(mask, x, 1)), 0)


def masked_root_rule(bug=""):
    def backward(x, mask, dy):
        safe = x if bug else jnp.where(mask, x, 1)
        return dy * mask * 0.5 / jnp.sqrt(safe), None

    return rule(masked_root, backward)


def _with_masked_zeros(rng, size):
    (x,) = at_zero_row(rng, size)
    return np.abs(x), x != 0


ROOT = Family("masked_root", masked_root, masked_root_rule, _with_masked_zeros)


def entropy(p):
    """The sum of -p log p, of the p above 0."""
    safe = jnp.where(p > 0, p, 1)
    return -(safe * jnp.log(safe)).sum(-1)


def entropy_rule(bug=""):
    def backward(p, dy):
        safe = p if bug else jnp.where(p > 0, p, 1)
        return (-dy[:, None] * (p > 0) * (jnp.log(safe) + 1),)

    return rule(entropy, backward)


def _distributions(rng, size):
    (x,) = ROWS(rng, size)
    p = np.maximum(x, 0)
    return ((p / p.sum(1, keepdims=True)).astype(np.float32),)


ENTROPY = Family("entropy_at_zero", entropy, entropy_rule, _distributions)


def cube(a):
    """S^3 of the symmetric part S of a."""
    s = (a + a.T) / 2
    return s @ s @ s


def cube_rule(bug=""):
    """dS = dy S S + S dy S + S S dy; or V ((V^T dy V) * F) V^T by eigenvalues.

    F are the divided differences of the cube.
    """

    def backward(a, dy):
        s = (a + a.T) / 2
        ds = dy @ s @ s + s @ dy @ s + s @ s @ dy
        if bug == "offdiagonal":
            lam, v = jnp.linalg.eigh(s)
            p, q = lam[:, None], lam[None, :]
            f = (p**3 - q**3) / (p - q)
            f = jnp.where(np.eye(len(lam), dtype=bool), 3 * p**2, f)
            ds = v @ ((v.T @ dy @ v) * f) @ v.T
        return ((ds + ds.T) / 2,)

    return rule(cube, backward)


def _repeated(rng, size):
    (n,) = sizes(size, (5,), (32,))
    a = np.diag(np.arange(1, n + 1)).astype(np.float32)
    a[1, 1] = a[2, 2]
    return (a,)


CUBE = Family("cube_of_eigenvalues", cube, cube_rule, _repeated)


def cosine(a, b):
    """The cosine of rows of a and b; 0 if one of them is zero."""
    return (unit(a) * unit(b)).sum(1)


def cosine_rule(bug=""):
    def backward(a, b, dy):
        na, nb = length(a)[:, None], length(b)[:, None]
        if not bug:
            na, nb = jnp.where(na > 0, na, 1), jnp.where(nb > 0, nb, 1)
        u, v = a / na, b / nb
        c = (u * v).sum(1, keepdims=True)
        return dy[:, None] * (v - c * u) / na, dy[:, None] * (u - c * v) / nb

    return rule(cosine, backward)


def _one_zero(rng, size):
    return at_zero_row(rng, size)[0], normal(rng, *sizes(size, (5, 7), (64, 128)))


COSINE = Family("cosine_of_zero", cosine, cosine_rule, _one_zero)


def angle(c):
    """arccos(c) within (-1, 1); 0 from 1 on."""
    inside = jnp.abs(c) < 1
    return jnp.where(inside, jnp.arccos(jnp.where(inside, c, 0)), 0)


def angle_rule(bug=""):
    def backward(c, dy):
        inside = jnp.abs(c) < 1
        safe = jnp.clip(c, -1, 1) if bug else jnp.where(inside, c, 0)
        return (-dy * inside / jnp.sqrt(1 - safe**2),)

    return rule(angle, backward)


def _with_ones(rng, size):
    (x,) = ROWS(rng, size)
    c = np.tanh(x)
    c[1, 1] = 1
    c[3, 0] = -1
    return (c,)


ANGLE = Family("angle_at_one", angle, angle_rule, _with_ones)


def features(x):
    """Each column less its mean over its standard deviation, 1e-5 added to its variance."""
    off = x - x.mean(0)
    return off / jnp.sqrt((off**2).mean(0) + 1e-5)


def features_rule(bug=""):
    def backward(x, dy):
        off = x - x.mean(0)
        var = (off**2).mean(0)
        rstd = 1 / jnp.sqrt(var + 1e-5)
        y = off * rstd
        projection = y * (dy * y).mean(0)
        if bug == "over_the_variance":
            projection = off * (dy * off).mean(0) / var * (var / (var + 1e-5))
        return (rstd * (dy - dy.mean(0) - projection),)

    return rule(features, backward)


def _constant_column(rng, size):
    (x,) = ROWS(rng, size)
    x[:, 3] = 0.5
    return (x,)


FEATURES = Family("features", features, features_rule, _constant_column)

FAMILIES = [LENGTH, LENGTH_JVP, UNIT, POWER, ROOT, ENTROPY, CUBE, COSINE, ANGLE, FEATURES]
_PLANTED = [
    (LENGTH, "zero_row", "x", "0 / 0 in a zero row."),
    (LENGTH_JVP, "zero_row", "x", "0 / 0 in a zero row."),
    (UNIT, "zero_row", "x", "0 / 0 in a zero row."),
    (POWER, "log_of_zero", "p", "0 log 0 where x is 0."),
    (POWER, "power_below_zero", "x", "0^(p - 1) is infinite, times 0."),
    (ROOT, "masked_zero", "x", "1 / sqrt(0) under the mask, times 0."),
    (ENTROPY, "log_of_zero", "p", "log 0 times 0."),
    (CUBE, "offdiagonal", "a", "0 / 0 where two eigenvalues are equal."),
    (COSINE, "zero_row", "a b", "0 / 0 where a row is zero."),
    (ANGLE, "at_one", "c", "1 / sqrt(1 - c^2) at c = 1, times 0."),
    (FEATURES, "over_the_variance", "x", "0 / 0 in a constant column."),
]
BUGS = [
    family.bug(name, leaves, ("nonfinite",), says, "RANGE", "WRONG")
    for family, name, leaves, says in _PLANTED
]
