"""An encoder-decoder learns to sort: it reads letters in any order and writes them in order.

    python experiments/zoo/seq2seq.py

About 30 seconds on 2 cores of a 2.6 GHz Xeon. Expected: 98.7 % of the letters are right.
"""

import jax
import jax.numpy as jnp
import optax

import fbp

LETTERS, LENGTH, WIDTH, HEADS = 16, 8, 48, 4
OPTIMIZER = optax.adam(2e-3)


def objective() -> fbp.Objective:
    cross = fbp.models.cross_attention(WIDTH, HEADS)
    encoder = fbp.Serial(embed=embedding(LETTERS), attend=attention(causal=False), mlp=mlp())
    model = fbp.Graph(
        inputs=("read", "written"),
        encoder=(encoder, "read"),
        embed=(embedding(LETTERS + 1), "written"),
        before=(attention(causal=True), "embed"),
        norm=(fbp.LayerNorm(WIDTH), "before"),
        cross=(cross, ("norm", "encoder")),
        joined=(fbp.Add(), ("before", "cross")),
        decoder=(fbp.Serial(mlp(), fbp.LayerNorm(WIDTH), fbp.Dense(WIDTH, LETTERS)), "joined"),
        output="decoder",
    )
    return fbp.Objective(model, fbp.SoftmaxCrossEntropy(), shifted, accuracy)


def embedding(n):
    return fbp.Serial(letters=fbp.Embedding(n, WIDTH), positions=fbp.Positions(LENGTH, WIDTH))


def attention(causal):
    return fbp.Residual(
        fbp.Serial(
            norm=fbp.LayerNorm(WIDTH),
            qkv=fbp.Dense(WIDTH, 3 * WIDTH),
            split=fbp.SplitHeads(HEADS),
            attend=fbp.Attention(causal=causal),
            merge=fbp.MergeHeads(),
            out=fbp.Dense(WIDTH, WIDTH),
        )
    )


def mlp():
    net = fbp.models.mlp((WIDTH, 2 * WIDTH, WIDTH), fbp.Gelu())
    return fbp.Residual(fbp.Serial(norm=fbp.LayerNorm(WIDTH), net=net))


def shifted(letters, key):
    """The decoder reads what it has written so far: first a mark, then the letters in order."""
    ordered = jnp.sort(letters)
    written = jnp.pad(ordered, ((0, 0), (1, 0)), constant_values=LETTERS)[:, :-1]
    return (letters, written), ordered


def accuracy(logits, letters):
    return jnp.mean(logits.argmax(-1) == letters)


def batch(key, n=64):
    return jax.random.randint(key, (n, LENGTH), 0, LETTERS)


def main(steps=1000):
    key = jax.random.key(0)
    state = fbp.state_of(objective().init(key), OPTIMIZER)
    batches = jax.vmap(batch)(jax.random.split(key, steps))
    state, (losses, right) = fbp.steps_of(objective(), OPTIMIZER, has_aux=True)(state, batches)
    print(f"letters right {right[0]:.0%}, after training {right[-100:].mean():.1%}")
    return losses


if __name__ == "__main__":
    main()
