"""A vision transformer of handwritten digits: an image as a sentence of 16 patches.

    python experiments/zoo/vit.py

About 70 seconds on 2 cores of a 2.6 GHz Xeon. Expected: 88 % of the 297 held-out digits are right:
they are of other writers.
"""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import fbp

WIDTH, HEADS, BLOCKS, PATCHES = 48, 4, 3, 16
OPTIMIZER = optax.adamw(2e-3)


def objective() -> fbp.Objective:
    attention = fbp.Serial(
        norm=fbp.LayerNorm(WIDTH),
        qkv=fbp.Dense(WIDTH, 3 * WIDTH),
        split=fbp.SplitHeads(HEADS),
        attend=fbp.Attention(),
        merge=fbp.MergeHeads(),
        out=fbp.Dense(WIDTH, WIDTH),
    )
    mlp = fbp.Serial(
        norm=fbp.LayerNorm(WIDTH), mlp=fbp.models.mlp((WIDTH, 4 * WIDTH, WIDTH), fbp.Gelu())
    )
    model = fbp.Serial(
        patches=fbp.Conv2D(1, WIDTH, 2, stride=2, padding="VALID"),
        flat=fbp.Flatten(3),
        sequence=fbp.Unflatten((PATCHES, WIDTH)),
        positions=fbp.Positions(PATCHES, WIDTH),
        blocks=fbp.Stack(fbp.Serial(fbp.Residual(attention), fbp.Residual(mlp)), BLOCKS),
        norm=fbp.LayerNorm(WIDTH),
        image=fbp.Serial(fbp.Flatten(2), fbp.Unflatten((4, 4, WIDTH)), fbp.GlobalAvgPool2D()),
        head=fbp.Dense(WIDTH, 10),
    )
    return fbp.Objective(model, fbp.SoftmaxCrossEntropy(), aux=accuracy)


def accuracy(logits, labels):
    return jnp.mean(logits.argmax(-1) == labels)


def data():
    images, labels = load_digits(return_X_y=True)
    return jnp.asarray(images, jnp.float32).reshape(-1, 8, 8, 1) / 16, jnp.asarray(labels)


def batch(key, n=64):
    images, labels = data()
    chosen = jax.random.randint(key, (n,), 0, 1500)
    return images[chosen], labels[chosen]


def main(steps=1500):
    key = jax.random.key(0)
    state = fbp.state_of(objective().init(key), OPTIMIZER)
    batches = jax.vmap(batch)(jax.random.split(key, steps))
    state, (losses, _) = fbp.steps_of(objective(), OPTIMIZER, has_aux=True)(state, batches)
    held_out = jax.tree.map(lambda a: a[1500:], data())
    _, right = objective().value(state.params, held_out, has_aux=True)
    print(f"loss {losses[0]:.2f}, after training {losses[-100:].mean():.3f}")
    print(f"right of the 297 held out {right:.1%}")
    return losses


if __name__ == "__main__":
    main()
