"""The peer of multi_task.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from multi_task import HIDDEN, OPTIMIZER, PART, accuracy, batch


class Net(eqx.Module):
    trunk: eqx.nn.MLP
    digit: eqx.nn.Linear
    odd: eqx.nn.Linear
    ink: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.trunk = eqx.nn.MLP(64, HIDDEN, HIDDEN, 1, final_activation=jax.nn.relu, key=keys[0])
        self.digit = eqx.nn.Linear(HIDDEN, 10, key=keys[1])
        self.odd = eqx.nn.Linear(HIDDEN, 1, key=keys[2])
        self.ink = eqx.nn.Linear(HIDDEN, 1, key=keys[3])

    def __call__(self, image):
        hidden = self.trunk(image)
        return {"digit": self.digit(hidden), "odd": self.odd(hidden), "ink": self.ink(hidden)}


def counts(target):
    """How many labels each task has."""
    return (target["digit"] >= 0).sum(), target["odd"].weight.sum()


def loss(trained, frozen, part, whole):
    """Of a part of a batch: its sums, divided by what the whole batch has."""
    (images, target), (digits, odds, n) = part, whole
    y = jax.vmap(eqx.combine(trained, frozen))(images)
    seen = target["digit"] >= 0
    digit = optax.softmax_cross_entropy_with_integer_labels(
        y["digit"], jnp.where(seen, target["digit"], 0)
    )
    odd = optax.sigmoid_binary_cross_entropy(y["odd"], target["odd"].target)[:, 0]
    ink = optax.huber_loss(y["ink"], target["ink"])
    value = (seen * digit).sum() / digits + 0.5 * (target["odd"].weight * odd).sum() / odds
    shares = jax.tree.map(lambda a: a * len(images) / n, accuracy(y, target))
    return value + 0.5 * ink.sum() / n, shares


def trunk_frozen(model):
    heads = jax.tree.map(eqx.is_array, model)
    nothing = jax.tree.map(lambda _: False, model.trunk)
    return eqx.tree_at(lambda m: m.trunk, heads, nothing)


def start(key, frozen=False):
    model = Net(key)
    mask = trunk_frozen(model) if frozen else jax.tree.map(eqx.is_array, model)
    trained, rest = eqx.partition(model, mask)
    return trained, rest, OPTIMIZER.init(trained)


@eqx.filter_jit
def step(state, batch, key):
    trained, frozen, opt_state = state
    n = len(batch[0])
    whole = (*counts(batch[1]), n)
    parts = jax.tree.map(lambda a: a.reshape(n // PART, PART, *a.shape[1:]), batch)

    def add(total, part):
        new = eqx.filter_value_and_grad(loss, has_aux=True)(trained, frozen, part, whole)
        return jax.tree.map(jnp.add, total, new), None

    one = jax.tree.map(lambda a: a[0], parts)
    shapes = eqx.filter_eval_shape(
        eqx.filter_value_and_grad(loss, has_aux=True), trained, frozen, one, whole
    )
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    (value, grads), _ = jax.lax.scan(add, zeros, parts)
    updates, opt_state = OPTIMIZER.update(grads, opt_state, trained)
    return (eqx.apply_updates(trained, updates), frozen, opt_state), value


def main(steps=1000):
    key = jax.random.key(0)
    batches = [batch(k) for k in jax.random.split(key, steps)]

    def train(name, state):
        losses = []
        for one in batches:
            state, value = step(state, one, key)
            losses.append(value)
        print(f"{name}: {losses[0]}, after training {losses[-1]}")
        return eqx.combine(*state[:2]), losses

    model, losses = train("loss", start(key))
    trained, rest, opt_state = start(jax.random.key(1), frozen=True)
    rest = eqx.tree_at(lambda m: m.trunk, rest, model.trunk)
    train("new heads on the frozen trunk", (trained, rest, opt_state))
    return losses


if __name__ == "__main__":
    main()
