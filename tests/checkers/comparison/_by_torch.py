"""PyTorch's gradcheck, of a JAX function."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from comparison._case import Case
from comparison._floats import as_dtype, parted
from comparison._record import SLOW
from comparison._said import Said, TooSlow, complaint

ENTRIES = 50_000_000  # of a dense Jacobian: 400 MB, and gradcheck holds several
JACOBIAN = r"Jacobian mismatch|not reentrant|[Nn]umerical gradient for function expected to be zero"


def by_gradcheck(fast: bool, case: Case, f: Callable, args: tuple, limit: float) -> Said:
    """In float64, as torch asks: a Function around the jitted f and its jitted rule."""
    import torch
    from torch.autograd.gradcheck import GradcheckError, gradcheck

    h, floats, others = parted(f, as_dtype(args, "float64"))
    forward, backward = compiled(f, h)
    if not fast:
        outputs = jax.eval_shape(forward, floats, others)
        entries = sum(x.size for x in floats) * sum(y.size for y in outputs)
        if entries > ENTRIES:
            return SLOW, {"message": f"a Jacobian of {entries:.1e} numbers"}
    begin = time.monotonic()

    class Rule(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: Any) -> Any:
            if time.monotonic() - begin > limit:
                raise TooSlow
            ctx.save_for_backward(*xs)
            return tuple(map(to_torch, forward([to_numpy(x) for x in xs], others)))

        @staticmethod
        def backward(ctx: Any, *dys: Any) -> Any:
            if time.monotonic() - begin > limit:
                raise TooSlow
            # The gradient of jax is the conjugate of torch's.
            xs = [to_numpy(x) for x in ctx.saved_tensors]
            dxs = backward(xs, others, tuple(np.conj(to_numpy(dy)) for dy in dys))
            return tuple(to_torch(np.conj(dx)) for dx in dxs)

    def to_torch(x: Any) -> Any:
        return torch.tensor(np.array(x))

    def to_numpy(x: Any) -> np.ndarray:
        return x.detach().resolve_conj().numpy()

    xs = tuple(to_torch(x).requires_grad_() for x in floats)
    check = functools.partial(gradcheck, Rule.apply, xs, fast_mode=fast)
    return complaint(check, GradcheckError, JACOBIAN)


@functools.lru_cache(maxsize=1)
def compiled_once(f: Callable) -> dict[str, tuple[Callable, Callable]]:
    return {}


def compiled(f: Callable, h: Callable) -> tuple[Callable, Callable]:
    """The jitted f and its jitted vjp, the same for all arguments of one tree."""
    kept = compiled_once(f)
    if not kept:

        def backward(floats: Any, others: Any, dys: Any) -> Any:
            return jax.vjp(lambda xs: h(xs, others), floats)[1](dys)[0]

        kept["f"] = (jax.jit(h), jax.jit(backward))
    return kept["f"]
