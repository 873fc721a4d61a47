"""The training steps that are compared."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fbp._layer import Layer
from fbp.bench._modules import equinox_step, flax_step
from fbp.bench._plain import PlainGPT, unstacked
from fbp.bench._sizes import GPTSizes
from fbp.bench._torch import LR, WEIGHT_DECAY, torch_step
from fbp.combinators import Serial, Stack, map_layers
from fbp.interop import from_jax
from fbp.layers import Attention
from fbp.models import NextToken
from fbp.ports import mixed_precision
from fbp.step import state_of, steps_of

# Takes batches (ids, labels), each (steps, B, T), and returns the loss of each step.
Run = Callable[[tuple[np.ndarray, np.ndarray]], Any]


@dataclasses.dataclass(frozen=True)
class Built:
    """A contender that is ready to run.

    Attributes:
      run: takes steps, and returns their losses when they are done.
      compile_seconds: how long XLA took; None if it cannot be measured.
      arguments: bytes of the step's arguments: parameters, optimizer state, batch.
      temporaries: bytes of the step's temporaries, as the compiler reports them.
      peak: returns the most bytes held on the device, or None if the framework does not count them.
    """

    run: Run
    compile_seconds: float | None = None
    arguments: int | None = None
    temporaries: int | None = None
    peak: Callable[[], int | None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Contender:
    """One implementation of the training step.

    Attributes:
      name: the name of its row.
      needs: the package that it is written with.
      build: `build(sizes, params, dtype, steps)`, where steps is the number of steps of a run.
      gpu_only: whether it needs a GPU.
    """

    name: str
    needs: str
    build: Callable[[GPTSizes, Any, Any, int], Built]
    gpu_only: bool = False


def adamw() -> Any:
    """The optimizer of all contenders in JAX."""
    return optax.adamw(LR, weight_decay=WEIGHT_DECAY)


def compiled(lowered: Any) -> tuple[Any, dict[str, Any]]:
    """A compiled program, and its fields of `Built`."""
    began = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - began
    # Equinox wraps the compiled program of JAX.
    memory = getattr(program, "compiled", program).memory_analysis()
    return program, {
        "compile_seconds": seconds,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
    }


def of_objective(objective: Any, params: Any, batches: Any, **options: Any) -> Built:
    """The training steps of an objective, in one scan."""
    optimizer = adamw()
    start = jax.jit(lambda params: state_of(params, optimizer))
    steps: Any = steps_of(objective, optimizer, **options)
    program, cost = compiled(steps.lower(jax.eval_shape(start, params), batches))
    state = None

    def run(batches: Any) -> np.ndarray:
        nonlocal state
        state = start(params) if state is None else state
        state, losses = program(state, batches)
        return np.asarray(losses)

    return Built(run, **cost)


def _plain(**options: Any) -> Callable[..., Built]:
    def build(sizes: GPTSizes, params: Any, dtype: Any, steps: int) -> Built:
        plain = PlainGPT(sizes, dtype, **options)
        return of_objective(
            plain, unstacked(params) if plain.unrolled else params, sizes.batches(steps)
        )

    return build


def cudnn_attention(params: tuple[()], qkv: Any) -> jax.Array:
    """Causal attention by NVIDIA's library, which has a backward of its own."""
    return jax.nn.dot_product_attention(*qkv, is_causal=True, implementation="cudnn")


def _fbp(
    keep: str | int = "everything",
    in_backward: bool = False,
    cudnn: bool = False,
    unrolled: bool = False,
) -> Callable[..., Built]:
    def altered(layer: Layer) -> Layer:
        if isinstance(layer, Stack):
            return (
                Serial(*[layer.layer] * layer.n)
                if unrolled
                else dataclasses.replace(layer, keep=keep)
            )
        return from_jax(cudnn_attention) if cudnn and isinstance(layer, Attention) else layer

    def build(sizes: GPTSizes, params: Any, dtype: Any, steps: int) -> Built:
        model = map_layers(altered, sizes.model())
        if dtype != jnp.float32:
            model = mixed_precision(model, dtype)
        params = unstacked(params) if unrolled else params
        objective = NextToken(model)
        return of_objective(objective, params, sizes.batches(steps), in_backward=in_backward)

    return build


def _module(step: Callable[..., Any]) -> Callable[..., Built]:
    def build(sizes: GPTSizes, params: Any, dtype: Any, steps: int) -> Built:
        run, lower = step(sizes, params, adamw(), dtype)
        _, cost = compiled(lower(*(a[0] for a in sizes.batches(1))))
        return Built(run, **cost)

    return build


def _torch(is_compiled: bool) -> Callable[..., Built]:
    def build(sizes: GPTSizes, params: Any, dtype: Any, steps: int) -> Built:
        run, peak = torch_step(sizes, params, is_compiled, dtype == jnp.bfloat16)
        return Built(run, peak=peak)

    return build


FBP, AUTODIFF = "fbp", "jax.grad"
CONTENDERS = (
    Contender(AUTODIFF, "jax", _plain()),
    Contender("jax.grad, remat: dots", "jax", _plain(keeps="dots")),
    Contender("jax.grad, remat: every dot", "jax", _plain(keeps="every dot")),
    Contender("jax.grad, remat: nothing", "jax", _plain(keeps="nothing")),
    Contender("jax.grad, cuDNN attention", "jax", _plain(attention="cudnn"), gpu_only=True),
    Contender("jax.grad, remat: dots, loss in chunks", "jax", _plain(keeps="dots", chunk=1024)),
    Contender("jax.grad, unrolled", "jax", _plain(unrolled=True)),
    Contender("flax nnx", "flax", _module(flax_step)),
    Contender("equinox", "equinox", _module(equinox_step)),
    Contender("PyTorch eager", "torch", _torch(False)),
    Contender("PyTorch, torch.compile", "torch", _torch(True)),
    Contender(FBP, "fbp", _fbp()),
    Contender("fbp, cuDNN attention", "fbp", _fbp(cudnn=True), gpu_only=True),
    Contender("fbp, unrolled", "fbp", _fbp(unrolled=True)),
    Contender("fbp, keep=inputs", "fbp", _fbp("inputs")),
    Contender("fbp, keep=2", "fbp", _fbp(2)),
    Contender("fbp, in backward", "fbp", _fbp(in_backward=True)),
    Contender("fbp, in backward, keep=inputs", "fbp", _fbp("inputs", True)),
)
