"""Optax's zoo: one small network and every optimizer, by the same step.

    python experiments/zoo/optimizers.py

About 80 seconds on 2 cores of a 2.6 GHz Xeon. Expected: nearly all of it is compiling; each
optimizer brings the loss from 2.5 to below 0.5.
"""

import jax
import jax.numpy as jnp
import optax
from optax import contrib
from sklearn.datasets import load_digits

import fbp


def objective() -> fbp.Objective:
    blocks = fbp.Stack(fbp.Residual(fbp.models.mlp((32, 64, 32))), 2)
    model = fbp.Serial(embed=fbp.Dense(64, 32), blocks=blocks, head=fbp.Dense(32, 10))
    return fbp.Objective(model, fbp.SoftmaxCrossEntropy())


# By the layers' axes: a Stack of biases is not a matrix, though its array has two axes.
MATRICES = jax.tree.map(lambda n: n == 2, fbp.axes(objective()))
OF_MATRIX = contrib.MuonDimensionNumbers(-2, -1)
MUON = jax.tree.map(lambda n: OF_MATRIX if n == 2 else None, fbp.axes(objective()))
OPTIMIZERS = {
    "adabelief": optax.adabelief(1e-3),
    "adafactor": optax.adafactor(1e-2),
    "adagrad": optax.adagrad(3e-2),
    "adam": optax.adam(2e-3),
    "adam, clipped": fbp.Clipped(optax.adam(2e-3), 1.0),
    "adam, averaged": fbp.Averaged(optax.adam(2e-3), 0.99),
    "adamax": optax.adamax(3e-3),
    "adamw": optax.adamw(2e-3, mask=MATRICES),
    "adan": optax.adan(2e-3),
    "ademamix": contrib.ademamix(1e-3),
    "cocob": contrib.cocob(),
    "dowg": contrib.dowg(),
    "lamb": optax.lamb(1e-2),
    "lars": optax.lars(1.0),
    "lbfgs": optax.lbfgs(),
    "lion": optax.lion(3e-4),
    "momo_adam": contrib.momo_adam(1e-2),
    "muon": contrib.muon(1e-2, muon_weight_dimension_numbers=MUON),
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
OPTIMIZER = OPTIMIZERS["muon"]


def batch(key, n=64):
    images, labels = load_digits(return_X_y=True)
    chosen = jax.random.randint(key, (n,), 0, len(images))
    return jnp.asarray(images, jnp.float32)[chosen] / 16, jnp.asarray(labels)[chosen]


def main(steps=300, names=tuple(OPTIMIZERS)):
    key = jax.random.key(0)
    batches = jax.vmap(batch)(jax.random.split(key, steps))
    last = {}
    for name in names:
        state = fbp.state_of(objective().init(key), OPTIMIZERS[name])
        _, losses = fbp.steps_of(objective(), OPTIMIZERS[name])(state, batches)
        last[name] = losses
        print(f"{name:16}  loss {losses[-20:].mean():.4f}")
    return last


if __name__ == "__main__":
    main()
