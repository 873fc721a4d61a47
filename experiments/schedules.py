"""python experiments/schedules.py [--rounds N] [--places T ...]

About 2 minutes on 2 cores of an AMD EPYC that others used too, with jax 0.10.2. Expected there, of
64, 256, 512 and 1,024 places,

    blocks of queries      1.51   1.56   1.89   2.05
    a few heads            1.18   2.12   2.40   1.77
    sums by columns        0.95   1.13   1.49   1.35
    one matrix product     1.02   1.00   1.00   1.00

What each item of `fbp/_schedules` buys on the machine that is here: the time without it over the
time with it, forward and backward, the median over rounds in which all take turns. An item whose
figures are all about 1 on the newest jax is needless. A GPU has two more, `kernels` and `aligned
head`.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import fbp
from fbp._schedules import attention, unembed
from fbp.layers import _dense


def summed_by_rows(parts: Sequence[Any], seen: Sequence[slice], like: Any) -> Any:
    total = jnp.zeros(like.shape, jnp.float32)
    for part, keys in zip(parts, seen, strict=True):
        total = total.at[..., keys, :].add(part)
    return total


def product_over_all_axes(x: Any, dy: Any) -> Any:
    return jnp.einsum("...i,...o->io", x, dy, preferred_element_type=jnp.float32)


# What takes the place of an item.
ATTENTION = {
    "blocks of queries": (attention, "_BLOCKS", ((1, 1),)),
    "a few heads": (attention, "_FEWEST_SCORES", float("inf")),
    "sums by columns": (attention, "_summed", summed_by_rows),
    "kernels": (attention, "_kernels", lambda *args: None),
}
DENSE = {"one matrix product": (_dense, "product_over_batch", product_over_all_axes)}
HEAD = {"aligned head": (unembed, "_FEWEST_LOGITS", float("inf"))}
ON_A_GPU = {"kernels", "aligned head"}


@contextlib.contextmanager
def without(module: Any, name: str, other: Any) -> Iterator[None]:
    kept = getattr(module, name)
    setattr(module, name, other)
    yield
    setattr(module, name, kept)


def attend(t: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    layer = fbp.Attention(causal=True)

    def run(x: Any, dy: Any) -> Any:
        y, res = layer.forward((), x)
        return y, layer.backward((), x, res, dy)

    q, k, v, dy = (
        jax.random.normal(key, (max(1, 4096 // t), t, 8, 32))
        for key in jax.random.split(jax.random.key(0), 4)
    )
    return run, ((q, k, v), dy)


def dense(t: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    layer = fbp.Dense(256, 1024)
    x, dy = jnp.ones((max(1, 4096 // t), t, 256)), jnp.ones((max(1, 4096 // t), t, 1024))
    return lambda params: layer.backward(params, x, (), dy), (layer.init(jax.random.key(0)),)


def head(t: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    loss = fbp.UnembedCrossEntropy(256, 10_007)
    y, labels = jnp.ones((2, t, 256)), jnp.zeros((2, t), int)
    return lambda params: loss.value_and_grad(params, y, labels), (loss.init(jax.random.key(0)),)


def ratios(make: Any, items: dict[str, Any], t: int, rounds: int) -> dict[str, float]:
    """For each item the time without it over the time with all."""
    f, args = make(t)
    programs = {"all": jax.jit(f).lower(*args).compile()}
    for name, item in items.items():
        with without(*item):
            jax.clear_caches()
            programs[name] = jax.jit(lambda *args: f(*args)).lower(*args).compile()
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds + 1):  # the first is left out
        for name, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(*args))
            seconds[name].append(time.perf_counter() - began)
    return {
        name: statistics.median(
            a / b for a, b in zip(seconds[name][1:], seconds["all"][1:], strict=True)
        )
        for name in items
    }


def main(places: Sequence[int] = (64, 256, 512, 1024), rounds: int = 31) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.device_kind}, of {' '.join(map(str, places))} places")
    for make, items in ((attend, ATTENTION), (dense, DENSE), (head, HEAD)):
        here = {n: i for n, i in items.items() if n not in ON_A_GPU or device.platform == "gpu"}
        if here:
            columns = [ratios(make, here, t, rounds) for t in places]
            found |= {name: [column[name] for column in columns] for name in here}
    for name, row in found.items():
        print(f"  {name:20}" + "".join(f"{ratio:7.2f}" for ratio in row))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="turns of each program")
    parser.add_argument("--places", type=int, nargs="+", default=[64, 256, 512, 1024], metavar="T")
    options = parser.parse_args()
    main(options.places, options.rounds)
