"""The peer of actor_critic.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from actor_critic import HIDDEN, clipped, play

ACTOR, CRITIC = optax.adam(1e-3), optax.adam(3e-3)


def actor_loss(actor, played):
    seen, target = played
    return clipped(jax.vmap(actor)(seen), target["actor"])


def critic_loss(critic, played):
    seen, target = played
    return optax.huber_loss(jax.vmap(critic)(seen), target["critic"]).mean()


def start(key):
    keys = jax.random.split(key)
    actor = eqx.nn.MLP(4, 2, HIDDEN, 1, jnp.tanh, key=keys[0])
    critic = eqx.nn.MLP(4, 1, HIDDEN, 1, jnp.tanh, key=keys[1])
    states = (
        ACTOR.init(eqx.filter(actor, eqx.is_array)),
        CRITIC.init(eqx.filter(critic, eqx.is_array)),
    )
    return (actor, critic), states


@eqx.filter_jit
def step(state, played, key):
    (actor, critic), (actor_state, critic_state) = state
    acts, grads = eqx.filter_value_and_grad(actor_loss)(actor, played)
    updates, actor_state = ACTOR.update(grads, actor_state)
    actor = eqx.apply_updates(actor, updates)
    expects, grads = eqx.filter_value_and_grad(critic_loss)(critic, played)
    updates, critic_state = CRITIC.update(grads, critic_state)
    critic = eqx.apply_updates(critic, updates)
    return ((actor, critic), (actor_state, critic_state)), (acts, expects)


@eqx.filter_jit
def played(key, nets):
    return play(key, lambda seen: tuple(jax.vmap(net)(seen) for net in nets))


def main(rounds=60, epochs=8):
    key = jax.random.key(0)
    state, falls = start(key), []
    for k in jax.random.split(key, rounds):
        examples = played(k, state[0])
        falls.append(examples[1]["fell"].mean())
        for _ in range(epochs):
            state, _ = step(state, examples, k)
    print(
        f"of 100 steps a pole falls in {100 * falls[0]:.1f}, after training {100 * falls[-1]:.2f}"
    )
    return falls


if __name__ == "__main__":
    main()
