"""The peer of distillation.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from distillation import OPTIMIZER, accuracy, batch, data


def entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def alone(model, batch):
    images, labels = batch
    logits = jax.vmap(model)(images)
    return entropy(logits, labels), accuracy(logits, labels)


def loss(model, teacher, batch):
    images, labels = batch
    logits, soft = jax.vmap(model)(images), jax.nn.softmax(jax.vmap(teacher)(images) / 3)
    log_p = jax.nn.log_softmax(logits / 3)
    distance = 9 * (soft * (jnp.log(soft) - log_p)).sum(-1).mean()
    return 0.1 * entropy(logits, labels) + 0.9 * distance, accuracy(logits, labels)


TEACHER = eqx.nn.MLP(64, 10, 256, 2, key=jax.random.key(1))


def start(key, model=None):
    model = eqx.nn.MLP(64, 10, 8, 1, key=key) if model is None else model
    return model, OPTIMIZER.init(eqx.filter(model, eqx.is_array))


@eqx.filter_jit
def step(state, batch, key, teacher=TEACHER):
    model, opt_state = state
    if teacher is None:
        value, grads = eqx.filter_value_and_grad(alone, has_aux=True)(model, batch)
    else:
        value, grads = eqx.filter_value_and_grad(loss, has_aux=True)(model, teacher, batch)
    updates, opt_state = OPTIMIZER.update(grads, opt_state, eqx.filter(model, eqx.is_array))
    return (eqx.apply_updates(model, updates), opt_state), value


def main(steps=3000):
    key = jax.random.key(0)
    held_out = jax.tree.map(lambda a: a[1500:], data())

    def train(name, model, teacher):
        state, losses = start(key, model), []
        for k in jax.random.split(key, steps):
            state, value = step(state, batch(k), k, teacher)
            losses.append(value)
        print(f"{name}: right of the 297 held out {alone(state[0], held_out)[1]:.1%}")
        return state[0], losses

    teacher, _ = train("teacher", TEACHER, None)
    train("student alone", None, None)
    return train("student, taught", None, teacher)[1]


if __name__ == "__main__":
    main()
