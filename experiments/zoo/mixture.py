"""A mixture of experts: each token goes to 2 of 4, and a second loss keeps all of them busy.

    python experiments/zoo/mixture.py

About 20 seconds on 2 cores of a 2.6 GHz Xeon. Expected: the loss falls from 2.5 to 0.015, and the
busiest expert has 31 % of the tokens, 25 % at best.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import fbp

WIDTH, EXPERTS, CHOSEN = 64, 4, 2
OPTIMIZER = optax.adam(2e-3)


@dataclasses.dataclass(frozen=True)
class Mix(fbp.Layer):
    """The weighted sum of the chosen experts: y = sum_j w_j e[i_j].

    dw_j = e[i_j] . dy,   de[i_j] = w_j dy
    """

    def forward(self, params, x, key=None):
        experts, weights = self._arrays(x)
        return (weights * experts).sum(0), ()

    def backward(self, params, x, res, dy):
        experts, weights = self._arrays(x)
        dweights = jnp.moveaxis((experts * dy).sum(-1), 0, -1)
        chosen = jnp.take_along_axis(dweights, x["route"]["indices"], -1)
        return (), {"experts": tuple(weights * dy), "route": {"weights": chosen, "indices": None}}

    def _arrays(self, x):
        """All experts' outputs, and their weights, which are 0 for those not chosen."""
        experts, route = jnp.stack(x["experts"]), x["route"]
        here = jnp.arange(len(experts))[:, None, None] == route["indices"]
        return experts, (here * route["weights"]).sum(-1)[..., None]


def objective() -> fbp.Objective:
    model = fbp.Graph(
        inputs="image",
        hidden=(fbp.Serial(fbp.Dense(64, WIDTH), fbp.Gelu()), "image"),
        logits=(fbp.Dense(WIDTH, EXPERTS), "hidden"),
        route=(fbp.TopKRouter(CHOSEN), "logits"),
        experts=(fbp.Parallel(*[fbp.models.mlp((WIDTH, WIDTH, WIDTH))] * EXPERTS), "hidden"),
        mix=(Mix(), {"experts": "experts", "route": "route"}),
        both=(fbp.Add(), ("hidden", "mix")),
        head=(fbp.Dense(WIDTH, 10), "both"),
        output={"label": "head", "balance": "logits"},
    )
    loss = fbp.Losses(
        label=(1.0, fbp.SoftmaxCrossEntropy()), balance=(0.01, fbp.LoadBalance(CHOSEN))
    )
    return fbp.Objective(model, loss, aux=busiest)


def busiest(y, target):
    """The share of the tokens that the busiest expert has; 1 / EXPERTS at best."""
    return jax.nn.one_hot(jax.lax.top_k(y["balance"], CHOSEN)[1], EXPERTS).mean((0, 1)).max()


def batch(key, n=64):
    images, labels = load_digits(return_X_y=True)
    chosen = jax.random.randint(key, (n,), 0, len(images))
    target = {"label": jnp.asarray(labels)[chosen], "balance": jnp.ones(n)}
    return jnp.asarray(images, jnp.float32)[chosen] / 16, target


def main(steps=1000):
    key = jax.random.key(0)
    state = fbp.state_of(objective().init(key), OPTIMIZER)
    batches = jax.vmap(batch)(jax.random.split(key, steps))
    state, (losses, busy) = fbp.steps_of(objective(), OPTIMIZER, has_aux=True)(state, batches)
    print(f"loss {losses[0]:.2f}, after training {losses[-100:].mean():.3f}")
    print(f"share of the busiest expert {busy[-100:].mean():.0%}")
    return losses


if __name__ == "__main__":
    main()
