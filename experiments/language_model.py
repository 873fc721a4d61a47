"""python experiments/language_model.py [--steps N] [--seeds N] [--only REGEX] [--data PATH]
                                        [--json FILE]

About 10 minutes on the 2 cores of a 2.6 GHz Xeon. Expected of one seed after 2,000 steps:

                val loss   bits a byte   ms a step
    fbp            1.200         1.731          61
    jax.grad       1.201         1.732          99
    PyTorch        1.210         1.746          55
    fbp, LSTM      1.065         1.537          72

A GPT of 4 layers, 4 heads, width 128, context 64 and batch 12 learns 1 MiB of the Python standard
library's source, as bytes, for 2,000 steps: by fbp, whose backward is written by hand; by
`jax.grad` of the same model in plain JAX; and by PyTorch, if it is installed. All three start from
the same parameters, see the same windows in the same order, and have the same optimizer: AdamW on
gradients of a norm of at most 1. They take turns, 100 steps each, so that a machine that slows down
slows all of them. An LSTM of as many parameters learns the same windows by fbp.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fbp
from fbp.text import fixed_windows, random_windows, read_text, stdlib_text
from fbp.train.text._recipe import text_optimizer

VOCAB, LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 256, 4, 4, 128, 64, 12
LR, CHUNK = 2e-3, 100

# A contender takes the windows of some steps, returns their losses, and its loss on others.
Train = Callable[[Any], np.ndarray]
Validate = Callable[[Any], float]


def gpt() -> fbp.Layer:
    return fbp.models.gpt2(
        vocab=VOCAB, context=CONTEXT, width=WIDTH, heads=HEADS, layers=LAYERS, tied=True
    )


def by_jax(objective: Any, params: Any, steps: int) -> tuple[Train, Validate]:
    """Scanned steps of an objective."""
    optimizer = text_optimizer(LR, steps)
    state = fbp.state_of(params, optimizer)
    run = fbp.steps_of(objective, optimizer)
    value = jax.jit(objective.value)

    def train(windows: Any) -> np.ndarray:
        nonlocal state
        state, losses = run(state, windows)
        return np.asarray(losses)

    def validate(windows: Any) -> float:
        return float(np.mean([value(state.params, part) for part in zip(*windows, strict=True)]))

    return train, validate


class PlainJax:
    """The same model as one writes it without a library, and `jax.grad`."""

    def value(self, params: Any, batch: Any, key: Any = None) -> Any:
        ids, labels = batch

        def norm(p: Any, x: Any) -> Any:
            centred = x - x.mean(-1, keepdims=True)
            rms = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
            return centred * rms * p["w"] + p["b"]

        def dense(p: Any, x: Any) -> Any:
            return x @ p["w"] + p["b"]

        def block(x: Any, p: Any) -> Any:
            attention, feed_forward = p["attention"], p["feed_forward"]
            qkv = dense(attention["qkv"], norm(attention["norm"], x))
            q, k, v = (a.reshape(*a.shape[:-1], HEADS, -1) for a in jnp.split(qkv, 3, -1))
            y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            x = x + dense(attention["out"], y.reshape(x.shape))
            hidden = dense(feed_forward["up"], norm(feed_forward["norm"], x))
            return x + dense(feed_forward["down"], jax.nn.gelu(hidden)), None

        x = params["embed"]["w"][ids] + params["positions"]["w"][: ids.shape[-1]]
        x, _ = jax.lax.scan(block, x, params["blocks"])
        logits = norm(params["norm"], x) @ params["embed"]["w"].T
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def value_and_grad(self, params: Any, batch: Any, key: Any = None) -> Any:
        return jax.value_and_grad(self.value)(params, batch)


def by_torch(params: Any, steps: int) -> tuple[Train, Validate]:
    """The same model in PyTorch, eager, with its fused attention and its fused AdamW."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    names = {}

    def parameter(path: str, array: Any) -> Any:
        names[path] = torch.nn.Parameter(torch.tensor(np.asarray(array)))
        return names[path]

    embed = parameter("embed.w", params["embed"]["w"])
    positions = parameter("positions.w", params["positions"]["w"])
    last = {n: parameter(f"norm.{n}", params["norm"][n]) for n in "wb"}
    blocks = []
    for i in range(LAYERS):
        block: dict[str, Any] = {}
        for part, layers in params["blocks"].items():
            for layer, arrays in layers.items():
                for name, array in (arrays or {}).items():
                    path = f"{part}.{layer}.{name}"
                    # Transposed once, so that `linear` need not be.
                    one = np.asarray(array[i]).T if array.ndim == 3 else array[i]
                    block[path] = parameter(f"{i}.{path}", np.ascontiguousarray(one))
        blocks.append(block)

    def loss_of(ids: Any, labels: Any) -> Any:
        x = functional.embedding(ids, embed) + positions[: ids.shape[-1]]
        for p in blocks:

            def dense(name: str, x: Any, p: Any = p) -> Any:
                return functional.linear(x, p[f"{name}.w"], p[f"{name}.b"])

            def norm(name: str, x: Any, p: Any = p) -> Any:
                return functional.layer_norm(x, (WIDTH,), p[f"{name}.w"], p[f"{name}.b"])

            qkv = dense("attention.qkv", norm("attention.norm", x))
            q, k, v = (
                a.view(*a.shape[:2], HEADS, -1).transpose(1, 2) for a in qkv.split(WIDTH, -1)
            )
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + dense("attention.out", y.transpose(1, 2).reshape(x.shape))
            hidden = dense("feed_forward.up", norm("feed_forward.norm", x))
            hidden = functional.gelu(hidden, approximate="tanh")
            x = x + dense("feed_forward.down", hidden)
        x = functional.layer_norm(x, (WIDTH,), last["w"], last["b"])
        logits = functional.linear(x, embed)
        return functional.cross_entropy(logits.view(-1, VOCAB), labels.view(-1))

    matrices = [p for path, p in names.items() if path.endswith(".w") and "norm" not in path]
    others = [p for path, p in names.items() if not (path.endswith(".w") and "norm" not in path)]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=1.0,
        betas=(0.9, 0.99),
        fused=True,
    )
    # optax decays by rate * decay too, and PyTorch's groups share one rate: the same update.
    warmup = min(100, steps // 10)
    schedule = optax.warmup_cosine_decay_schedule(LR / (warmup + 1), LR, warmup, steps, LR / 10)
    rates = iter(np.asarray(jax.vmap(schedule)(jnp.arange(steps))))

    def train(windows: Any) -> np.ndarray:
        losses = []
        for ids, labels in zip(*(torch.tensor(a, dtype=torch.int64) for a in windows), strict=True):
            loss = loss_of(ids, labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(names.values(), 1.0)
            rate = float(next(rates))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).numpy()

    def validate(windows: Any) -> float:
        with torch.no_grad():
            parts = zip(*(torch.tensor(a, dtype=torch.int64) for a in windows), strict=True)
            return float(np.mean([loss_of(*part).item() for part in parts]))

    return train, validate


def run(seed: int, steps: int, corpus: Any, only: str = "") -> dict[str, dict[str, float]]:
    """Trains all of them; returns by name the loss held out, bits a byte and seconds."""
    tokens, held_out = (
        np.frombuffer(part.encode(), np.uint8).astype(np.int32)
        for part in (corpus.train, corpus.val)
    )
    draw = random_windows(tokens, BATCH, CONTEXT, seed)
    val = fixed_windows(held_out, CONTEXT, 2**16 // CONTEXT)
    val_parts = tuple(a[: len(a) // 64 * 64].reshape(-1, min(64, len(a)), CONTEXT) for a in val)
    model = gpt()
    params = model.init(jax.random.key(seed))
    lstm = fbp.models.char_lstm(VOCAB, 256, 2)
    builds: dict[str, Callable[[], tuple[Train, Validate]]] = {
        "fbp": lambda: by_jax(fbp.models.NextToken(model), params, steps),
        "jax.grad": lambda: by_jax(PlainJax(), params, steps),
        "PyTorch": lambda: by_torch(params, steps),
        "fbp, LSTM": lambda: by_jax(
            fbp.models.NextToken(lstm), lstm.init(jax.random.key(seed)), steps
        ),
    }
    if importlib.util.find_spec("torch") is None:
        del builds["PyTorch"]
    contenders = {name: build() for name, build in builds.items() if re.search(only, name)}
    seconds = dict.fromkeys(contenders, 0.0)
    first = {}
    for start in range(0, steps, CHUNK):
        windows = draw(start, min(start + CHUNK, steps))
        for name, (train, _) in contenders.items():
            began = time.perf_counter()
            losses = train(windows)
            # The first chunk compiles: it is not counted, for any of them.
            seconds[name] += (time.perf_counter() - began) if start else 0.0
            first.setdefault(name, losses[0])
    gpts = [value for name, value in first.items() if name != "fbp, LSTM"]
    # Float32, and sums in another order.
    assert not gpts or np.ptp(gpts) < 1e-4, f"the first losses differ: {first}"
    results = {}
    for name, (_, validate) in contenders.items():
        loss = validate(val_parts)
        counted = max(1, steps - CHUNK)
        results[name] = {
            "val_loss": loss,
            "bits_per_byte": loss / math.log(2),
            "ms_per_step": 1e3 * seconds[name] / counted,
            "seconds": seconds[name] * steps / counted,
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", metavar="REGEX", default="", help="names of contenders")
    parser.add_argument("--data", type=Path, help="a file or a folder of text")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    corpus = stdlib_text() if args.data is None else read_text(args.data)
    runs = [run(seed, args.steps, corpus, args.only) for seed in range(args.seeds)]
    print(f"{args.steps:,} steps on {corpus.name}, {args.seeds} seed(s), means")
    print(f"{'':12} {'val loss':>9} {'bits/byte':>10} {'ms/step':>8} {'seconds':>8}")
    for name in runs[0]:
        means = [np.mean([one[name][m] for one in runs]) for m in runs[0][name]]
        print(f"{name:12} {means[0]:9.4f} {means[1]:10.3f} {means[2]:8.2f} {means[3]:8.1f}")
    if importlib.util.find_spec("torch") is None:
        print("skipped: torch is not installed")
    if args.json:
        args.json.write_text(json.dumps(runs, indent=2) + "\n")


if __name__ == "__main__":
    main()
