"""Transformations and energies of jax_md."""

import jax
import jax.numpy as jnp
from jax_md import energy, quantity, space

from _libraries._cases import Bug, audit, check, normal, slopes, uniform

IN_REAL_SPACE = Bug(
    "WRONG",
    "deliberately, the gradient by the positions is not multiplied by the box",
    lambda: slopes(lambda x: space.transform(2 * jnp.eye(3), x * jnp.ones(3))[0], 1.0),
)

check("transform", space.transform, normal(3, 3), normal(5, 3, seed=1), bug=IN_REAL_SPACE)


@audit(bug=IN_REAL_SPACE)
def pressed_box():
    def loss(box, positions):
        displacement, _ = space.periodic_general(box)
        total = energy.soft_sphere_pair(displacement, sigma=0.5)
        return jnp.tanh(total(positions, box=box)) + jnp.linalg.slogdet(box)[1]

    return loss, jnp.eye(3) * 2 + 0.1 * normal(3, 3), uniform(6, 3)


@audit
def fitted_forces():
    displacement, _ = space.periodic(2.0)

    def loss(params, positions, wanted):
        def total(positions):
            pair = energy.morse_pair(
                displacement, sigma=jax.nn.softplus(params["sigma"]), alpha=params["alpha"]
            )
            return pair(positions)

        return jnp.mean((quantity.force(total)(positions) - wanted) ** 2)

    params = {"sigma": jnp.float32(0.3), "alpha": jnp.float32(2.0)}
    return loss, params, uniform(5, 3, high=2), normal(5, 3, seed=1)
