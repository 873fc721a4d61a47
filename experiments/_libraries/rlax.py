"""Losses of reinforcement learning by rlax."""

import jax
import jax.numpy as jnp
import numpy as np
import rlax

from _libraries._cases import Bug, audit, check, normal, slopes

ACTIONS = np.array([0, 1, 2, 1, 0])


def clipped(x):
    return rlax.clip_gradient(x, -0.1, 0.1)


CLIPS = Bug("WRONG", "deliberately not the gradient", lambda: slopes(clipped, 1.0))

check("clip_gradient", clipped, normal(4), bug=CLIPS)


@audit
def actor_critic():
    def loss(params, seen, actions, rewards):
        logits, values = seen @ params["policy"], (seen @ params["value"])[:, 0]
        log_ratio = rlax.softmax().logprob(actions, logits[:-1]) + 1
        discounts = jnp.full(rewards.shape, 0.9)
        out = rlax.vtrace_td_error_and_advantage(
            values[:-1], values[1:], rewards, discounts, jnp.exp(log_ratio)
        )
        ones = jnp.ones(rewards.shape)
        policy = rlax.policy_gradient_loss(logits[:-1], actions, out.pg_advantage, ones)
        entropy = rlax.entropy_loss(logits[:-1], ones)
        gate = jax.nn.softplus(params["value"]).sum()
        return jnp.mean(out.errors**2) + policy + 0.01 * entropy + 0.01 * gate

    params = {"policy": normal(4, 3), "value": normal(4, 1)}
    return loss, params, normal(6, 4, seed=1), ACTIONS, normal(5, seed=2)


@audit(bug=CLIPS)
def clipped_q_learning():
    def loss(params, s, actions, rewards, s1):
        def q(x):
            return jax.nn.relu(x @ params["w"]) @ params["v"]

        discounts = jnp.full(rewards.shape, 0.9)
        td = jax.vmap(rlax.double_q_learning)(q(s), actions, rewards, discounts, q(s1), q(s1))
        return rlax.huber_loss(rlax.clip_gradient(td, -0.1, 0.1)).mean()

    params = {"w": normal(4, 6), "v": normal(6, 3)}
    return loss, params, normal(5, 4, seed=1), ACTIONS, normal(5, seed=2), normal(5, 4, seed=3)


@audit
def model_of_the_world():
    def loss(params, s, actions, targets):
        def step(h, action):
            h = jax.nn.relu(h @ params["state"] + params["action"][action])
            h = h * 0.5 + jax.lax.stop_gradient(h) * 0.5
            return h, (h @ params["value"], h @ params["policy"])

        _, (values, logits) = jax.lax.scan(step, jax.nn.relu(s @ params["state"]), actions)
        missed = rlax.signed_hyperbolic(values) - targets
        return jnp.mean(missed**2) + jnp.mean(jax.nn.logsumexp(logits, -1))

    params = {
        "state": normal(4, 4),
        "action": normal(3, 4),
        "value": normal(4),
        "policy": normal(4, 3),
    }
    return loss, params, normal(4, seed=1), np.array([0, 2, 1]), normal(3, seed=2)
