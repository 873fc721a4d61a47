"""The peer of optimizers.py: the same program in equinox, with jax.grad."""

import equinox as eqx
import jax
import optax
from optax import contrib
from optimizers import batch


class Net(eqx.Module):
    embed: eqx.nn.Linear
    blocks: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.embed = eqx.nn.Linear(64, 32, key=keys[0])
        make = eqx.filter_vmap(lambda k: eqx.nn.MLP(32, 32, 64, 1, key=k))
        self.blocks = make(jax.random.split(keys[1], 2))
        self.head = eqx.nn.Linear(32, 10, key=keys[2])

    def __call__(self, x):
        arrays, static = eqx.partition(self.blocks, eqx.is_array)

        def block(x, arrays):
            return x + eqx.combine(arrays, static)(x), None

        x, _ = jax.lax.scan(block, self.embed(x), arrays)
        return self.head(x)


def axes(model):
    """Of each array, without the axis of blocks."""
    count = jax.tree.map(lambda a: a.ndim, eqx.filter(model, eqx.is_array))
    blocks = jax.tree.map(lambda n: n - 1, count.blocks)
    return eqx.tree_at(lambda m: m.blocks, count, blocks)


# As functions: optax takes a module, which can be called, for one.
AXES = axes(eqx.filter_eval_shape(Net, jax.random.key(0)))
MATRICES = jax.tree.map(lambda n: n == 2, AXES)
OF_MATRIX = contrib.MuonDimensionNumbers(-2, -1)
MUON = jax.tree.map(lambda n: OF_MATRIX if n == 2 else None, AXES)
OPTIMIZERS = {
    "adabelief": optax.adabelief(1e-3),
    "adafactor": optax.adafactor(1e-2),
    "adagrad": optax.adagrad(3e-2),
    "adam": optax.adam(2e-3),
    "adam, clipped": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(2e-3)),
    "adam, averaged": optax.chain(optax.adam(2e-3), optax.ema(0.99)),
    "adamax": optax.adamax(3e-3),
    "adamw": optax.adamw(2e-3, mask=lambda _: MATRICES),
    "adan": optax.adan(2e-3),
    "ademamix": contrib.ademamix(1e-3),
    "cocob": contrib.cocob(),
    "dowg": contrib.dowg(),
    "lamb": optax.lamb(1e-2),
    "lars": optax.lars(1.0),
    "lbfgs": optax.lbfgs(),
    "lion": optax.lion(3e-4),
    "momo_adam": contrib.momo_adam(1e-2),
    "muon": contrib.muon(1e-2, muon_weight_dimension_numbers=lambda _: MUON),
    "nadam": optax.nadam(2e-3),
    "novograd": optax.novograd(1e-2),
    "polyak_sgd": optax.polyak_sgd(1.0),
    "prodigy": contrib.prodigy(),
    "radam": optax.radam(3e-3),
    "rmsprop": optax.rmsprop(1e-3),
    "schedule_free": contrib.schedule_free_adamw(1e-2),
    "sgd": optax.sgd(optax.cosine_decay_schedule(0.02, 300), momentum=0.9, nesterov=True),
    "sm3": optax.sm3(3e-2),
    "yogi": optax.yogi(3e-3),
}


def loss(model, batch):
    images, labels = batch
    logits = jax.vmap(model)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def start(key, optimizer=OPTIMIZERS["muon"]):
    model = Net(key)
    return model, optimizer.init(eqx.filter(model, eqx.is_array))


@eqx.filter_jit
def step(state, batch, key, optimizer=OPTIMIZERS["muon"]):
    model, opt_state = state
    value, grads = eqx.filter_value_and_grad(loss)(model, batch)
    params, static = eqx.partition(model, eqx.is_array)
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
        grads,
        opt_state,
        params,
        value=value,
        grad=grads,
        value_fn=lambda p: loss(eqx.combine(p, static), batch),
    )
    return (eqx.apply_updates(model, updates), opt_state), value


def main(steps=300, names=tuple(OPTIMIZERS)):
    key = jax.random.key(0)
    for name in names:
        state, losses = start(key, OPTIMIZERS[name]), []
        for k in jax.random.split(key, steps):
            state, value = step(state, batch(k), k, OPTIMIZERS[name])
            losses.append(value)
        print(f"{name:16}  loss {sum(losses[-20:]) / 20:.4f}")


if __name__ == "__main__":
    main()
