"""Optimal transport of ott-jax, and the mathematics beneath it."""

import jax
import jax.numpy as jnp
import numpy as np
from ott.geometry import costs, pointcloud
from ott.math import fixed_point_loop, matrix_square_root, utils
from ott.solvers import linear
from ott.tools import sinkhorn_divergence

from _libraries._cases import Bug, audit, check, normal, positive_definite, slopes, uniform


def cosines(a, x):
    """Twenty steps of cos(a x), with a rule that differentiates them by their fixed point."""
    return fixed_point_loop.fixpoint_iter_backprop(
        lambda i, a, x: i < 20, lambda i, a, x, compute_error: jnp.cos(a * x), 0, 20, 5, a, x
    )


def _norm_of_zeros():
    """The value that the rule returns under differentiation, and the norm of a zero vector."""
    x = jnp.zeros((1, 3))
    value, _ = jax.vjp(lambda x: utils.norm(x, None, -1, False), x)
    return float(value[0]), float(np.linalg.norm(x))


check("logsumexp", lambda x: utils.logsumexp(x, 1, False), normal(3, 4))
check(
    "logsumexp_weighted",
    lambda x, b: utils.logsumexp(x, 1, False, b),
    normal(3, 4),
    uniform(3, 4, low=0.1),
)
check("softmin", lambda x: utils.softmin(x, 0.5, 1), normal(3, 4))
check(
    "softmin_gamma",
    lambda x, gamma: utils.softmin(x, gamma, 1),
    normal(3, 4),
    np.float32(0.5),
    bug=Bug(
        "WRONG",
        "the gradient by gamma is zero",
        lambda: slopes(lambda gamma: utils.softmin(normal(4), gamma, 0), 0.5),
    ),
)
check(
    "norm",
    lambda x: utils.norm(x, None, -1, False),
    normal(3, 4),
    bug=Bug("STRUCTURE", "under differentiation the norm of zeros is sqrt(n)", _norm_of_zeros),
)
check("lambertw", lambda z: utils.lambertw(z, 1e-8, 100), uniform(4, low=0.1, high=3))
check("sqrtm", lambda x: matrix_square_root.sqrtm(x)[0], positive_definite(3))
check("sqrtm_only", matrix_square_root.sqrtm_only, positive_definite(3))
check("inv_sqrtm_only", matrix_square_root.inv_sqrtm_only, positive_definite(3))
check("fixpoint_iter", cosines, uniform(3, low=0.3, high=0.8), normal(3))


@audit
def sinkhorn():
    def loss(x, y):
        geometry = pointcloud.PointCloud(x, y, epsilon=0.1)
        return linear.solve(geometry).reg_ot_cost

    return loss, normal(6, 2), normal(7, 2, seed=1)


@audit
def sinkhorn_plan():
    def loss(x, y, cost):
        geometry = pointcloud.PointCloud(x, y, epsilon=0.5)
        return jnp.sum(linear.solve(geometry, threshold=1e-5).matrix * cost)

    return loss, normal(4, 2), normal(5, 2, seed=1), normal(4, 5, seed=2)


@audit
def divergence():
    def loss(x, y):
        cloud = pointcloud.PointCloud
        return sinkhorn_divergence.sinkhorn_divergence(cloud, x, y, epsilon=0.3)[0]

    return loss, normal(5, 2), normal(6, 2, seed=1)


@audit
def bures_distance():
    def loss(params, y):
        covariance = params["half"] @ params["half"].T + jnp.eye(2)
        x = jnp.concatenate([params["mean"], covariance.ravel()])
        return costs.Bures(2)(x, y)

    y = np.concatenate([normal(2, seed=1), positive_definite(2).ravel()])
    return loss, {"mean": normal(2), "half": normal(2, 2)}, y
