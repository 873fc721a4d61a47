"""Norms and linear solves of lineax."""

import jax.numpy as jnp
import lineax as lx
import lineax.internal as lxi
import numpy as np

from _libraries._cases import audit, check, normal, positive_definite

check("two_norm", lxi.two_norm, normal(5))
check("two_norm_at_zero", lxi.two_norm, np.zeros(3, np.float32))
check("rms_norm", lxi.rms_norm, normal(5))
check("max_norm", lxi.max_norm, normal(5))
check(
    "solve",
    lambda a, b: lx.linear_solve(lx.MatrixLinearOperator(a), b).value,
    normal(3, 3),
    normal(3),
)
check(
    "least_squares",
    lambda a, b: lx.linear_solve(lx.MatrixLinearOperator(a), b, lx.QR()).value,
    normal(5, 3),
    normal(5),
)
check(
    "conjugate_gradients",
    lambda a, b: (
        lx.linear_solve(
            lx.MatrixLinearOperator(a, lx.positive_semidefinite_tag), b, lx.CG(1e-6, 1e-6)
        ).value
    ),
    positive_definite(3),
    normal(3),
)


@audit
def two_solves():
    def loss(params, b):
        a = params["half"] @ params["half"].T + jnp.eye(4)
        operator = lx.MatrixLinearOperator(a, lx.positive_semidefinite_tag)
        x = lx.linear_solve(operator, b, lx.CG(1e-6, 1e-6)).value
        beside = 0.1 * params["diagonal"][1:]
        banded = lx.TridiagonalLinearOperator(jnp.exp(params["diagonal"]), beside, beside)
        return jnp.sum(x**2) + lxi.two_norm(lx.linear_solve(banded, b).value)

    return loss, {"half": normal(4, 4), "diagonal": normal(4, seed=1)}, normal(4, seed=2)
