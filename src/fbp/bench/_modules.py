"""The benchmark's GPT in Flax NNX and in Equinox, each in the style of its documentation."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fbp.bench._sizes import GPTSizes


def _mean_loss(logits: Any, labels: Any) -> Any:
    logits = logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def flax_step(sizes: GPTSizes, params: Any, optimizer: Any, dtype: Any) -> Any:
    """Returns `run(batches) -> losses`, by nnx.jit over the model and nnx.Optimizer, and
    `lower(ids, labels)`, which lowers one step."""
    from flax import nnx

    rngs = nnx.Rngs(0)

    def linear(p: Any, i: int) -> Any:
        made: Any = nnx.Linear(*p["w"].shape[1:], dtype=dtype, rngs=rngs)
        made.kernel[...], made.bias[...] = p["w"][i], p["b"][i]
        return made

    def layer_norm(w: Any, b: Any) -> Any:
        made: Any = nnx.LayerNorm(sizes.width, epsilon=1e-5, dtype=dtype, rngs=rngs)
        made.scale[...], made.bias[...] = w, b
        return made

    class Block(nnx.Module):
        def __init__(self, p: Any, i: int) -> None:
            attention, feed_forward = p["attention"], p["feed_forward"]
            self.norm1 = layer_norm(*(attention["norm"][n][i] for n in "wb"))
            self.norm2 = layer_norm(*(feed_forward["norm"][n][i] for n in "wb"))
            self.qkv, self.out = linear(attention["qkv"], i), linear(attention["out"], i)
            self.up, self.down = linear(feed_forward["up"], i), linear(feed_forward["down"], i)

        def __call__(self, x: Any) -> Any:
            q, k, v = (
                a.reshape(*a.shape[:-1], sizes.heads, -1)
                for a in jnp.split(self.qkv(self.norm1(x)), 3, axis=-1)
            )
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.reshape(x.shape))
            return x + self.down(nnx.gelu(self.up(self.norm2(x))))

    class GPT(nnx.Module):
        def __init__(self, p: Any) -> None:
            self.embed = nnx.Embed(sizes.vocab, sizes.width, dtype=dtype, rngs=rngs)
            self.embed.embedding[...] = p["embed"]["w"]
            self.positions = nnx.Param(jnp.asarray(p["positions"]["w"]))
            self.blocks = nnx.List([Block(p["blocks"], i) for i in range(sizes.layers)])
            self.norm = layer_norm(p["norm"]["w"], p["norm"]["b"])

        def __call__(self, ids: Any) -> Any:
            x = self.embed(ids) + self.positions[...].astype(dtype)
            for block in self.blocks:
                x = block(x)
            return self.embed.attend(self.norm(x))

    @nnx.jit(donate_argnames=("gpt", "optimizer"))
    def train_step(gpt: GPT, optimizer: nnx.Optimizer, ids: Any, labels: Any) -> Any:
        value, grads = nnx.value_and_grad(lambda gpt: _mean_loss(gpt(ids), labels))(gpt)
        optimizer.update(gpt, grads)
        return value

    gpt = GPT(params)
    state = nnx.Optimizer(gpt, optimizer, wrt=nnx.Param)
    step = nnx.cached_partial(train_step, gpt, state)

    def run(batches: Any) -> list[float]:
        return [float(loss) for loss in [step(*batch) for batch in zip(*batches, strict=True)]]

    def lower(ids: Any, labels: Any) -> Any:
        return train_step.lower(gpt, state, ids, labels)

    return run, lower


def equinox_step(sizes: GPTSizes, params: Any, optimizer: Any, dtype: Any) -> Any:
    """Returns `run(batches) -> losses`, by filter_jit and filter_value_and_grad over the model, and
    `lower(ids, labels)`, which lowers one step."""
    import equinox as eqx

    key = jax.random.key(0)

    def linear(p: Any, i: int) -> Any:
        made = eqx.nn.Linear(*p["w"].shape[1:], key=key)
        arrays = jnp.asarray(p["w"][i].T), jnp.asarray(p["b"][i])
        return eqx.tree_at(lambda m: (m.weight, m.bias), made, arrays)

    def layer_norm(w: Any, b: Any) -> Any:
        made = eqx.nn.LayerNorm(sizes.width, eps=1e-5)
        return eqx.tree_at(lambda m: (m.weight, m.bias), made, (jnp.asarray(w), jnp.asarray(b)))

    class Block(eqx.Module):
        norm1: Any
        norm2: Any
        qkv: Any
        out: Any
        up: Any
        down: Any

        def __init__(self, p: Any, i: int) -> None:
            attention, feed_forward = p["attention"], p["feed_forward"]
            self.norm1 = layer_norm(*(attention["norm"][n][i] for n in "wb"))
            self.norm2 = layer_norm(*(feed_forward["norm"][n][i] for n in "wb"))
            self.qkv, self.out = linear(attention["qkv"], i), linear(attention["out"], i)
            self.up, self.down = linear(feed_forward["up"], i), linear(feed_forward["down"], i)

        def __call__(self, x: Any) -> Any:  # (T, D)
            qkv = jax.vmap(self.qkv)(jax.vmap(self.norm1)(x))
            q, k, v = (a.reshape(len(a), sizes.heads, -1) for a in jnp.split(qkv, 3, axis=-1))
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            x = x + jax.vmap(self.out)(y.reshape(x.shape))
            hidden = jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norm2)(x)))
            return x + jax.vmap(self.down)(hidden)

    class GPT(eqx.Module):
        embed: Any
        positions: Any
        blocks: list
        norm: Any

        def __init__(self, p: Any) -> None:
            self.embed = jnp.asarray(p["embed"]["w"])
            self.positions = jnp.asarray(p["positions"]["w"])
            self.blocks = [Block(p["blocks"], i) for i in range(sizes.layers)]
            self.norm = layer_norm(p["norm"]["w"], p["norm"]["b"])

        def __call__(self, ids: Any) -> Any:
            x = self.embed[ids] + self.positions
            for block in self.blocks:
                x = block(x)
            return jax.vmap(self.norm)(x) @ self.embed.T

    def objective(gpt: GPT, ids: Any, labels: Any) -> Any:
        gpt = jax.tree.map(lambda a: a.astype(dtype) if eqx.is_inexact_array(a) else a, gpt)
        return _mean_loss(jax.vmap(gpt)(ids), labels)

    def take(batch: Any, gpt: GPT, opt_state: Any) -> Any:
        value, grads = eqx.filter_value_and_grad(objective)(gpt, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(gpt, eqx.is_array))
        return eqx.apply_updates(gpt, updates), opt_state, value

    step: Any = eqx.filter_jit(take, donate="all-except-first")
    gpt = GPT(params)
    state = gpt, optimizer.init(eqx.filter(gpt, eqx.is_array))

    def run(batches: Any) -> list[float]:
        nonlocal state
        losses = []
        for batch in zip(*batches, strict=True):
            *state, value = step(batch, *state)
            losses.append(value)
        return [float(loss) for loss in losses]

    def lower(ids: Any, labels: Any) -> Any:
        return step.lower((ids, labels), *state)

    return run, lower
